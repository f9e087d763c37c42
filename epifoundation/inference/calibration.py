"""Calibrate probabilities of open peaks on the cells themselves, and measure how well it works."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

MAX_KNOTS = 30
MIN_OPEN = 100  # open peaks for each knot
LOW, HIGH, STEP = -20.0, 5.0, 0.05  # bins of the logarithm of the expected number of fragments
FINE = 0.01  # spacing at which a curve is evaluated
EDGES = [0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]  # of the reliability table


class Counts(NamedTuple):
    """Pairs of a cell and a peak by their expected number of fragments: sums for each bin."""

    n: np.ndarray
    expected: np.ndarray
    n_open: np.ndarray

    @classmethod
    def zero(cls) -> Counts:
        """No pairs."""
        return cls(*(np.zeros(round((HIGH - LOW) / STEP)) for _ in cls._fields))

    def add(self, expected: torch.Tensor, cell: torch.Tensor, peak: torch.Tensor) -> None:
        """Count all pairs of some cells; peak ``peak[i]`` is open in row ``cell[i]``."""
        bins = ((expected.log().clamp_(LOW, HIGH) - LOW) / STEP).long().clamp_(max=len(self.n) - 1)
        flat, size = bins.ravel(), len(self.n)
        self.n[:] += torch.bincount(flat, minlength=size).cpu().numpy()
        sums = torch.bincount(flat, expected.ravel().double(), minlength=size)
        self.expected[:] += sums.cpu().numpy()
        self.n_open[:] += torch.bincount(bins[cell, peak], minlength=size).cpu().numpy()

    def used(self) -> Counts:
        """Only bins that have pairs."""
        return Counts(*(each[self.n > 0] for each in self))


class Curve(NamedTuple):
    """Calibrated over predicted expected number of fragments, both logarithms, at knots.

    Linear between knots and parallel to the diagonal outside of them; it increases strictly, so the
    order of peaks does not change.
    """

    predicted: np.ndarray
    calibrated: np.ndarray

    def __call__(self, expected: torch.Tensor) -> torch.Tensor:
        """The calibrated expected numbers."""
        at = np.arange(LOW, HIGH + FINE, FINE)  # evenly spaced: a search takes four times as long
        low, high = self.predicted[0] - at[-1] + LOW, self.predicted[-1] + at[-1] - LOW
        knots = np.concatenate([[low], self.predicted, [high]])
        first, last = self.calibrated[0] - at[-1] + LOW, self.calibrated[-1] + at[-1] - LOW
        values = np.interp(at, knots, np.concatenate([[first], self.calibrated, [last]]))
        value = torch.from_numpy(values).to(expected)
        x = expected.clamp(min=1e-30).log()
        inside = x.clamp(LOW, HIGH - FINE)
        place = (inside - LOW).div_(FINE)
        part = place.long()
        left = value.take(part)
        change = value.take(part + 1).sub_(left).mul_(place.sub_(part))
        return left.add_(change).add_(x.sub_(inside)).exp_()


def fit_curve(counts: Counts) -> Curve:
    """Isotonic regression of open peaks; the identity if fewer than `MIN_OPEN` are open."""
    from scipy.optimize import isotonic_regression

    n, expected, n_open = counts.used()
    n_knots = min(int(n_open.sum() // MIN_OPEN), MAX_KNOTS)
    if n_knots == 0:
        return Curve(np.zeros(1), np.zeros(1))
    before = np.cumsum(n_open) - n_open / 2
    knot = np.minimum((before / n_open.sum() * n_knots).astype(int), n_knots - 1)
    n, expected, n_open = (
        np.bincount(knot, each)[np.unique(knot)] for each in (n, expected, n_open)
    )
    mean = expected / n
    rate = (n_open - np.expm1(-mean)) / (n + 1)  # as if one more pair had been seen
    fit = isotonic_regression(rate, weights=n)
    first = fit.blocks[:-1]
    mean = np.add.reduceat(expected, first) / np.add.reduceat(n, first)
    return Curve(np.log(mean), np.log(-np.log1p(-fit.x[first])))


def reliability(halves: Iterable[Counts]) -> tuple[pd.DataFrame, dict[str, float]]:
    """Predicted and observed fraction of open peaks, and the expected calibration error.

    The curve of each half of the cells is applied to the other half.

    Returns
    -------
    One row per range of the calibrated probability: ``predicted``, ``observed``, ``uncalibrated``
    (mean prediction without the curve) and ``n`` (pairs of a cell and a peak). And the errors
    ``calibrated`` and ``uncalibrated``, each by ranges of its own prediction.
    """
    first, second = halves
    parts = []
    for fitted, judged in ((first, second), (second, first)):
        n, expected, n_open = judged.used()
        mean = torch.from_numpy(expected / np.maximum(n, 1))
        after = -torch.expm1(-fit_curve(fitted)(mean)).numpy()
        parts.append(np.stack([n, after, -np.expm1(-mean.numpy()), n_open / n]))
    n, after, before, observed = np.concatenate(parts, axis=1)
    errors = {}
    for name, predicted in (("calibrated", after), ("uncalibrated", before)):
        table = _by_range(predicted, {"predicted": predicted, "observed": observed}, n)
        gap = (table["predicted"] - table["observed"]).abs()
        errors[name] = float((gap * table["n"]).sum() / max(n.sum(), 1))
    columns = {"predicted": after, "observed": observed, "uncalibrated": before}
    return _by_range(after, columns, n), errors


def _by_range(key: np.ndarray, columns: dict[str, np.ndarray], n: np.ndarray) -> pd.DataFrame:
    """Means of columns, weighted by `n`, over ranges of `key`."""
    part = np.searchsorted(EDGES, key, side="right")
    rows = np.unique(part)
    size = np.bincount(part, n)[rows]
    table = {name: np.bincount(part, n * each)[rows] / size for name, each in columns.items()}
    bounds = [0, *EDGES, 1]
    index = [f"{bounds[i]:g}-{bounds[i + 1]:g}" for i in rows]
    return pd.DataFrame(table | {"n": size.astype(np.int64)}, index=index)
