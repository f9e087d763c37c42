"""P-values of effects, by comparison with peaks elsewhere."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

N_BINS = 3  # of accessibility, within which peaks are compared
MIN_CONTROLS = 200  # peaks on the chromosome; with fewer, peaks of others are added
MAX_CONTROLS = 2000  # for each gene


def measured_pvalues(
    effect: np.ndarray, gene: np.ndarray, n_open: np.ndarray, is_control: np.ndarray, min_cells: int
) -> np.ndarray:
    """Fraction of controls with an effect at least as large, (n_pairs,); NaN if not tested."""
    pvalue = np.full(len(effect), np.nan)
    seen = n_open >= min_cells
    tested, controls = seen & ~is_control, seen & is_control
    level = np.searchsorted(_edges(n_open, tested), n_open)
    weight = _control_weights(gene[tested], gene[controls])
    for here, null, weights in _by_level(
        level, tested, np.abs(effect[controls]), level[controls], weight
    ):
        pvalue[here] = _tail(null, weights, np.abs(effect[here]))
    return pvalue


def embedding_pvalues(
    moved: np.ndarray,
    directions: np.ndarray,
    pair: tuple[np.ndarray, np.ndarray],
    sites: pd.DataFrame,
    peaks: pd.DataFrame,
    usable: np.ndarray,
    n_open: np.ndarray,
    max_distance: int,
    min_cells: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Two-sided p-values of changes of the embedding along a gene, (n_pairs,); NaN if untested.

    Parameters
    ----------
    moved
        Change of the embedding by each peak, (n_peaks, dim).
    directions
        Direction along which each gene rises, (n_genes, dim).
    pair
        Gene and peak of each pair.
    sites
        Transcription start site of each gene: columns ``chrom``, ``start``.
    peaks
        Columns ``chrom``, ``start``.
    usable
        Peaks that may be controls, as they are near a gene, boolean (n_peaks,).
    n_open
        Number of cells in which each peak is open, (n_peaks,).
    max_distance
        Controls are more than twice as far from the gene.
    min_cells
        Peaks that are open in fewer cells are neither tested nor controls.
    rng
        Draws controls, if there are many.
    """
    length = np.linalg.norm(moved, axis=1, keepdims=True)
    unit = moved / np.maximum(length, 1e-30)
    gene, peak = pair
    seen = (n_open >= min_cells) & (length[:, 0] > 0)
    tested = seen[peak]
    pvalue = np.full(len(gene), np.nan)
    if not tested.any():
        return pvalue
    score = np.einsum("ij,ij->i", unit[peak], directions[gene])
    edges = _edges(n_open[peak], tested)
    level_of_pair = np.searchsorted(edges, n_open[peak])
    pool = np.flatnonzero(usable & seen)
    chrom, at = peaks["chrom"].to_numpy()[pool], peaks["start"].to_numpy()[pool]
    values, levels, owner = [], [], []
    for one in np.unique(gene):
        same = chrom == sites["chrom"].iloc[one]
        far = np.flatnonzero(same & (np.abs(at - sites["start"].iloc[one]) > 2 * max_distance))
        chosen = far if len(far) <= MAX_CONTROLS else rng.choice(far, MAX_CONTROLS, replace=False)
        if len(far) < MIN_CONTROLS:
            elsewhere = np.flatnonzero(~same)
            n_more = min(MIN_CONTROLS - len(far), len(elsewhere))
            chosen = np.concatenate([far, rng.choice(elsewhere, n_more, replace=False)])
        values.append(unit[pool[chosen]] @ directions[one])
        levels.append(np.searchsorted(edges, n_open[pool[chosen]]))
        owner.append(np.full(len(chosen), one))
    weight = _control_weights(gene[tested], np.concatenate(owner))
    for here, null, weights in _by_level(
        level_of_pair, tested, np.concatenate(values), np.concatenate(levels), weight
    ):
        above, below = (
            _tail(null, weights, score[here]),
            _tail(-null[::-1], weights[::-1], -score[here]),
        )
        pvalue[here] = np.minimum(2 * np.minimum(above, below), 1)
    return pvalue


def bonferroni_min(first: np.ndarray, second: np.ndarray | None) -> np.ndarray:
    """P-value of the smaller of two tests, which may be dependent (Bonferroni)."""
    return first if second is None else np.minimum(2 * np.fmin(first, second), 1)


def _edges(n_open: np.ndarray, tested: np.ndarray) -> np.ndarray:
    """Bounds of the bins of accessibility."""
    if not tested.any():
        return np.zeros(0)
    return np.unique(np.quantile(n_open[tested], np.linspace(0, 1, N_BINS + 1)[1:-1]))


def _control_weights(tested: np.ndarray, controls: np.ndarray) -> np.ndarray:
    """Weight of each control, so that genes are as frequent as among the tested pairs.

    Genes differ in the size of effects by chance, and in the number of peaks near them.
    """
    n = max(tested.max(initial=0), controls.max(initial=0)) + 1
    of_gene = np.bincount(tested, minlength=n) / np.maximum(np.bincount(controls, minlength=n), 1)
    return of_gene[controls]


def _tail(null: np.ndarray, weight: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Weighted fraction of an ascending null at or above each value, which is counted with it."""
    above = np.append(np.cumsum(weight[::-1])[::-1], 0.0)
    one = weight[weight > 0].mean() if (weight > 0).any() else 1.0
    return (one + above[np.searchsorted(null, values, side="left")]) / (one + above[0])


def _by_level(
    level: np.ndarray,
    tested: np.ndarray,
    null: np.ndarray,
    null_level: np.ndarray,
    weight: np.ndarray,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Tested entries of each level, and their controls, ascending; of all levels if few."""
    for one in np.unique(level[tested]):
        here = np.flatnonzero(tested & (level == one))
        like = null_level == one
        chosen = np.flatnonzero(like if like.sum() >= len(here) else np.ones(len(null), bool))
        chosen = chosen[np.argsort(null[chosen], kind="stable")]
        yield here, null[chosen], weight[chosen]
