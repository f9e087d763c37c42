"""Simulate paired ATAC and RNA with known cell types, batches and peak-to-gene links."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData

from .._validate import RNG, integer

CELLS_PER_DRAW = 2048
PEAK_SPACING = 2_000  # bases between peak starts
PEAK_WIDTH = 500
# Linked peaks are open if a cell of this many times the median depth would have a fragment in them
OPEN_DEPTH = 4


class _Truth(NamedTuple):
    """Parameters that all cells share."""

    accessibility: np.ndarray  # fraction of fragments by peak, (n_types * n_batches, n_peaks)
    base: np.ndarray  # log expression, linked peaks closed, (n_types * n_batches, n_genes)
    peak: np.ndarray  # (n_links,)
    gene: np.ndarray  # (n_links,)
    effect: np.ndarray  # (n_links,)


def simulate_multiome(
    n_cells: int = 500,
    n_peaks: int = 2000,
    n_genes: int = 100,
    *,
    n_types: int = 5,
    n_batches: int = 2,
    type_weights: Sequence[float] | None = None,
    median_fragments: int | None = None,
    median_counts: int = 2000,
    batch_effect: float = 0.3,
    rng: RNG = 0,
) -> MuData:
    """Simulate a multiome with known truth.

    Some peaks are more accessible in one cell type than in the others. A cell is of one type with a
    small fraction of a second, and its fragments are drawn from this mixture; their number, the
    depth, is lognormal. A gene has a level in each type and is linked to one to four peaks nearby:
    its expression is higher (or lower) in cells in which they are open. A peak with a fragment is
    open; one without may be, with a probability that decreases with the depth of the cell. Batches
    shift the accessibility of peaks and the expression of genes.

    Parameters
    ----------
    n_cells, n_peaks, n_genes
        Sizes. Memory and time are linear in the number of fragments, so ``20_000`` cells of
        ``200_000`` peaks are feasible.
    n_types, n_batches
        Numbers of cell types and batches.
    type_weights
        Relative sizes of the cell types; if None, equal.
    median_fragments
        Median number of fragments in a cell; default: a tenth of the peaks, at least 20.
    median_counts
        Median number of RNA counts in a cell.
    batch_effect
        Standard deviation of the shift of a peak or gene in a batch, on the log scale.
    rng
        Seed or generator.

    Returns
    -------
    ``mdata["atac"]``: counts (CSR), peaks ``chr1:100-600``; columns ``chrom``, ``start``, ``end``.
    ``mdata["rna"]``: counts (CSR), ``var`` with the TSS (``chrom``, ``start``, ``end``).
    Both, and ``mdata``: ``obs["cell_type"]``, ``obs["batch"]``. ``mdata.uns["truth"]``: ``links``
    (DataFrame ``peak``, ``gene``, ``effect``: change of log expression if the peak is open),
    ``second_type`` and ``second_fraction`` of each cell.

    Raises
    ------
    ValueError
        A size is not a positive integer, or `type_weights` are not one positive number per type.

    Examples
    --------
    >>> import epifoundation as ep
    >>> mdata = ep.datasets.simulate_multiome(100, 500, 20)
    >>> mdata["atac"].shape, mdata["rna"].shape
    ((100, 500), (100, 20))
    >>> sorted(mdata.uns["truth"]["links"])
    ['effect', 'gene', 'peak']
    """
    for name, value in (
        ("n_cells", n_cells),
        ("n_peaks", n_peaks),
        ("n_genes", n_genes),
        ("n_types", n_types),
        ("n_batches", n_batches),
        ("median_counts", median_counts),
    ):
        integer(value, name, minimum=1)
    if median_fragments is None:
        median_fragments = max(n_peaks // 10, 20)
    integer(median_fragments, "median_fragments", minimum=1)
    weights = None if type_weights is None else np.array(type_weights, dtype=float)
    if weights is not None:
        if weights.shape != (n_types,) or not (np.isfinite(weights) & (weights > 0)).all():
            msg = f"`type_weights` must be {n_types} positive numbers, one for each type, "
            msg += f"got {type_weights!r}."
            raise ValueError(msg)
        weights /= weights.sum()
    rng = np.random.default_rng(rng)

    peaks = _place_peaks(n_peaks)
    tss = np.sort(rng.choice(n_peaks, n_genes, replace=n_genes > n_peaks))
    truth = _draw_truth(n_peaks, tss, n_types, n_batches, batch_effect, rng)
    is_equal, n = weights is None, n_cells
    kind = rng.integers(n_types, size=n) if is_equal else rng.choice(n_types, n, p=weights)
    second = (kind + rng.integers(1, max(n_types, 2), size=n_cells)) % n_types
    fraction = rng.beta(1, 8, size=n_cells)
    batch = rng.integers(n_batches, size=n_cells)
    n_fragments = rng.lognormal(np.log(median_fragments), 0.5, n_cells)
    n_fragments = np.maximum(n_fragments.astype(int), 1)
    n_counts = np.maximum(rng.lognormal(np.log(median_counts), 0.4, n_cells).astype(int), 1)

    atac, rna = [], []
    for start in range(0, n_cells, CELLS_PER_DRAW):
        part = slice(start, start + CELLS_PER_DRAW)
        mixture = _Mixture(
            kind[part] * n_batches + batch[part],
            second[part] * n_batches + batch[part],
            fraction[part],
        )
        depth = OPEN_DEPTH * median_fragments
        fragments = _draw_fragments(truth, mixture, n_fragments[part], rng)
        is_open = _draw_open(truth, mixture, n_fragments[part], depth, fragments, rng)
        atac.append(fragments)
        rna.append(_draw_counts(truth, mixture, is_open, n_counts[part], rng))

    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical([f"type{i}" for i in kind]),
            "batch": pd.Categorical([f"batch{i}" for i in batch]),
        },
        index=[f"cell{i}" for i in range(n_cells)],
    )
    genes = peaks.iloc[tss].assign(end=peaks["start"].iloc[tss] + 1)
    genes = genes.set_axis([f"gene{i}" for i in range(n_genes)])
    mdata = MuData(
        {
            "atac": AnnData(sp.vstack(atac, format="csr"), obs=obs.copy(), var=peaks),
            "rna": AnnData(sp.vstack(rna, format="csr"), obs=obs.copy(), var=genes),
        }
    )
    mdata.obs = obs.copy()
    links = pd.DataFrame(
        {"peak": peaks.index[truth.peak], "gene": genes.index[truth.gene], "effect": truth.effect},
        index=pd.RangeIndex(len(truth.peak)).astype(str),
    )
    mdata.uns["truth"] = {
        "links": links,
        "second_type": np.array([f"type{i}" for i in second]),
        "second_fraction": fraction,
    }
    return mdata


def _place_peaks(n_peaks: int) -> pd.DataFrame:
    """Peaks in order, spread over up to 22 chromosomes of at most 60,000 peaks (120 Mb)."""
    chromosome, place = np.divmod(np.arange(n_peaks), _per_chromosome(n_peaks))
    chrom = "chr" + pd.Series(chromosome + 1).astype(str)
    start = 10_000 + PEAK_SPACING * place
    end = start + PEAK_WIDTH
    names = chrom + ":" + pd.Series(start).astype(str) + "-" + pd.Series(end).astype(str)
    columns = {"chrom": chrom.to_numpy(), "start": start, "end": end}
    return pd.DataFrame(columns, index=names.to_numpy())


def _per_chromosome(n_peaks: int) -> int:
    return max(-(-n_peaks // 22), 200)


def _draw_truth(
    n_peaks: int,
    tss: np.ndarray,
    n_types: int,
    n_batches: int,
    batch_effect: float,
    rng: np.random.Generator,
) -> _Truth:
    marker = rng.random((n_types, n_peaks)) < 0.15
    log_rate = rng.normal(0, 1, n_peaks) + marker * rng.normal(2, 0.5, (n_types, n_peaks))
    shift = rng.normal(0, batch_effect, (n_batches, n_peaks))
    rate = np.exp(log_rate[:, None] + shift).reshape(n_types * n_batches, n_peaks)
    n_links = rng.integers(1, 5, len(tss))
    gene = np.repeat(np.arange(len(tss)), n_links)
    peak = tss[gene] + rng.integers(-25, 26, len(gene))
    size = _per_chromosome(n_peaks)  # links stay on the chromosome of the gene
    low = tss[gene] // size * size
    peak = peak.clip(low, np.minimum(low + size, n_peaks) - 1)
    gene, peak = np.unique(np.stack([gene, peak]), axis=1)
    effect = rng.uniform(0.6, 1.2, len(gene)) * np.where(rng.random(len(gene)) < 0.85, 1, -1)
    by_type = rng.normal(0, 1, len(tss)) + rng.normal(0, 0.8, (n_types, len(tss)))
    base = by_type[:, None] + rng.normal(0, batch_effect, (n_batches, len(tss)))
    accessibility = (rate / rate.sum(axis=1, keepdims=True)).astype(np.float32)
    return _Truth(accessibility, base.reshape(n_types * n_batches, -1), peak, gene, effect)


class _Mixture(NamedTuple):
    """Two rows of the parameters for each cell, and the fraction of the second, (n_cells,)."""

    first: np.ndarray
    second: np.ndarray
    fraction: np.ndarray

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Weighted mean of two rows of `values` for each cell."""
        fraction = self.fraction[:, None]
        return (1 - fraction) * values[self.first] + fraction * values[self.second]


def _draw_fragments(
    truth: _Truth, mixture: _Mixture, n_fragments: np.ndarray, rng: np.random.Generator
) -> sp.csr_matrix:
    """Counts of fragments by cell and peak, (n_cells, n_peaks)."""
    first, second, fraction = mixture
    n_second = rng.binomial(n_fragments, fraction)
    rows, columns = [], []
    for profiles, sizes in ((first, n_fragments - n_second), (second, n_second)):
        for profile in np.unique(profiles):
            cells = np.flatnonzero(profiles == profile)
            cumulative = np.cumsum(truth.accessibility[profile], dtype=np.float64)
            places = rng.random(sizes[cells].sum()) * cumulative[-1]
            peaks = np.searchsorted(cumulative, places, side="right")
            columns.append(peaks.clip(max=len(cumulative) - 1))
            rows.append(np.repeat(cells, sizes[cells]))
    entries = np.concatenate(rows), np.concatenate(columns)
    ones = np.ones(len(entries[0]), dtype=np.float32)
    return sp.csr_matrix((ones, entries), shape=(len(first), truth.accessibility.shape[1]))


def _draw_open(
    truth: _Truth,
    mixture: _Mixture,
    n_fragments: np.ndarray,
    depth: int,
    fragments: sp.csr_matrix,
    rng: np.random.Generator,
) -> np.ndarray:
    """Whether each linked peak is open in each cell, (n_cells, n_links).

    A peak is open if at least one of `depth` fragments falls in it; the first `n_fragments` of
    these are observed.
    """
    rate = mixture.mean(truth.accessibility[:, truth.peak])
    n_unseen = depth - np.minimum(n_fragments, depth)
    open_unseen = -np.expm1(-n_unseen[:, None] * rate)
    seen = np.asarray(fragments[:, truth.peak].todense()) > 0
    return seen | (rng.random(seen.shape) < open_unseen)


def _draw_counts(
    truth: _Truth,
    mixture: _Mixture,
    is_open: np.ndarray,
    n_counts: np.ndarray,
    rng: np.random.Generator,
) -> sp.csr_matrix:
    """RNA counts by cell and gene: Poisson, given cell type, batch and open linked peaks."""
    n_links, n_genes = len(truth.gene), truth.base.shape[1]
    entries = (np.arange(n_links), truth.gene)
    to_gene = sp.csr_matrix((truth.effect, entries), shape=(n_links, n_genes))
    rate = np.exp(mixture.mean(truth.base) + is_open @ to_gene)
    rate *= (n_counts / rate.sum(axis=1))[:, None]
    return sp.csr_matrix(rng.poisson(rate).astype(np.float32))
