"""Probabilities of the populations of an atlas, and the heads that read them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_atlas import make

from epifoundation.nn.populations import Populations

DIM, TYPE_OF = 5, [-1, -1, 0, 1, 1, 1]


def populations(seed=0):
    rng = np.random.default_rng(seed)
    found = Populations(DIM, len(TYPE_OF), 2)
    directions = rng.normal(size=(len(TYPE_OF), DIM))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    found.directions.copy_(torch.from_numpy(directions))
    found.contrasts.copy_(torch.from_numpy(rng.normal(size=(DIM, 2))))
    found.type_of.copy_(torch.tensor(TYPE_OF))
    return found


@given(st.integers(0, 1000), st.floats(0.01, 30))
def test_probabilities_add_up_and_do_not_depend_on_other_cells(seed, size):
    z = torch.from_numpy(np.random.default_rng(seed).normal(size=(7, DIM)) * size).float()
    found = populations(seed)
    first, others = found(z, 2)
    torch.testing.assert_close(first.sum(1) + others.sum(1), torch.ones(7))
    alone = [torch.cat(found(each[None], 2), dim=1) for each in z]
    torch.testing.assert_close(torch.cat(alone), torch.cat([first, others], dim=1))


def test_the_first_step_is_a_softmax_of_limited_evidence_with_a_prior():
    z, found = torch.randn(4, DIM, generator=torch.Generator().manual_seed(1)) * 3, populations()
    found.sharpness.copy_(torch.tensor([0.7, 1.0]))
    found.prior.fill_(0.3)
    c = (z @ found.directions.T).clamp(min=0)
    evidence = 0.35 * c**2 / (1 + (z**2).sum(1, keepdim=True) / 30)
    weight = evidence.exp() * torch.tensor([0.3 / 2, 0.3 / 2, 0.35, 0.35 / 3, 0.35 / 3, 0.35 / 3])
    weight /= weight.sum(1, keepdim=True)
    first, others = found(z, 2)
    torch.testing.assert_close(first.sum(1), weight[:, :2].sum(1))
    torch.testing.assert_close(others[:, 0], weight[:, 2])
    torch.testing.assert_close(others[:, 1], weight[:, 3:].sum(1))


def test_without_evidence_the_prior_remains():
    first, others = populations()(torch.zeros(1, DIM), 2)
    assert first.sum().item() == pytest.approx(0.5)
    torch.testing.assert_close(others[0], torch.tensor([0.25, 0.25]))


def test_nothing_is_unexplained_along_a_profile_and_all_beside_it():
    found = populations()
    along = found.directions[3:4] * 7
    assert found.unexplained(along).item() == pytest.approx(0, abs=1e-6)
    beside = torch.linalg.svd(found.directions)[2][-1:]  # the best of nothing
    assert found.unexplained(beside).item() > 0.2


def test_expression_is_a_mean_of_populations_and_missing_outside_of_the_family():
    model, _ = make()
    head, populations_ = model.network.expression, model.network.label.populations
    z = torch.cat([populations_.directions * 8, populations_.directions[:1] * 0.01])
    predicted, (first, _) = head(z), populations_(z, 2)
    weights = first[:, head.sorted_of]
    is_known = weights.sum(1) >= 0.5
    assert is_known.tolist()[3:6] == [False, False, False]
    assert is_known[0]
    assert predicted[~is_known].isnan().all()
    expected = weights / weights.sum(1, keepdim=True) @ head.mean
    torch.testing.assert_close(predicted[is_known], expected[is_known])
    some = head.predictor(torch.tensor([4, 1]))(z, None)
    torch.testing.assert_close(some, predicted[:, [4, 1]], equal_nan=True)


def test_labels_add_up_the_populations_of_a_label():
    head = make()[0].network.label
    z = torch.randn(6, 6, generator=torch.Generator().manual_seed(0)) * 4
    first, others = head.populations(z, 2)
    expected = torch.stack([first[:, 0] + first[:, 1], first[:, 2], *others.T], dim=1)
    torch.testing.assert_close(head(z), expected)
