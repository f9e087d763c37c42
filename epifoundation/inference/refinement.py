"""Labels of an atlas refined on the cells of the data, by expectation maximisation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from tqdm import tqdm

from .._settings import settings

# Chosen on PBMC, see `benchmarks/atlas.py`
ROUNDS = 8
WEIGHT = 6.0  # of the log-likelihood of open peaks over the root of their number
PRIOR_CELLS = 100  # cells that the profile of a label in the atlas counts as
SHARPNESS = 0.25  # of the final probabilities: log-likelihoods of many peaks are overconfident
MIN_SHARE = 0.002  # of the cells that a label needs to be refined
AT_ONCE = 2**20  # tokens of which logarithms are computed at a time


@dataclass(frozen=True, eq=False)
class Refinement:
    r"""A mixture of labels over open peaks, started from probabilities :math:`P_0`.

    The cells of label :math:`k` have :math:`M_{pk} = s \, q_{pk} + \sum_i R_{ik}` open at peak
    :math:`p`, with the responsibilities :math:`R`, the profile :math:`q_k` of the label in the
    atlas, and :math:`s` open peaks of pseudo-cells. The log-odds of a cell with :math:`n` open
    peaks, which is left out of :math:`M`, are

    .. math::
        \log P_0 + \log \pi_k + \frac{w}{\sqrt n} \sum_p
        \log \frac{M_{pk} / \sum_p M_{pk}}{\sum_i [p \in i] / \sum_i n_i}

    with the mean :math:`\pi` of :math:`R`. Responsibilities are their softmax in each round.

    Attributes
    ----------
    kept
        Positions of the refined labels among all labels, (n_kept,).
    peaks
        Peaks of the vocabulary that are open in a cell, ascending, (n_peaks,).
    opened
        M, (n_peaks, n_kept).
    base
        Fraction of all open peaks that each peak is, (n_peaks,).
    share
        Mean responsibilities, (n_kept,).
    hashes, responsibilities
        Hashes of the counted cells, ascending, (n_cells,), and their R, (n_cells, n_kept).
    """

    kept: np.ndarray
    peaks: np.ndarray
    opened: np.ndarray
    base: np.ndarray
    share: np.ndarray
    hashes: np.ndarray
    responsibilities: np.ndarray

    @classmethod
    def fit(
        cls,
        tokens: sp.csr_matrix,
        probabilities: np.ndarray,
        ratios: np.ndarray,
        hashes: np.ndarray,
    ) -> Refinement:
        """Fit to cells.

        Parameters
        ----------
        tokens
            Ones for open peaks, (n_cells, n_vocabulary), at least one in each row.
        probabilities
            Probabilities of all labels, (n_cells, n_labels).
        ratios
            Rate of each open peak, in the order of the vocabulary, in each label over its mean over
            labels, (n_peaks, n_labels).
        hashes
            Hash of each cell.
        """
        kept = np.flatnonzero(probabilities.mean(axis=0) >= MIN_SHARE)
        peaks = np.unique(tokens.indices)
        cells = sp.csr_matrix(
            (np.ones(tokens.nnz), np.searchsorted(peaks, tokens.indices), tokens.indptr),
            shape=(tokens.shape[0], len(peaks)),
        )
        counts = np.bincount(cells.indices, minlength=len(peaks)) + 0.5
        base = counts / counts.sum()
        start = probabilities[:, kept]
        start = np.log(np.maximum(start / start.sum(axis=1, keepdims=True), 1e-12))
        profile = base[:, None] * ratios[:, kept]
        prior = profile / profile.sum(axis=0) * PRIOR_CELLS * cells.nnz / cells.shape[0]
        found = np.exp(start)
        for _ in tqdm(range(ROUNDS), desc="Refining labels", disable=not settings.progress):
            share = found.mean(axis=0)
            opened = np.asarray(cells.T @ found) + prior
            odds = start + _evidence(cells, opened, base, found) + np.log(share + 1e-6)
            found = _softmax(odds)
        share, opened = found.mean(axis=0), np.asarray(cells.T @ found) + prior
        order = np.argsort(hashes, kind="stable")
        return cls(kept, peaks, opened, base, share, hashes[order], found[order])

    def apply(
        self, ids: np.ndarray, offsets: np.ndarray, probabilities: np.ndarray, hashes: np.ndarray
    ) -> np.ndarray:
        """Refined probabilities of all labels for packed tokens, (n_cells, n_labels).

        The sum over the refined labels stays as it was. Cells that were counted are recognized by
        hash and left out.
        """
        place = np.searchsorted(self.peaks, ids).clip(max=len(self.peaks) - 1)
        is_known = self.peaks[place] == ids
        of = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        cells = sp.csr_matrix(
            (np.ones(is_known.sum()), (of[is_known], place[is_known])),
            shape=(len(offsets) - 1, len(self.peaks)),
        )
        row = np.searchsorted(self.hashes, hashes).clip(max=len(self.hashes) - 1)
        is_counted = self.hashes[row] == hashes
        own = np.where(is_counted[:, None], self.responsibilities[row], 0)
        part = probabilities[:, self.kept]
        total = part.sum(axis=1, keepdims=True)
        odds = np.log(np.maximum(part / np.maximum(total, 1e-12), 1e-12))
        odds = odds + _evidence(cells, self.opened, self.base, own) + np.log(self.share + 1e-6)
        refined = probabilities.copy()
        refined[:, self.kept] = total * _softmax(SHARPNESS * odds)
        return refined


def _evidence(
    cells: sp.csr_matrix, opened: np.ndarray, base: np.ndarray, own: np.ndarray
) -> np.ndarray:
    """Weighted log-likelihood ratios, each cell left out with its responsibilities `own`."""
    lengths = np.diff(cells.indptr)
    total = opened.sum(axis=0) - lengths[:, None] * own
    sums = np.zeros_like(own)
    step = max(AT_ONCE // max(int(lengths.mean()), 1), 1)
    for first in range(0, len(own), step):
        some = cells[first : first + step]
        of = np.repeat(np.arange(some.shape[0]), np.diff(some.indptr))
        left = opened[some.indices] - own[first + of]
        logs = np.log(np.maximum(left, 1e-9), dtype=np.float64)
        shape = (some.shape[0], len(of))
        adds = sp.csr_matrix((np.ones(len(of)), np.arange(len(of)), some.indptr), shape=shape)
        sums[first : first + step] = adds @ logs - (some @ np.log(base))[:, None]
    sums -= lengths[:, None] * np.log(total)
    return WEIGHT * sums / np.sqrt(np.maximum(lengths, 1))[:, None]


def _softmax(odds: np.ndarray) -> np.ndarray:
    exp = np.exp(odds - odds.max(axis=1, keepdims=True))
    return exp / exp.sum(axis=1, keepdims=True)
