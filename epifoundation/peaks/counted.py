"""Training cells of peak vectors, recognized by their open peaks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from .vocabulary import PeakVocabulary

WEIGHT = 255  # memberships are stored in units of 1 / 255


@dataclass(frozen=True, eq=False)
class CountedCells:
    """The training cells of a block of columns: hashes of open peaks, and a few memberships.

    Attributes
    ----------
    hashes
        Hash of the open peaks of each cell, ascending, uint64 (n_cells,). Of cells with the same
        open peaks, one is kept.
    codes
        Columns in which a cell has a membership, uint8 or uint16 (n_cells, n_kept).
    weights
        All memberships except the first, in units of 1 / 255, uint8 (n_cells, n_kept - 1); the
        memberships of a cell add up to 1.
    """

    hashes: np.ndarray
    codes: np.ndarray
    weights: np.ndarray

    def __len__(self) -> int:
        return len(self.hashes)

    @classmethod
    def of(cls, hashes: np.ndarray, codes: np.ndarray, weights: np.ndarray) -> CountedCells:
        """From cells in any order; one of those with the same open peaks is kept."""
        order = np.argsort(hashes, kind="stable")
        ordered = hashes[order]
        first = np.ones(len(order), bool)
        first[1:] = ordered[1:] != ordered[:-1]
        is_copy = ~first | np.append(~first[1:], False)[: len(first)]
        if is_copy.any():  # keep the first by memberships
            rows = order[is_copy]
            order[is_copy] = rows[
                np.lexsort((*codes[rows].T[::-1], *weights[rows].T[::-1], hashes[rows]))
            ]
        kept = order[first]
        return cls(hashes[kept], codes[kept], weights[kept])

    def contain(self, hashes: np.ndarray) -> np.ndarray:
        """Whether each cell is one of these, by hash, boolean (n_cells,)."""
        return self._places(hashes)[1]

    def find(self, hashes: np.ndarray, width: int) -> np.ndarray | None:
        """Memberships by hash, float32 (n_cells, width), NaN for unknown cells; None if all are."""
        place, is_known = self._places(hashes)
        rows = np.flatnonzero(is_known)
        if not len(rows):
            return None
        known = np.full((len(hashes), width), np.nan, np.float32)
        known[rows] = dense(self.codes[place[rows]], self.weights[place[rows]], width)
        return known

    def _places(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the hashes, and whether they are there."""
        if not len(self):
            return np.zeros(len(hashes), np.int64), np.zeros(len(hashes), bool)
        place = np.minimum(np.searchsorted(self.hashes, hashes), len(self) - 1)
        return place, self.hashes[place] == hashes


def dense(
    codes: np.ndarray, weights: np.ndarray, width: int, *, unit: float = 1 / WEIGHT
) -> np.ndarray:
    """Memberships as a matrix, float32 (n_cells, width); the first code has no weight."""
    known = np.zeros((len(codes), width), dtype=np.float32)
    if codes.shape[1]:
        rows = np.arange(len(codes))
        known[rows, codes[:, 0]] = (WEIGHT - weights.sum(axis=1, dtype=np.int64)) * unit
        known[rows[:, None], codes[:, 1:]] = weights * np.float32(unit)
    return known


def peak_keys(peaks: PeakVocabulary) -> np.ndarray:
    """A hash of the position of each peak, uint64 (n_peaks,)."""
    return pd.util.hash_pandas_object(
        peaks.intervals[["chrom", "start", "end"]].astype({"chrom": object}), index=False
    ).to_numpy(np.uint64)


def hash_tokens(ids: np.ndarray, offsets: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Hash of the open peaks of each cell: sum of their keys modulo 2^64, uint64 (n_cells,).

    Cells with different open peaks have the same hash with a probability of about 2^-64.
    """
    total = np.zeros(len(offsets) - 1, np.uint64)
    is_filled = np.flatnonzero(np.diff(offsets))
    if len(is_filled):
        total[is_filled] = np.add.reduceat(keys[ids], offsets[is_filled], dtype=np.uint64)
    return total
