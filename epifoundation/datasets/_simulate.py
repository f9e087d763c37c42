"""Paired ATAC and RNA with planted cell types, batches and peak-to-gene links."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData

from .._validate import RNG, integer

CHUNK = 2048
SPACING = 2_000  # bases between peak starts
WIDTH = 500
DEPTH = 4  # times the median number of fragments: a cell of that depth misses no open peak that a gene is linked to


class _World(NamedTuple):
    """What all cells share."""

    accessibility: np.ndarray  # probability of a fragment to fall in each peak, (n_types * n_batches, n_peaks)
    base: np.ndarray  # log expression with all linked peaks closed, (n_types * n_batches, n_genes)
    peak: np.ndarray  # of each link
    gene: np.ndarray
    effect: np.ndarray


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
    """Simulate a multiome of which the truth is known.

    Each cell type opens some of the peaks more than the others do. A cell is of one type with a small part
    of a second, and its fragments are drawn from that mixture: their number, lognormal, is its depth. A gene
    has a level in each type, and is linked to one to four peaks close to it: it is expressed more (or less) in those cells in which
    they are open. A fragment shows that a peak is open; without one it may be, the likelier the fewer fragments the cell has. Batches
    shift the accessibility of peaks and the expression of genes.

    Parameters
    ----------
    n_cells, n_peaks, n_genes
        Sizes. Memory and time are linear in the number of fragments, so ``20_000`` cells of ``200_000`` peaks are fine.
    n_types, n_batches
        Numbers of planted groups.
    type_weights
        Relative sizes of the cell types, one for each; None draws them with the same probability.
    median_fragments
        Median number of fragments in a cell; default a tenth of the peaks, at least 20.
    median_counts
        Median number of RNA counts in a cell.
    batch_effect
        Standard deviation of the log shift that a batch gives to a peak or gene.
    rng
        Seed or generator.

    Returns
    -------
    ``mdata["atac"]``: counts (CSR), peaks ``chr1:100-600`` with columns ``chrom``, ``start``, ``end``.
    ``mdata["rna"]``: counts (CSR), ``var`` with the TSS (``chrom``, ``start``, ``end``).
    Both, and ``mdata``: ``obs["cell_type"]``, ``obs["batch"]``. ``mdata.uns["truth"]``: ``links`` (DataFrame ``peak``, ``gene``,
    ``effect``: change of log expression when the peak is open), ``second_type`` and ``second_fraction`` of each cell.

    Raises
    ------
    ValueError
        A size is not a positive integer, or `type_weights` are not positive numbers, one for each type.

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
        integer(value, name, least=1)
    if median_fragments is None:
        median_fragments = max(n_peaks // 10, 20)
    integer(median_fragments, "median_fragments", least=1)
    shares = None if type_weights is None else np.array(type_weights, dtype=float)
    if shares is not None:
        if shares.shape != (n_types,) or not (np.isfinite(shares) & (shares > 0)).all():
            msg = f"`type_weights` must be {n_types} positive numbers, one for each type, got {type_weights!r}."
            raise ValueError(msg)
        shares /= shares.sum()
    rng = np.random.default_rng(rng)

    peaks = _lay_out(n_peaks)
    tss = np.sort(rng.choice(n_peaks, n_genes, replace=n_genes > n_peaks))
    world = _make_world(n_peaks, tss, n_types, n_batches, batch_effect, rng)
    kind = rng.integers(n_types, size=n_cells) if shares is None else rng.choice(n_types, size=n_cells, p=shares)
    second = (kind + rng.integers(1, max(n_types, 2), size=n_cells)) % n_types
    fraction = rng.beta(1, 8, size=n_cells)
    batch = rng.integers(n_batches, size=n_cells)
    n_fragments = np.maximum(rng.lognormal(np.log(median_fragments), 0.5, n_cells).astype(int), 1)
    n_counts = np.maximum(rng.lognormal(np.log(median_counts), 0.4, n_cells).astype(int), 1)

    atac, rna = [], []
    for start in range(0, n_cells, CHUNK):
        part = slice(start, start + CHUNK)
        first, other = kind[part] * n_batches + batch[part], second[part] * n_batches + batch[part]
        fragments = _draw_fragments(world.accessibility, first, other, fraction[part], n_fragments[part], rng)
        is_open = _draw_open(
            world, first, other, fraction[part], n_fragments[part], DEPTH * median_fragments, fragments, rng
        )
        atac.append(fragments)
        rna.append(_draw_counts(world, first, other, fraction[part], is_open, n_counts[part], rng))

    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical([f"type{i}" for i in kind]),
            "batch": pd.Categorical([f"batch{i}" for i in batch]),
        },
        index=[f"cell{i}" for i in range(n_cells)],
    )
    genes = peaks.iloc[tss].assign(end=peaks["start"].iloc[tss] + 1).set_axis([f"gene{i}" for i in range(n_genes)])
    mdata = MuData(
        {
            "atac": AnnData(sp.vstack(atac, format="csr"), obs=obs.copy(), var=peaks),
            "rna": AnnData(sp.vstack(rna, format="csr"), obs=obs.copy(), var=genes),
        }
    )
    mdata.obs = obs.copy()
    links = pd.DataFrame(
        {"peak": peaks.index[world.peak], "gene": genes.index[world.gene], "effect": world.effect}
    ).set_index(pd.RangeIndex(len(world.peak)).astype(str))
    mdata.uns["truth"] = {
        "links": links,
        "second_type": np.array([f"type{i}" for i in second]),
        "second_fraction": fraction,
    }
    return mdata


def _lay_out(n_peaks: int) -> pd.DataFrame:
    """Peaks in order, spread over up to 22 chromosomes of at most 60,000 peaks (120 Mb)."""
    chromosome, place = np.divmod(np.arange(n_peaks), _per_chromosome(n_peaks))
    chrom = "chr" + pd.Series(chromosome + 1).astype(str)
    start = 10_000 + SPACING * place
    names = chrom + ":" + pd.Series(start).astype(str) + "-" + pd.Series(start + WIDTH).astype(str)
    return pd.DataFrame({"chrom": chrom.to_numpy(), "start": start, "end": start + WIDTH}, index=names.to_numpy())


def _per_chromosome(n_peaks: int) -> int:
    return max(-(-n_peaks // 22), 200)


def _make_world(
    n_peaks: int, tss: np.ndarray, n_types: int, n_batches: int, batch_effect: float, rng: np.random.Generator
) -> _World:
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
    return _World(accessibility, base.reshape(n_types * n_batches, -1), peak, gene, effect)


def _draw_fragments(
    accessibility: np.ndarray,
    first: np.ndarray,
    other: np.ndarray,
    fraction: np.ndarray,
    n_fragments: np.ndarray,
    rng: np.random.Generator,
) -> sp.csr_matrix:
    """Fragments of each cell from its two profiles, as counts by peak."""
    from_other = rng.binomial(n_fragments, fraction)
    rows, columns = [], []
    for profiles, sizes in ((first, n_fragments - from_other), (other, from_other)):
        for profile in np.unique(profiles):
            cells = np.flatnonzero(profiles == profile)
            cumulative = np.cumsum(accessibility[profile], dtype=np.float64)
            places = rng.random(sizes[cells].sum()) * cumulative[-1]
            columns.append(np.searchsorted(cumulative, places, side="right").clip(max=len(cumulative) - 1))
            rows.append(np.repeat(cells, sizes[cells]))
    places = np.concatenate(rows), np.concatenate(columns)
    shape = (len(first), accessibility.shape[1])
    return sp.csr_matrix((np.ones(len(places[0]), dtype=np.float32), places), shape=shape)


def _draw_open(
    world: _World,
    first: np.ndarray,
    other: np.ndarray,
    fraction: np.ndarray,
    n_fragments: np.ndarray,
    depth: int,
    fragments: sp.csr_matrix,
    rng: np.random.Generator,
) -> np.ndarray:
    """Whether each linked peak is open in each cell, given the fragments that were seen, (n_cells, n_links).

    The peak is open where at least one of `depth` fragments would fall in it; of these the cell has seen `n_fragments`.
    """
    linked = world.accessibility[:, world.peak]
    mixed = (1 - fraction)[:, None] * linked[first] + fraction[:, None] * linked[other]
    # Among peaks without a fragment: closed ones are never seen
    open_unseen = -np.expm1(-(depth - np.minimum(n_fragments, depth))[:, None] * mixed)
    seen = np.asarray(fragments[:, world.peak].todense()) > 0
    return seen | (rng.random(seen.shape) < open_unseen)


def _draw_counts(
    world: _World,
    first: np.ndarray,
    other: np.ndarray,
    fraction: np.ndarray,
    is_open: np.ndarray,
    n_counts: np.ndarray,
    rng: np.random.Generator,
) -> sp.csr_matrix:
    """RNA counts of each cell, Poisson around what its type, its batch and its open linked peaks ask for."""
    n_genes = world.base.shape[1]
    to_gene = sp.csr_matrix((world.effect, (np.arange(len(world.gene)), world.gene)), shape=(len(world.gene), n_genes))
    base = (1 - fraction)[:, None] * world.base[first] + fraction[:, None] * world.base[other]
    rate = np.exp(base + is_open @ to_gene)
    rate *= (n_counts / rate.sum(axis=1))[:, None]
    return sp.csr_matrix(rng.poisson(rate).astype(np.float32))
