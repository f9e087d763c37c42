"""The number of fragments that separates cells from background barcodes."""

from __future__ import annotations

import itertools

import numpy as np

STEP = 0.02  # of the grid, in decades
BANDWIDTH = 0.08  # in decades, of many barcodes; wider if there are few
MIN_DEPTH = 0.3  # of a valley, as a fraction of the lower of its two peaks
MIN_IN_CELLS = 0.2  # fraction of the fragments that lie right of a valley
USUAL = 1000  # a usual minimum for whole genomes, if there is no valley
MOST = 0.9  # fraction of the fragments that must remain with it


def cell_threshold(n_fragments: np.ndarray) -> tuple[int, bool]:
    """The minimal number of fragments of a cell, and whether it separates two groups of barcodes.

    Cells and background are two peaks of the density of log10 of the number of fragments, and the
    threshold is the lowest point of the deepest valley between two peaks, as in UMI-tools (Smith et
    al. 2017, Genome Research, 10.1101/gr.209601.116). A barcode counts with the square root of its
    fragments, since there may be a hundred times as many background barcodes as cells. Without a
    valley, it is 1,000 if barcodes with as many have most of the fragments, else the lowest number.

    Parameters
    ----------
    n_fragments
        Number of fragments of each barcode, at least one barcode.
    """
    counts, n_barcodes = np.unique(n_fragments[n_fragments > 0], return_counts=True)
    if not len(counts):
        return 0, False
    valley = _valley(counts, n_barcodes)
    in_cells = _fraction_from(valley, counts, n_barcodes)
    if valley > counts[0] and in_cells >= MIN_IN_CELLS:
        return valley, True
    if _fraction_from(USUAL, counts, n_barcodes) >= MOST:
        return USUAL, counts[0] >= USUAL
    return int(counts[0]), False


def _fraction_from(threshold: int, counts: np.ndarray, n_barcodes: np.ndarray) -> float:
    """Fraction of the fragments that are in barcodes with at least `threshold`."""
    fragments = counts * n_barcodes
    return float(fragments[counts >= threshold].sum() / fragments.sum())


def _valley(counts: np.ndarray, n_barcodes: np.ndarray) -> int:
    """The lowest point between two peaks of the density, or 0."""
    from scipy.ndimage import gaussian_filter1d

    # Each count fills its interval on the logarithmic axis: 1 that from 0.5 to 1.5
    sides = np.log10(np.stack([counts - 0.5, counts + 0.5], axis=1).ravel())
    weight = np.cumsum(n_barcodes * np.sqrt(counts))
    below = np.stack([np.append(0, weight[:-1]), weight], axis=1).ravel()
    grid = np.arange(np.log10(0.5), sides[-1] + 0.5, STEP)
    bandwidth = max(BANDWIDTH, 0.5 * n_barcodes.sum() ** -0.2)
    density = np.diff(np.interp(grid, sides, below, left=0))
    density = gaussian_filter1d(density, bandwidth / STEP, mode="nearest")
    inner = np.pad(density, 1, constant_values=-1)
    peaks = np.flatnonzero((density >= inner[:-2]) & (density > inner[2:]) & (density > 0))
    best, threshold = 0.0, 0
    for left, right in itertools.combinations(peaks, 2):
        lowest = left + int(np.argmin(density[left:right]))
        lower = min(density[left], density[right])
        depth = lower - density[lowest]
        if depth >= MIN_DEPTH * lower and depth > best:
            best, threshold = depth, int(np.ceil(10 ** (grid[lowest] + STEP / 2)))
    return threshold
