"""Files made ready for training: one look at all cells, a sample of them in memory, and the rest read while training runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from tqdm import tqdm

from .._settings import settings
from ..genome import read_intervals
from ..models import EpiFoundation
from ..pp._consensus_peaks import consensus_peaks
from ..pp._mapping import map_onto
from ..sources import Located, Source, as_sources, open_source
from ..stored import Piece, StoredCells, StoredRows, as_float, as_pattern
from ..vocabulary import GeneVocabulary, PeakVocabulary
from ._training_data import TrainingData, batch_names, check_split, chromosomes, least_open, split_cells, warn_unusable

BLOCK = 4096


def prepare_stored(
    data: Any,
    objective: str,
    *,
    peaks: PeakVocabulary | None,
    modality: str,
    rna_modality: str,
    layer: str | None,
    batch_key: str | None,
    label_key: str | None,
    validation: float | list[str],
    init: EpiFoundation | None,
    rng: np.random.Generator,
    genome: str,
    min_cells: int,
    buffer: int,
) -> TrainingData:
    """As :func:`._training_data.prepare`, of cells in files; what is in memory is a sample of them, and how to read all."""
    named = as_sources(data)
    found, projections = _vocabulary(named, init, peaks, modality, genome)
    sizes, batch, labels = [], [], []
    tables: list[pd.DataFrame] = []
    for name, place in named.items():
        with _opened(place, modality, name) as source:
            sizes.append(source.n_obs)
            if batch_key is not None:
                batch.append(source.column(batch_key, "batch_key"))
            if label_key is not None:
                labels.append(source.column(label_key, "label_key"))
            if objective != "peaks":
                tables.append(_rna_table(source, rna_modality, objective))
    places = list(named.values())
    pattern = StoredRows(
        _pieces(places, sizes, projections, modality=modality, layer=None), len(found), "`X`", as_pattern
    )
    genes, target, positions, of_chromosomes = GeneVocabulary([]), None, None, None
    if objective != "peaks":
        genes, target, positions = _target(places, sizes, tables, init, rna_modality, layer, objective)
        of_chromosomes = chromosomes(tables[0].loc[genes.names]) if init is None else None
    of_batch = None if batch_key is None else batch_names(pd.concat(batch, ignore_index=True), batch_key)
    is_held = np.zeros(sum(sizes), bool)
    if of_batch is not None and isinstance(validation, list):
        is_held = of_batch.isin(validation).to_numpy()
    n_open, often, n_counts = _look(pattern, target, ~is_held, min(BLOCK, buffer))
    usable = n_open >= least_open(objective)
    if n_counts is not None and objective == "counts":
        usable &= n_counts > 0
    warn_unusable(usable)
    train, held = split_cells(usable, validation, of_batch, rng)
    if init is None:
        kept = often >= min_cells
        if not kept.any():
            msg = f"No peak is open in at least `min_cells` ({min_cells}) of the {len(train):,} training cells."
            raise ValueError(msg)
        if not kept.all():
            keep = sp.identity(len(found), dtype=np.float32, format="csr")[:, kept]
            found = PeakVocabulary(found.intervals[kept].reset_index(drop=True), found.genome)
            projections = [keep if projection is None else projection @ keep for projection in projections]
            pattern.close()
            pieces = _pieces(places, sizes, projections, modality=modality, layer=None)
            pattern = StoredRows(pieces, len(found), "`X`", as_pattern)
        if min_cells > 1:  # a cell may have lost its last peak
            still = _look(pattern, None, ~is_held, min(BLOCK, buffer))[0] >= least_open(objective)
            train, held = train[still[train]], held[still[held]]
            check_split(train, held, len(usable))
    codes, batches = None, []
    if of_batch is not None:
        batches = sorted(set(of_batch.iloc[train]))
        codes = pd.Index(batches).get_indexer(of_batch).astype(np.int64)
    sample = np.sort(rng.choice(train, min(len(train), buffer), replace=False))
    held = np.sort(rng.choice(held, min(len(held), buffer), replace=False))
    both = np.concatenate([sample, held])
    stored = StoredCells(pattern, target, train, codes, None, buffer, objective == "gaussian", sample)
    values = None if target is None else target[both]
    if objective == "gaussian" and values is not None:
        values = values.toarray()
    return TrainingData(
        found,
        genes,
        pattern[both],
        values,
        positions,
        of_chromosomes,
        np.arange(len(sample)),
        np.arange(len(sample), len(both)),
        None if codes is None else codes[both],
        batches,
        stored,
        None if label_key is None else pd.concat(labels, ignore_index=True).iloc[both].reset_index(drop=True),
    )


def _vocabulary(
    named: Mapping[str, Located],
    init: EpiFoundation | None,
    peaks: PeakVocabulary | None,
    modality: str,
    genome: str,
) -> tuple[PeakVocabulary, list[sp.csr_matrix | None]]:
    """Peaks of the model to be, and how those of each file lie on them."""
    told = None if genome == "unknown" else genome
    tables = {}
    for name, place in named.items():
        with _opened(place, modality, name) as source:
            tables[name] = source.var
    if init is not None:
        found = init.peaks
    elif peaks is not None:
        found = peaks
    elif len(tables) == 1:
        found = PeakVocabulary.from_var(next(iter(tables.values())), genome=genome)
        return found, [None]
    else:
        found = consensus_peaks(tables, genome=told)
    projections: list[sp.csr_matrix | None] = []
    for name, var in tables.items():
        if found.same_as(read_intervals(var)):
            projections.append(None)
            continue
        try:
            projections.append(map_onto(found, var, genome=told).projection)
        except ValueError as error:
            msg = f"{name!r}: {error}"
            raise ValueError(msg) from error
    return found, projections


def _rna_table(source: Source, rna_modality: str, objective: str) -> pd.DataFrame:
    """``var`` of the RNA of the same cells."""
    rna = source.other(rna_modality)
    if rna is None:
        msg = (
            f"`objective={objective!r}` needs RNA, and {source.name} has no modality {rna_modality!r}: pass MuData with both (.h5mu or zarr), "
            "or `objective='peaks'` to pretrain on ATAC alone."
        )
        raise ValueError(msg)
    paired = rna.n_obs == source.n_obs
    for start in range(0, source.n_obs if paired else 0, BLOCK):
        stop = min(start + BLOCK, source.n_obs)
        paired &= source.names(start, stop).equals(rna.names(start, stop))
    if not paired:
        msg = f"The modalities of {source.name} do not hold the same cells in the same order: {source.n_obs:,} cells with ATAC, {rna.n_obs:,} with RNA."
        raise ValueError(msg)
    return rna.var


def _target(
    places: list[Located],
    sizes: list[int],
    tables: list[pd.DataFrame],
    init: EpiFoundation | None,
    rna_modality: str,
    layer: str | None,
    objective: str,
) -> tuple[GeneVocabulary, StoredRows, np.ndarray | None]:
    """Genes that all files have, in the order of the first or of `init`; counts of them; and which genes of `init` they are."""
    theirs = [GeneVocabulary.from_var(var) for var in tables]
    of_model = theirs[0] if init is None else init.genes
    found = [of_model.match(each) for each in theirs]  # positions among the model's, by gene of a file
    common = np.flatnonzero(np.logical_and.reduce([np.isin(np.arange(len(of_model)), each) for each in found]))
    if len(common) < 2:
        msg = f"The files share {len(common)} genes{'' if init is None else ' of `init`, the model'}: {[each.names[:3] for each in theirs[:3]]}. Name genes alike in all of them."
        raise ValueError(msg)
    projections: list[sp.csr_matrix | None] = []
    for positions, own in zip(found, theirs, strict=True):
        column = np.full(len(of_model), -1)
        column[common] = np.arange(len(common))
        column = np.where(positions >= 0, column[positions], -1)
        kept = np.flatnonzero(column >= 0)
        kept = kept[np.unique(column[kept], return_index=True)[1]]  # a gene of a file once
        shape = (len(own), len(common))
        projections.append(sp.csr_matrix((np.ones(len(kept), np.float32), (kept, column[kept])), shape=shape))
    name = f"layer {layer!r} of the RNA modality" if layer else "`X` of the RNA modality"

    def counts(rows: sp.csr_matrix) -> sp.csr_matrix:
        if objective == "counts" and (rows.data % 1 != 0).any():
            msg = (
                f"{name} holds fractions and `objective='counts'` expects raw counts: name a layer of counts with `layer=`, "
                "or use `objective='gaussian'` for normalised values."
            )
            raise ValueError(msg)
        rows = as_float(rows)
        return (rows > 0).astype(np.float32) if objective == "binary" else rows

    pieces = _pieces(places, sizes, projections, modality=rna_modality, layer=layer)
    target = StoredRows(pieces, len(common), name, counts, signed=objective == "gaussian")
    if init is not None:
        return init.genes, target, common
    ids = None if of_model.ids is None else [of_model.ids[int(i)] for i in common]
    return GeneVocabulary([of_model.names[int(i)] for i in common], ids), target, None


def _look(
    pattern: StoredRows, target: StoredRows | None, is_counted: np.ndarray, at_once: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Open peaks of each cell, cells in which each peak is open, and the sum of each cell's expression: one pass over the files."""
    n_cells, n_peaks = pattern.shape
    n_open, often = np.zeros(n_cells, np.int64), np.zeros(n_peaks, np.int64)
    n_counts = None if target is None else np.zeros(n_cells)
    with tqdm(total=n_cells, desc="Reading", unit=" cells", disable=not settings.progress) as bar:
        for rows, part in pattern.blocks(at_once):
            n_open[rows] = part.getnnz(axis=1)
            often += np.bincount(part[is_counted[rows]].indices, minlength=n_peaks)
            if target is not None and n_counts is not None:
                n_counts[rows] = np.asarray(target[np.arange(rows.start, rows.stop)].sum(axis=1)).ravel()
            bar.update(part.shape[0])
    return n_open, often, n_counts


def _pieces(
    places: list[Located],
    sizes: list[int],
    projections: list[sp.csr_matrix | None],
    *,
    modality: str,
    layer: str | None,
) -> list[Piece]:
    return [
        Piece(place, modality, n, projection, layer)
        for place, n, projection in zip(places, sizes, projections, strict=True)
    ]


@contextmanager
def _opened(place: Located, modality: str, name: str) -> Iterator[Source]:
    source = open_source(place, modality, name=name)
    try:
        yield source
    finally:
        source.close()


def is_stored(data: Any) -> bool:
    """Whether data are to be read from files: a path, or several sources."""
    return isinstance(data, str | Path | list | tuple) or (isinstance(data, Mapping) and not hasattr(data, "obs"))
