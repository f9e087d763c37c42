"""Peaks and genes of a model to be trained, and how those of each source are mapped onto them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from .._pairing import UNIQUE
from .._validate import check_single, check_unique
from .._warn import naming, warn
from ..cells.formats import opened
from ..cells.pairing import rows_in
from ..cells.source import InMemory, Located, Source
from ..genome import read_intervals
from ..genome._intervals import with_prefix
from ..models import EpiFoundation
from ..peaks.mapping import PeakMap, map_onto
from ..peaks.vocabulary import GeneVocabulary, PeakVocabulary
from ..pp._consensus_peaks import consensus_peaks

ATAC_ALONE = "`objective='peaks'` (in fine-tuning `expression=False`)"  # uses all cells with ATAC


class PairedCells(NamedTuple):
    """RNA of a source, and rows of the cells that have both ATAC and RNA; None for all.

    Attributes
    ----------
    var
        Table of genes.
    atac, rna
        Rows of the cells in either modality, in the order of the ATAC.
    """

    var: pd.DataFrame
    atac: np.ndarray | None
    rna: np.ndarray | None


def find_peaks(
    named: Mapping[str, Located],
    init: EpiFoundation | None,
    peaks: PeakVocabulary | None,
    modality: str,
    genome: str,
    map_peaks: Callable[[Source], PeakMap] | None,
) -> tuple[PeakVocabulary, list[sp.csr_matrix | None]]:
    """Peaks of the model, and the projection of each source onto them; None if they are equal."""
    known_genome = None if genome == "unknown" else genome
    tables, mapped = {}, []
    for name, place in named.items():
        with opened(place, modality, name) as source:
            tables[name] = source.var
            if map_peaks is not None:
                with naming(repr(name) if len(named) > 1 else ""):
                    mapped.append(map_peaks(source).projection)
    if init is not None:
        found = init.peaks
    elif peaks is not None:
        found = peaks
    elif len(tables) == 1:
        return PeakVocabulary.from_var(next(iter(tables.values())), genome=genome), [None]
    else:
        found = consensus_peaks(tables, genome=known_genome)
    if mapped:
        return found, mapped
    projections: list[sp.csr_matrix | None] = []
    for name, var in tables.items():
        if found.same_as(read_intervals(var)):
            projections.append(None)
            continue
        with naming(repr(name) if len(named) > 1 else ""):
            projections.append(map_onto(found, var, genome=known_genome).projection)
    return found, projections


def pair_cells(source: Source, rna_modality: str, objective: str, layer: str | None) -> PairedCells:
    """The RNA of a source, and the cells that have it; the others are left out with a warning."""
    rna = source.other(rna_modality)
    if rna is None:
        why = f"{source.name} has no modality {rna_modality!r} (`rna_modality=`)"
        if isinstance(source, InMemory) and isinstance(source.data, AnnData):
            why = "an AnnData has none"
        msg = f"`objective={objective!r}` needs RNA and {why}: pass a MuData with both modalities "
        msg += "(in memory, .h5mu or zarr), or `objective='peaks'` to pretrain on ATAC alone."
        raise ValueError(msg)
    if layer is not None:
        rna.matrix(layer)  # raises if the layer is missing
    check_unique(rna.var.index, "gene names", "call `var_names_make_unique()`")
    advice = f"Only cells with both are trained on; {ATAC_ALONE} uses all cells with ATAC."
    in_rna = rows_in(rna, source, advice, needed=True)
    if in_rna is None:
        return PairedCells(rna.var, None, None)
    has_rna = in_rna >= 0
    n_lost, n_unused = int((~has_rna).sum()), rna.n_obs - int(has_rna.sum())
    if source.n_obs and (n_lost or n_unused):
        msg = f"{n_lost:,} of the {source.n_obs:,} cells with ATAC of {source.name} have no RNA, "
        msg += f"and {n_unused:,} of the {rna.n_obs:,} with RNA no ATAC. {advice}"
        warn(msg)
    return PairedCells(rna.var, np.flatnonzero(has_rna) if n_lost else None, in_rna[has_rna])


def check_same_batches(source: Source, rna_modality: str, key: str, pair: PairedCells) -> None:
    """Warn if cells have another batch in the RNA than in the ATAC, of the same batches."""
    rna = source.other(rna_modality)
    if rna is None or not rna.has_column(key):
        return
    one, other = source.column(key, "batch_key"), rna.column(key, "batch_key")
    if set(one.dropna().astype(str)) != set(other.dropna().astype(str)):
        return  # columns of other meaning
    one = one if pair.atac is None else one.iloc[pair.atac]
    other = other if pair.rna is None else other.iloc[pair.rna]
    a, b = (each.astype(str).where(each.notna()).to_numpy() for each in (one, other))
    differs = (a != b) & one.notna().to_numpy() & other.notna().to_numpy()
    if differs.any():
        i = int(np.flatnonzero(differs)[0])
        msg = f"{int(differs.sum()):,} of {len(a):,} cells of {source.name} have another "
        msg += f"`batch_key={key!r}` in the RNA ({b[i]!r}) than with ATAC ({a[i]!r}): cells of the "
        msg += f"same name may be different cells. If so, {UNIQUE}."
        warn(msg)


def common_genes(
    tables: list[pd.DataFrame], init: EpiFoundation | None
) -> tuple[GeneVocabulary, np.ndarray | None, list[sp.csr_matrix | None]]:
    """Genes of the model, which of them all sources have, and the projection of each source.

    Parameters
    ----------
    tables
        ``var`` of the RNA of each source.
    init
        The model to begin with, whose genes are kept.
    """
    sources = [GeneVocabulary.from_var(var) for var in tables]
    if init is None and len(tables) == 1:
        return sources[0], None, [None]
    model_genes = sources[0] if init is None else init.genes
    n_genes = len(model_genes)
    # Positions among the genes of the model, for each gene of a source
    matches = [model_genes.match(each) for each in sources]
    common = np.flatnonzero(
        np.logical_and.reduce([np.isin(np.arange(n_genes), each) for each in matches])
    )
    if len(common) < 2:
        first = [each.names[:3] for each in sources[:3]]
        msg = f"The data sources have {len(common)} genes in common: {first}. Use the same gene "
        msg += "names in all of them."
        if init is not None:
            msg = f"The data have {len(common)} of the {n_genes:,} genes of `init`, the model: "
            msg += f"{first} and {model_genes.names[:3]}. Use the gene names of the model "
            msg += "(in fine-tuning: `expression=False` ignores the RNA)."
        raise ValueError(msg)
    projections: list[sp.csr_matrix | None] = []
    for positions, genes in zip(matches, sources, strict=True):
        column = np.full(n_genes, -1)
        column[common] = np.arange(len(common))
        column = np.where(positions >= 0, column[positions], -1)
        kept = np.flatnonzero(column >= 0)
        kept = kept[np.unique(column[kept], return_index=True)[1]]  # each gene of a source once
        ones = np.ones(len(kept), np.float32)
        shape = len(genes), len(common)
        projections.append(sp.csr_matrix((ones, (kept, column[kept])), shape=shape))
    if init is not None:
        return init.genes, common, projections
    return model_genes.take(common), None, projections


def gene_chromosomes(var: pd.DataFrame) -> pd.Series | None:
    """Chromosome of each gene, from a column of it or from the interval that 10x readers keep."""
    for column in ("chrom", "chromosome", "interval"):
        if column in var.columns:
            check_single(var.columns, column, "`var` of the RNA")
            names = [
                None if pd.isna(name) else str(name).split(":")[0].removesuffix(".0")
                for name in var[column]
            ]
            return with_prefix(pd.Series(names, index=var.index, dtype=object))
    return None
