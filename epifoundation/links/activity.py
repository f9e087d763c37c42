"""Accessibility of peaks in cells, as levels like those of the atlas."""

from __future__ import annotations

import numpy as np

# Levels of the elements of a sample of the atlas by rank, means over samples: the 20,000th has 2.67
RANKS = [1, 10_000, 20_000, 40_000, 60_000, 80_000, 100_000, 125_000, 150_000, 200_000, 300_000]
USUAL_LEVELS = [3.94, 2.96, 2.67, 2.11, 1.71, 1.39, 1.11, 0.83, 0.62, 0.36, 0.16]


def usual_levels(n_peaks: int) -> np.ndarray:
    """Levels of the `n_peaks` most accessible elements of a usual sample, descending."""
    return np.interp(np.arange(1, n_peaks + 1), RANKS, USUAL_LEVELS)


def match_levels(activity: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Levels in the order of `activity` and with the distribution of `levels`, (n_peaks,).

    Peaks of equal activity get the mean level of their ranks.

    Parameters
    ----------
    activity
        Number of cells in which each peak is open, (n_peaks,).
    levels
        Levels of as many elements, in any order.
    """
    _, group, size = np.unique(activity, return_inverse=True, return_counts=True)
    total = np.add.reduceat(np.sort(levels), np.cumsum(size) - size)
    return (total / size)[group]


def nearest_sample(activity: np.ndarray, levels: np.ndarray) -> int:
    """The sample whose levels are most correlated with the activity.

    Parameters
    ----------
    activity
        Number of cells in which each peak is open, (n_peaks,).
    levels
        Levels of the same peaks in samples, (n_peaks, n_samples).
    """
    ranked = match_levels(activity, np.arange(len(activity)))
    centred = levels - levels.mean(axis=1, keepdims=True)
    centred = centred - centred.mean(axis=0)
    length = np.maximum(np.linalg.norm(centred, axis=0), 1e-9)
    return int(np.argmax((ranked - ranked.mean()) @ centred / length))
