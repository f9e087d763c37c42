"""The readout of kernel ridge regression against its formula, cell by cell."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from epifoundation.nn import KernelReadout, kernel


def made(n_inputs=4, n_landmarks=6, n_outputs=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    readout = KernelReadout(n_inputs, n_landmarks, n_outputs)
    for tensor in readout.state_dict().values():
        tensor.copy_(torch.randn(tensor.shape, generator=generator))
    readout.width.fill_(2.5)
    readout.scale.abs_().add_(0.2)
    return readout


@given(st.integers(1, 8), st.integers(1, 10), st.integers(1, 4), st.integers(0, 2**31))
def test_it_is_the_formula(n_inputs, n_landmarks, n_outputs, seed):
    readout = made(n_inputs, n_landmarks, n_outputs, seed)
    cells = torch.randn(5, n_inputs, generator=torch.Generator().manual_seed(seed + 1))
    state = {name: tensor.double().numpy() for name, tensor in readout.state_dict().items()}
    before = cells.clone()
    found = readout(cells)
    for cell, outputs in zip(cells.double().numpy(), found.numpy(), strict=True):
        expected = state["base"].copy()
        standard = (cell - state["center"]) / state["scale"]
        for landmark, weight in zip(state["landmarks"], state["weight"], strict=True):
            expected += np.exp(-np.square(standard - landmark).sum() / 2.5) * weight
        np.testing.assert_allclose(outputs, expected, atol=1e-4)
    assert torch.equal(cells, before)


def test_a_cell_at_a_landmark_is_like_it_and_one_far_away_has_the_base():
    readout = made()
    at = readout.landmarks * readout.scale + readout.center
    similar = readout.similarities(at)
    torch.testing.assert_close(similar.diagonal(), torch.ones(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(similar, similar.T, atol=1e-5, rtol=0)
    assert ((similar >= 0) & (similar <= 1)).all()
    torch.testing.assert_close(readout(at + 1000), readout.base.expand(6, -1))


def test_cells_without_open_peaks_stay_nan_and_change_no_other():
    readout = made()
    cells = torch.randn(5, 4)
    with_nan = cells.clone()
    with_nan[2] = torch.nan
    found = readout(with_nan)
    assert found[2].isnan().all()
    others = [0, 1, 3, 4]
    torch.testing.assert_close(found[others], readout(cells)[others])


def test_equal_rows_have_a_similarity_of_one_wherever_they_lie():
    """The square of a small distance between large numbers is never below 0."""
    rows = torch.randn(50, 30) * 100
    similar = kernel(rows, rows.clone(), torch.tensor(1e-3))
    assert (similar <= 1).all()
    assert similar.isfinite().all()


def test_without_landmarks_it_is_the_base():
    readout = made(n_landmarks=0)
    torch.testing.assert_close(readout(torch.randn(3, 4)), readout.base.expand(3, -1))
