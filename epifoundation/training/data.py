"""Data made ready to learn from: vocabulary, tokens, expression, split, batches and labels of one or several sources."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData

from .._validate import check_paired, check_unique
from .._warn import naming
from ..cells.formats import opened
from ..cells.source import InMemory, Located, Source, as_sources
from ..genome import read_intervals
from ..genome._intervals import with_prefix
from ..models import EpiFoundation
from ..peaks.mapping import PeakMap, map_onto
from ..peaks.vocabulary import GeneVocabulary, PeakVocabulary
from ..pp._consensus_peaks import consensus_peaks
from .label_head import check_labels
from .rows import BLOCK_CELLS, Piece, Rows, as_float

OF_LABEL = 20  # cells of each label that are drawn at least, if there are as many
RUN = 32  # cells that lie together and are drawn together: chunks on disk hold more


@dataclass
class TrainingData:
    """What :func:`prepare` gives. Cells are numbered through all sources, in their order.

    Attributes
    ----------
    peaks, genes
        Vocabularies of the model to be.
    pattern
        Open peaks of all cells.
    target
        Expression of all cells, (n_cells, len(gene_positions)), or None.
    gene_positions
        Which of `genes` the columns of `target` are; None for all of them.
    gene_chromosomes
        Chromosome of each of `genes`, NaN where unknown; None if the data have none.
    train, held
        Row numbers of training and validation cells, ascending.
    batch_codes, batches
        Code of each cell, and names of the batches; None and empty without `batch_key`. For training by gradient batches of
        validation cells alone are left out, and have code -1.
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

    def label_codes(self) -> tuple[list[str], np.ndarray | None]:
        """Names of the labels, and the code of each cell, -1 for none; None without labels."""
        if self.labels is None:
            return [], None
        return check_labels(self.labels, self.train, self.held)

    def drop_rare_peaks(self, n_open: np.ndarray, min_cells: int, cells: str) -> bool:
        """Leave out peaks that are open in fewer of the `cells` (text); whether there are any."""
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
        self.peaks = PeakVocabulary(
            self.peaks.intervals[kept].reset_index(drop=True), self.peaks.genome
        )
        return True

    def close(self) -> None:
        """Let go of the files."""
        self.pattern.close()
        if self.target is not None:
            self.target.close()


def prepare(
    data: Any,
    objective: str,
    *,
    modality: str,
    rna_modality: str = "rna",
    layer: str | None = None,
    peaks: PeakVocabulary | None = None,
    batch_key: str | None = None,
    label_key: str | None = None,
    validation: float | list[str] = 0.1,
    option: str = "validation",
    init: EpiFoundation | None = None,
    map_peaks: Callable[[Source], PeakMap] | None = None,
    genome: str = "unknown",
    by_gradient: bool = False,
    rng: np.random.Generator,
) -> TrainingData:
    """Check `data` and make it ready. Arguments as in :func:`epifoundation.tl.pretrain`.

    `map_peaks` maps the peaks of a source onto those of `init`. Matrices are not read here but by blocks,
    later on; their values are checked then.
    """
    named = as_sources(data)
    found, projections = _vocabulary(named, init, peaks, modality, genome, map_peaks)
    sizes, batch, labels = [], [], []
    tables: list[pd.DataFrame] = []
    for name, place in named.items():
        with opened(place, modality, name) as source:
            sizes.append(source.n_obs)
            if batch_key is not None:
                batch.append(source.column(batch_key, "batch_key"))
            if label_key is not None:
                labels.append(source.column(label_key, "label_key"))
            if objective != "peaks":
                tables.append(_rna_table(source, rna_modality, objective, layer))
    if not sum(sizes):
        msg = "There are no cells to train on."
        raise ValueError(msg)

    def rows(
        modality: str,
        projections: list[Any],
        n: int,
        what: str,
        layer: str | None = None,
        **options: Any,
    ) -> Rows:
        parts = zip(named.items(), sizes, projections, strict=True)
        pieces = [
            Piece(place, name, modality, size, each, layer) for (name, place), size, each in parts
        ]
        return Rows(pieces, n, what, **options)

    what = "`X` of the ATAC modality"
    pattern = rows(modality, projections, len(found), what)
    genes, target, positions, of_chromosomes = GeneVocabulary([]), None, None, None
    if init is not None:
        genes = init.genes
    if objective != "peaks":
        genes, positions, projections = _common_genes(tables, init)
        if init is None:
            of_chromosomes = chromosomes(tables[0].loc[genes.names])
        name = f"layer {layer!r} of the RNA modality" if layer else "`X` of the RNA modality"
        n_genes = len(genes) if positions is None else len(positions)
        options = {"change": _reader(objective, name), "signed": objective == "gaussian"}
        target = rows(rna_modality, projections, n_genes, name, layer, **options)
    of_batch = (
        None if batch_key is None else batch_names(pd.concat(batch, ignore_index=True), batch_key)
    )
    train, held = split_cells(np.ones(sum(sizes), bool), validation, of_batch, rng, option=option)
    codes, batches = None, []
    if of_batch is not None:
        batches = sorted(set(of_batch.iloc[train] if by_gradient else of_batch))
        codes = pd.Index(batches).get_indexer(of_batch).astype(np.int64)
    of_label = None if label_key is None else pd.concat(labels, ignore_index=True)
    return TrainingData(
        found,
        genes,
        pattern,
        target,
        positions,
        of_chromosomes,
        train,
        held,
        codes,
        batches,
        of_label,
    )


def draw(
    rows: np.ndarray, most: int, rng: np.random.Generator, labels: np.ndarray | None = None
) -> np.ndarray:
    """Some of the rows, ascending: all, or runs of rows that lie together, so that files are read fast.

    Parameters
    ----------
    rows
        Row numbers of cells, ascending.
    most
        How many to draw.
    rng
        Source of randomness.
    labels
        Codes of labels of all cells, -1 for none. Of each label a few cells are drawn, beside the others.
    """
    if len(rows) <= most:
        return rows
    runs = np.split(rows, np.arange(RUN, len(rows), RUN))
    order = rng.permutation(len(runs))
    n_runs = int(np.searchsorted(np.cumsum([len(runs[i]) for i in order]), most)) + 1
    drawn = np.concatenate([runs[i] for i in np.sort(order[:n_runs])])[:most]
    if labels is None:
        return drawn
    of_rows, few = labels[rows], [drawn]
    missing = np.bincount(labels[drawn][labels[drawn] >= 0], minlength=labels.max() + 1) < OF_LABEL
    few += [rng.permutation(rows[of_rows == code])[:OF_LABEL] for code in np.flatnonzero(missing)]
    return np.unique(np.concatenate(few))


def is_among(rows: np.ndarray, n_cells: int) -> np.ndarray:
    """Which cells are among the rows, boolean (n_cells,)."""
    found = np.zeros(n_cells, bool)
    found[rows] = True
    return found


def held_out(validation: float | Sequence[str] | None) -> float | list[str]:
    """What is held out: a fraction of the cells, or names of batches."""
    if validation is None:
        return 0.1
    if isinstance(validation, float | int | np.floating):
        return float(validation)
    return [validation] if isinstance(validation, str) else [str(name) for name in validation]


def split_cells(
    usable: np.ndarray,
    validation: float | list[str],
    batch: pd.Series | None,
    rng: np.random.Generator,
    *,
    option: str = "validation",
) -> tuple[np.ndarray, np.ndarray]:
    """Rows to learn from and rows that are held out."""
    rows = np.flatnonzero(usable)
    if isinstance(validation, float):
        if not 0 < validation < 1:
            msg = f"`{option}` must be a fraction between 0 and 1 or a list of batches, got {validation!r}."
            raise ValueError(msg)
        held = rng.permutation(rows)[: max(1, round(validation * len(rows)))]
    else:
        names = validation
        if batch is None:
            msg = f"`{option}={names}` names batches: say with `batch_key=` in which column of `obs` they are."
            raise ValueError(msg)
        unknown = sorted(set(names) - set(batch))
        if unknown or not names:
            msg = f"`{option}` must name batches of {sorted(set(batch))}, got {unknown or names}."
            raise ValueError(msg)
        held = rows[batch.iloc[rows].isin(names)]
    held = np.sort(held)
    train = np.setdiff1d(rows, held)
    check_split(train, held, len(usable))
    return train, held


def check_split(train: np.ndarray, held: np.ndarray, n_cells: int) -> None:
    """Raise if there is too little to train or to validate on."""
    if len(train) < 2 or not len(held):
        msg = (
            f"Too few cells: {len(train)} to train on and {len(held)} to validate on, of {n_cells}."
        )
        raise ValueError(msg)


def warn_unusable(usable: np.ndarray, stacklevel: int = 5) -> None:
    """Warn of cells that are left out."""
    if not usable.all():
        msg = f"{int((~usable).sum()):,} of {len(usable):,} cells have no open peak or no RNA and are left out of training."
        warnings.warn(msg, UserWarning, stacklevel=stacklevel)


def batch_names(batch: pd.Series, key: str) -> pd.Series:
    """Names of batches as text; an error where one is missing."""
    if batch.isna().any():
        msg = f"`batch_key={key!r}` is missing for {int(batch.isna().sum()):,} of {len(batch):,} cells; name their batch or leave them out."
        raise ValueError(msg)
    return batch.astype(str)


def chromosomes(var: pd.DataFrame) -> pd.Series | None:
    """Chromosome of each gene, from a column with it or from the interval that 10x readers keep."""
    for column in ("chrom", "chromosome", "interval"):
        if column in var.columns:
            names = [
                None if pd.isna(name) else str(name).split(":")[0].removesuffix(".0")
                for name in var[column]
            ]
            return with_prefix(pd.Series(names, index=var.index, dtype=object))
    return None


def _vocabulary(
    named: Mapping[str, Located],
    init: EpiFoundation | None,
    peaks: PeakVocabulary | None,
    modality: str,
    genome: str,
    map_peaks: Callable[[Source], PeakMap] | None,
) -> tuple[PeakVocabulary, list[sp.csr_matrix | None]]:
    """Peaks of the model to be, and how those of each source lie on them."""
    stated = None if genome == "unknown" else genome
    tables, mapped = {}, {}
    for name, place in named.items():
        with opened(place, modality, name) as source:
            tables[name] = source.var
            if map_peaks is not None:
                with naming(repr(name) if len(named) > 1 else ""):
                    mapped[name] = map_peaks(source).projection
    if init is not None:
        found = init.peaks
    elif peaks is not None:
        found = peaks
    elif len(tables) == 1:
        return PeakVocabulary.from_var(next(iter(tables.values())), genome=genome), [None]
    else:
        found = consensus_peaks(tables, genome=stated)
    if mapped:
        return found, list(mapped.values())
    projections: list[sp.csr_matrix | None] = []
    for name, var in tables.items():
        if found.same_as(read_intervals(var)):
            projections.append(None)
            continue
        with naming(repr(name) if len(named) > 1 else ""):
            projections.append(map_onto(found, var, genome=stated).projection)
    return found, projections


def _rna_table(
    source: Source, rna_modality: str, objective: str, layer: str | None
) -> pd.DataFrame:
    """``var`` of the RNA of the same cells."""
    rna = source.other(rna_modality)
    if rna is None:
        of = (
            "an AnnData has none"
            if isinstance(source, InMemory) and isinstance(source.data, AnnData)
            else None
        )
        of = of or f"{source.name} has no modality {rna_modality!r} (`rna_modality=`)"
        msg = (
            f"`objective={objective!r}` needs RNA and {of}: pass a MuData with both modalities (in memory, .h5mu or zarr), "
            "or `objective='peaks'` to pretrain on ATAC alone."
        )
        raise ValueError(msg)
    if layer is not None:
        rna.matrix(layer)  # an error if there is no such layer
    check_unique(rna.var.index, "gene names", "call `var_names_make_unique()`")
    if isinstance(source, InMemory) and isinstance(rna, InMemory):
        check_paired(source.adata, rna.adata)
        return rna.var
    paired = rna.n_obs == source.n_obs
    for start in range(0, source.n_obs if paired else 0, BLOCK_CELLS):
        stop = min(start + BLOCK_CELLS, source.n_obs)
        paired &= source.names(start, stop).equals(rna.names(start, stop))
    if not paired:
        msg = (
            f"The modalities of {source.name} do not hold the same cells in the same order: "
            f"{source.n_obs:,} cells with ATAC, {rna.n_obs:,} with RNA."
        )
        raise ValueError(msg)
    return rna.var


def _common_genes(
    tables: list[pd.DataFrame], init: EpiFoundation | None
) -> tuple[GeneVocabulary, np.ndarray | None, list[sp.csr_matrix | None]]:
    """Genes of the model to be, which of them all sources have, and how the genes of each source lie on these."""
    of_sources = [GeneVocabulary.from_var(var) for var in tables]
    if init is None and len(tables) == 1:
        return of_sources[0], None, [None]
    of_model = of_sources[0] if init is None else init.genes
    found = [
        of_model.match(each) for each in of_sources
    ]  # positions among the model's, by gene of a source
    common = np.flatnonzero(
        np.logical_and.reduce([np.isin(np.arange(len(of_model)), each) for each in found])
    )
    if len(common) < 2:
        first = [each.names[:3] for each in of_sources[:3]]
        if init is None:
            msg = f"The files share {len(common)} genes: {first}. Name genes in the same way in all of them."
        else:
            msg = (
                f"The data share {len(common)} of the {len(of_model):,} genes of `init`, the model: {first} against "
                f"{of_model.names[:3]}. Name genes as the model does (in fine-tuning: `expression=False` leaves the RNA aside)."
            )
        raise ValueError(msg)
    projections: list[sp.csr_matrix | None] = []
    for positions, genes in zip(found, of_sources, strict=True):
        column = np.full(len(of_model), -1)
        column[common] = np.arange(len(common))
        column = np.where(positions >= 0, column[positions], -1)
        kept = np.flatnonzero(column >= 0)
        kept = kept[np.unique(column[kept], return_index=True)[1]]  # a gene of a source once
        shape = (len(genes), len(common))
        projections.append(
            sp.csr_matrix((np.ones(len(kept), np.float32), (kept, column[kept])), shape=shape)
        )
    if init is not None:
        return init.genes, common, projections
    return of_model.take(common), None, projections


def _reader(objective: str, name: str) -> Callable[[sp.csr_matrix], sp.csr_matrix]:
    """What is made of expression as it is stored."""

    def read(rows: sp.csr_matrix) -> sp.csr_matrix:
        if objective == "counts" and (rows.data != np.rint(rows.data)).any():
            msg = (
                f"{name} holds fractions and `objective='counts'` expects raw counts: name a layer of counts with `layer=`, "
                "or use `objective='gaussian'` for normalised values (in fine-tuning: `expression=False` leaves the RNA aside)."
            )
            raise ValueError(msg)
        rows = as_float(rows)
        return (rows > 0).astype(np.float32) if objective == "binary" else rows

    return read
