"""Heads for expression as it is measured, against their formulas."""

import numpy as np
import torch

from epifoundation.nn import LinearMeasuredHead, MeasuredHead


def test_means_of_clusters_are_weighed_by_memberships():
    head = LinearMeasuredHead(3, 2)
    head.weight.copy_(torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]))
    cells = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5], [1.2, -0.2, 0.0]])
    expected = torch.tensor([[0.0, 1.0], [3.0, 4.0], [0.0, 0.6]])  # instead of -0.4, 0
    torch.testing.assert_close(head(cells), expected)
    torch.testing.assert_close(head(cells, torch.tensor([1])), expected[:, [1]])
    with_labels = torch.cat([cells, torch.full((3, 4), 9.0)], dim=1)  # columns that are not read
    torch.testing.assert_close(head(with_labels), expected)
    predict = head.predictor(torch.tensor([1, 0]))
    torch.testing.assert_close(predict(cells, torch.tensor([0, 1, 0])), expected[:, [1, 0]])
    assert head(torch.full((1, 3), torch.nan)).isnan().all()


def test_it_is_a_kernel_between_landmarks_and_the_base_far_from_them():
    rng = np.random.default_rng(0)
    head = MeasuredHead(4, 3, 5)
    head.landmarks.copy_(torch.from_numpy(rng.normal(size=(3, 4))))
    head.weight.copy_(torch.from_numpy(rng.normal(size=(3, 5))))
    head.base.copy_(torch.from_numpy(rng.random(5)))
    head.width.fill_(1.7)
    cells = rng.normal(size=(6, 4)).astype(np.float32)
    expected = np.tile(head.base.numpy().astype(float), (6, 1))
    for i in range(6):
        for j in range(3):
            distance = np.square(cells[i] - head.landmarks[j].numpy()).sum()
            expected[i] += np.exp(-distance / 1.7) * head.weight[j].numpy()
    found = head(torch.from_numpy(cells))
    np.testing.assert_allclose(found, np.maximum(expected, 0), atol=1e-5)
    assert (expected < 0).any()
    some = torch.tensor([4, 1])
    np.testing.assert_allclose(head(torch.from_numpy(cells), some), found[:, some], atol=1e-6)
    np.testing.assert_allclose(head(torch.full((1, 4), 100.0))[0], head.base)
    assert head(torch.full((1, 4), torch.nan)).isnan().all()
    with_labels = torch.cat([torch.from_numpy(cells), torch.full((6, 2), 9.0)], dim=1)
    np.testing.assert_allclose(head(with_labels), found)
