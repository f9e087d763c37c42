"""Calibration curves: strictly increasing, exact for planted curves, sums of pairs."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from epifoundation.inference.calibration import Counts, Curve, fit_curve, reliability


def draw(rng, truth, n_cells=150, n_peaks=400):
    """Counts of cells whose peaks are open by `truth` of the expected number."""
    expected = np.exp(rng.normal(-2, 1.2, (n_cells, n_peaks))).astype(np.float32)
    rows, peaks = np.nonzero(rng.random(expected.shape) < -np.expm1(-truth(expected)))
    counts = Counts.zero()
    counts.add(*map(torch.from_numpy, (expected, rows, peaks)))
    return counts, expected, rows


def test_a_planted_curve_is_found_and_errors_become_small():
    rng = np.random.default_rng(0)
    truth = lambda x: 1.5 * x**1.3  # noqa: E731
    first, expected, rows = draw(rng, truth)
    second, *_ = draw(rng, truth)
    assert first.n.sum() == expected.size
    assert first.n_open.sum() == len(rows)
    np.testing.assert_allclose(first.expected.sum(), expected.sum(), rtol=1e-4)
    at = torch.tensor([0.05, 0.1, 0.3, 1.0])
    np.testing.assert_allclose(fit_curve(first)(at), truth(at), rtol=0.15)
    table, error = reliability((first, second))
    assert error["calibrated"] < 0.25 * error["uncalibrated"]
    assert table["n"].sum() == 2 * expected.size
    many = table[table["n"] > 500]
    np.testing.assert_allclose(many["predicted"], many["observed"], atol=0.04)


@given(st.integers(0, 10_000))
def test_curves_increase_strictly(seed):
    rng = np.random.default_rng(seed)
    counts, *_ = draw(rng, lambda x: x * rng.uniform(0, 3, x.shape), n_cells=10, n_peaks=200)
    x = torch.logspace(-8, 2, 300, dtype=torch.float64)
    y = fit_curve(counts)(x)
    assert torch.isfinite(y).all()
    assert (y.diff() > 0).all()


def test_no_pairs_are_not_calibrated():
    curve = fit_curve(Counts.zero())
    assert curve == Curve(np.zeros(1), np.zeros(1))
    x = torch.tensor([0.1, 2.0])
    np.testing.assert_allclose(curve(x), x, rtol=1e-6)
    table, error = reliability((Counts.zero(), Counts.zero()))
    assert len(table) == 0
    assert error == {"calibrated": 0.0, "uncalibrated": 0.0}
