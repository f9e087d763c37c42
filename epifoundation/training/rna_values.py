"""Counts of RNA, from counts or from values that were normalised."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.sparse as sp

from .components import with_values
from .rows import as_float

# What values may be, and the function that makes them proportional to counts in each cell
SCALES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "counts": lambda values: values,
    "normalised counts": lambda values: values,
    "log1p of normalised counts": np.expm1,
    "log2(x + 1) of normalised counts": lambda values: np.exp2(values) - 1,
}
TOLERANCE = 0.02  # of a count, relative to the smallest of its cell
MAX_COUNT = 1e7
MIN_FRACTION = 0.98  # of the values must be whole numbers


def scale_of_values(rows: sp.csr_matrix) -> str | None:
    """Key of `SCALES` of the values of some cells; None if counts cannot be recovered."""
    return next((name for name in SCALES if _fraction_whole(rows, name) >= MIN_FRACTION), None)


def as_counts(rows: sp.csr_matrix, scale: str) -> sp.csr_matrix:
    """Counts, float32. The smallest value of a cell that was normalised is taken as one count."""
    if scale == "counts":
        return as_float(rows)
    rows = rows.copy()
    rows.eliminate_zeros()
    values = SCALES[scale](rows.data.astype(np.float64))
    return with_values(rows, np.rint(values / _smallest(rows, values)).astype(np.float32))


def _fraction_whole(rows: sp.csr_matrix, scale: str) -> float:
    rows = rows.copy()
    rows.eliminate_zeros()
    if (rows.data < 0).any() or not rows.nnz:
        return float(not rows.nnz)
    with np.errstate(over="ignore", invalid="ignore"):  # of exponentials of large values
        values = SCALES[scale](rows.data.astype(np.float64))
        if scale != "counts":
            values = values / _smallest(rows, values)
    values = np.where(np.isfinite(values), values, 0.5)
    near = (values <= MAX_COUNT) & (
        np.abs(values - np.rint(values)) < (1e-6 if scale == "counts" else TOLERANCE)
    )
    return float(near.mean())


def _smallest(rows: sp.csr_matrix, values: np.ndarray) -> np.ndarray:
    """The smallest value of the cell of each value; the values of cells are never empty."""
    sizes = np.diff(rows.indptr)
    starts = rows.indptr[:-1][sizes > 0]
    return np.repeat(np.minimum.reduceat(values, starts), sizes[sizes > 0])
