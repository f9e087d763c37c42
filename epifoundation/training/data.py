"""Data prepared for training: peaks, genes, split, batches and labels of one or several sources."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData

from ..cells.content import hash_of, hash_peaks, signature
from ..cells.formats import opened
from ..cells.source import Source, as_sources
from ..models import EpiFoundation
from ..peaks.mapping import PeakMap
from ..peaks.vocabulary import GeneVocabulary, PeakVocabulary
from .label_head import check_labels
from .rows import Piece, Rows, as_float
from .split import split_cells
from .vocabularies import check_same_batches, common_genes, find_peaks, gene_chromosomes, pair_cells


@dataclass
class TrainingData:
    """What :func:`prepare` returns. Cells are numbered through all sources, in their order.

    Attributes
    ----------
    peaks, genes
        Vocabularies of the new model.
    pattern
        Open peaks of all cells.
    target
        Expression of all cells, (n_cells, len(gene_positions)), or None.
    gene_positions
        Positions in `genes` of the columns of `target`; None for all of them.
    gene_chromosomes
        Chromosome of each of `genes`, NaN if unknown; None if the data have none.
    train, held
        Row numbers of training and validation cells, ascending.
    batch_codes, batches
        Code of each cell, and names of the batches; None and empty without `batch_key`. For
        gradient descent, batches with validation cells only are not listed and have code -1.
    labels
        Label of each cell, or None without `label_key`.
    """

    peaks: PeakVocabulary
    genes: GeneVocabulary
    pattern: Rows
    target: Rows | None
    gene_positions: np.ndarray | None
    gene_chromosomes: pd.Series | None
    train: np.ndarray
    held: np.ndarray
    batch_codes: np.ndarray | None
    batches: list[str]
    labels: pd.Series | None

    @property
    def is_in_memory(self) -> bool:
        """Whether all cells are in memory already."""
        return all(isinstance(piece.place, AnnData | MuData) for piece in self.pattern.pieces)

    @property
    def signatures(self) -> list[str | None]:
        """States of the files of the cells at this time; None for objects in memory."""
        return [signature(piece.place) for piece in self.pattern.pieces]

    @property
    def identity(self) -> dict[str, Any]:
        """What identifies a run on these cells, except their matrices: JSON types."""
        return {
            "cells": self.pattern.shape[0],
            "split": hash_of(self.train, self.held),
            "peaks": [len(self.peaks), hash_peaks(self.peaks.intervals)],
            "genes": hash_of(pd.Index(self.genes.names, dtype=object)),
            "labels": hash_of(self.labels),
            "batches": hash_of(self.batch_codes, pd.Index(self.batches, dtype=object)),
        }

    def label_codes(self) -> tuple[list[str], np.ndarray | None]:
        """Names of the labels, and the code of each cell, -1 for none; None without labels."""
        if self.labels is None:
            return [], None
        return check_labels(self.labels, self.train, self.held)

    def drop_rare_peaks(self, n_open: np.ndarray, min_cells: int, cells: str) -> bool:
        """Drop peaks open in fewer than `min_cells` cells (`cells` in errors); False if none."""
        kept = n_open >= min_cells
        if not kept.any():
            msg = f"No peak is open in at least `min_cells` ({min_cells}) of the {cells}."
            raise ValueError(msg)
        if kept.all():
            return False
        keep = sp.identity(len(kept), dtype=np.float32, format="csr")[:, kept]
        pieces = [
            replace(piece, projection=keep if piece.projection is None else piece.projection @ keep)
            for piece in self.pattern.pieces
        ]
        self.pattern.close()
        self.pattern = replace(self.pattern, pieces=pieces, n_columns=int(kept.sum()), _opened={})
        intervals = self.peaks.intervals[kept].reset_index(drop=True)
        self.peaks = PeakVocabulary(intervals, self.peaks.genome)
        return True

    def close(self) -> None:
        """Close the files."""
        self.pattern.close()
        if self.target is not None:
            self.target.close()


@dataclass(frozen=True)
class DataKeys:
    """Names of modalities, layer and columns, as in :func:`epifoundation.tl.pretrain`."""

    modality: str = "atac"
    rna_modality: str = "rna"
    layer: str | None = None
    batch_key: str | None = None
    label_key: str | None = None


def prepare(
    data: Any,
    objective: str,
    keys: DataKeys,
    *,
    peaks: PeakVocabulary | None = None,
    validation: float | list[str] = 0.1,
    option: str = "validation",
    init: EpiFoundation | None = None,
    map_peaks: Callable[[Source], PeakMap] | None = None,
    genome: str = "unknown",
    by_gradient: bool = False,
    rng: np.random.Generator,
) -> TrainingData:
    """Check and prepare `data`. Arguments as in :func:`epifoundation.tl.pretrain`.

    `map_peaks` maps the peaks of a source onto those of `init`; `option` is the name of
    `validation` in errors. Matrices are read and checked later, in blocks. If expression is
    learned, cells without RNA are left out.
    """
    named = as_sources(data)
    found, projections = find_peaks(named, init, peaks, keys.modality, genome, map_peaks)
    sizes: list[int] = []
    batch, labels, tables = [], [], []
    in_atac: list[np.ndarray | None] = []  # rows of the cells in either modality; None for all
    in_rna: list[np.ndarray | None] = []
    for name, place in named.items():
        with opened(place, keys.modality, name) as source:
            rows = None
            if objective != "peaks":
                pair = pair_cells(source, keys.rna_modality, objective, keys.layer)
                if keys.batch_key is not None:
                    check_same_batches(source, keys.rna_modality, keys.batch_key, pair)
                rows = pair.atac
                tables.append(pair.var)
                in_rna.append(pair.rna)
            in_atac.append(rows)
            sizes.append(source.n_obs if rows is None else len(rows))
            if keys.batch_key is not None:
                batch.append(_taken(source.column(keys.batch_key, "batch_key"), rows))
            if keys.label_key is not None:
                labels.append(_taken(source.column(keys.label_key, "label_key"), rows))
    if not sum(sizes):
        msg = "There are no cells to train on."
        raise ValueError(msg)

    def pieces(
        modality: str, projections: list[Any], rows: list[Any], layer: str | None = None
    ) -> list[Piece]:
        parts = zip(named.items(), sizes, projections, rows, strict=True)
        return [Piece(at, name, modality, n, to, layer, of) for (name, at), n, to, of in parts]

    what = "`X` of the ATAC modality"
    pattern = Rows(pieces(keys.modality, projections, in_atac), len(found), what)
    genes = GeneVocabulary([]) if init is None else init.genes
    target, positions, chromosomes = None, None, None
    if objective != "peaks":
        genes, positions, projections = common_genes(tables, init)
        if init is None:
            chromosomes = gene_chromosomes(tables[0].loc[genes.names])
        what = f"layer {keys.layer!r}" if keys.layer else "`X`"
        what += " of the RNA modality"
        target = Rows(
            pieces(keys.rna_modality, projections, in_rna, keys.layer),
            len(genes) if positions is None else len(positions),
            what,
            change=_reader(objective, what),
            signed=objective == "gaussian",
        )
    of_cells, codes, batches = None, None, []
    if keys.batch_key is not None:
        of_cells = _batch_names(pd.concat(batch, ignore_index=True), keys.batch_key)
    train, held = split_cells(sum(sizes), validation, of_cells, rng, option=option)
    if of_cells is not None:
        batches = sorted(set(of_cells.iloc[train] if by_gradient else of_cells))
        codes = pd.Index(batches).get_indexer(of_cells).astype(np.int64)
    return TrainingData(
        found,
        genes,
        pattern,
        target,
        positions,
        chromosomes,
        train,
        held,
        codes,
        batches,
        None if keys.label_key is None else pd.concat(labels, ignore_index=True),
    )


def _taken(column: pd.Series, rows: np.ndarray | None) -> pd.Series:
    return column if rows is None else column.iloc[rows].reset_index(drop=True)


def _batch_names(batch: pd.Series, key: str) -> pd.Series:
    """Names of batches as strings; ValueError if one is missing."""
    if batch.isna().any():
        msg = f"`batch_key={key!r}` is missing for {int(batch.isna().sum()):,} of "
        msg += f"{len(batch):,} cells; name their batch or leave them out."
        raise ValueError(msg)
    return batch.astype(str)


def _reader(objective: str, name: str) -> Callable[[sp.csr_matrix], sp.csr_matrix]:
    """Conversion of stored expression to the target of an objective."""

    def read(rows: sp.csr_matrix) -> sp.csr_matrix:
        if objective == "counts" and (rows.data != np.rint(rows.data)).any():
            msg = f"{name} contains non-integer values, but `objective='counts'` expects raw "
            msg += "counts: pass `layer=`, a layer of counts, or `objective='gaussian'` for "
            msg += "normalised values (in fine-tuning: `expression=False` ignores the RNA)."
            raise ValueError(msg)
        rows = as_float(rows)
        return (rows > 0).astype(np.float32) if objective == "binary" else rows

    return read
