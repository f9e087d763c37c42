"""Data made ready for training: vocabulary, tokens, expression target, split and batches."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from .._validate import Data, check_paired, check_unique, check_values, get_atac, get_matrix, get_modality, obs_column
from ..genome._intervals import with_prefix
from ..models import EpiFoundation
from ..pp._mapping import PeakMap, map_onto
from ..stored import StoredCells
from ..tokens import iter_tokens, row_reader
from ..vocabulary import GeneVocabulary, PeakVocabulary


@dataclass(frozen=True)
class TrainingData:
    """What :func:`prepare` gives.

    Attributes
    ----------
    peaks, genes
        Vocabularies of the model to be.
    pattern
        Open peaks of all cells, ones, (n_cells, n_vocabulary).
    target
        Expression, (n_cells, len(gene_positions)), sparse or dense, or None.
    gene_positions
        Which genes the columns of `target` are; None for all.
    gene_chromosomes
        Chromosome of each of `genes`, NaN where unknown; None where the data tell of none.
    train, held
        Row numbers of training and validation cells.
    batch_codes, batches
        Code of each cell and names of the batches of training cells; None and empty without `batch_key`.
    stored
        Of cells in files: how to read those to learn from. All the above is then of a sample of them, in memory, and of validation cells.
    labels
        Of cells in files: labels of the sample.
    """

    peaks: PeakVocabulary
    genes: GeneVocabulary
    pattern: sp.csr_matrix
    target: sp.csr_matrix | np.ndarray | None
    gene_positions: np.ndarray | None
    gene_chromosomes: pd.Series | None
    train: np.ndarray
    held: np.ndarray
    batch_codes: np.ndarray | None
    batches: list[str]
    stored: StoredCells | None = None
    labels: pd.Series | None = None

    @property
    def n_train(self) -> int:
        """Training cells, in memory or not."""
        return len(self.train) if self.stored is None else len(self.stored.rows)


def prepare(
    data: Data,
    objective: str,
    *,
    modality: str,
    rna_modality: str,
    layer: str | None,
    batch_key: str | None,
    validation: float | list[str],
    init: EpiFoundation | None,
    rng: np.random.Generator,
    genome: str = "unknown",
    min_cells: int = 1,
    mapping: PeakMap | None = None,
) -> TrainingData:
    """Check `data` and turn it into what training reads. Arguments as in :func:`epifoundation.tl.pretrain`.

    `mapping` of the peaks onto those of `init`; without it, it is made here.
    """
    atac = get_atac(data, modality)
    genes, target, gene_chromosomes = GeneVocabulary([]), None, None
    if objective != "peaks":
        rna = _rna_of(data, atac, rna_modality, objective)
        genes, target = _expression(rna, layer, objective)
        gene_chromosomes = chromosomes(rna.var)
    batch = None if batch_key is None else batch_names(obs_column(data, atac, batch_key, "batch_key"), batch_key)
    if init is None:
        peaks, projection = PeakVocabulary.from_var(atac.var, genome=genome), None
    else:
        told = None if genome == "unknown" else genome
        peaks, projection = init.peaks, (mapping or map_onto(init.peaks, atac.var, genome=told)).projection
    pattern = _read_pattern(atac, peaks, projection)
    usable = _usable(pattern, target, objective)
    train, held = split_cells(usable, validation, batch, rng)
    positions = None
    if init is None:
        often = pattern[train].getnnz(axis=0) >= min_cells
        if not often.any():
            msg = f"No peak is open in at least `min_cells` ({min_cells}) of the {len(train):,} training cells."
            raise ValueError(msg)
        peaks = PeakVocabulary(peaks.intervals[often].reset_index(drop=True), genome)
        pattern = pattern[:, often]
        still = pattern.getnnz(axis=1) >= least_open(objective)  # a cell may have lost its last peak
        train, held = train[still[train]], held[still[held]]
        check_split(train, held, len(usable))
    else:
        genes, target, positions = _follow_genes(init.genes, genes, target)
    codes, batches = None, []
    if batch is not None:
        batches = sorted(set(batch.iloc[train]))
        codes = pd.Index(batches).get_indexer(batch).astype(np.int64)
    return TrainingData(peaks, genes, pattern, target, positions, gene_chromosomes, train, held, codes, batches)


def held_out(validation: float | Sequence[str] | None) -> float | list[str]:
    """What is held out to choose the epoch: a fraction of the cells, or names of batches."""
    if validation is None:
        return 0.1
    if isinstance(validation, float | int | np.floating):
        return float(validation)
    return [validation] if isinstance(validation, str) else [str(name) for name in validation]


def _rna_of(data: Data, atac: AnnData, rna_modality: str, objective: str) -> AnnData:
    if data is atac:
        msg = (
            f"`objective={objective!r}` needs RNA and an AnnData has none: pass a MuData with both modalities, "
            "or `objective='peaks'` to pretrain on ATAC alone."
        )
        raise ValueError(msg)
    rna = get_modality(data, rna_modality, option="rna_modality")
    check_unique(rna.var_names, "gene names", "call `var_names_make_unique()`")
    check_paired(atac, rna)
    return rna


def _expression(rna: AnnData, layer: str | None, objective: str) -> tuple[GeneVocabulary, Any]:
    matrix = row_reader(get_matrix(rna, layer))
    matrix = matrix[:] if not sp.issparse(matrix) else matrix  # backed: read
    name = f"layer {layer!r} of the RNA modality" if layer else "`X` of the RNA modality"
    if sp.issparse(matrix):
        values, indptr = matrix.data, matrix.indptr
    else:
        matrix = np.asarray(matrix, dtype=np.float32)
        values, indptr = matrix.ravel(), np.arange(rna.n_obs + 1) * rna.n_vars
    check_values(values, indptr, rna.obs_names, name, signed=objective == "gaussian")
    if objective == "counts" and (values % 1 != 0).any():
        msg = (
            f"{name} holds fractions and `objective='counts'` expects raw counts: name a layer of counts with `layer=`, "
            "or use `objective='gaussian'` for normalised values (in fine-tuning: `expression=False` leaves the RNA aside)."
        )
        raise ValueError(msg)
    if objective == "gaussian":  # zeros are values here
        matrix = matrix.toarray() if sp.issparse(matrix) else matrix
    else:
        matrix = sp.csr_matrix(matrix, dtype=np.float32)
        if objective == "binary":  # before any pooling: the share of a cell's neighbours that express the gene
            matrix = (matrix > 0).astype(np.float32)
    return GeneVocabulary.from_var(rna.var), matrix


def chromosomes(var: pd.DataFrame) -> pd.Series | None:
    """Chromosome of each gene, from a column with it or from the interval that 10x readers keep."""
    for column in ("chrom", "chromosome", "interval"):
        if column in var.columns:
            names = [None if pd.isna(name) else str(name).split(":")[0].removesuffix(".0") for name in var[column]]
            return with_prefix(pd.Series(names, index=var.index, dtype=object))
    return None


def _read_pattern(atac: AnnData, peaks: PeakVocabulary, projection: sp.csr_matrix | None) -> sp.csr_matrix:
    parts = [
        sp.csr_matrix((np.ones(len(t.ids), np.float32), t.ids, t.offsets), shape=(len(t), len(peaks)))
        for _, t in iter_tokens(get_matrix(atac, None), projection, atac.obs_names)
    ]
    if not parts:
        msg = "There are no cells to train on."
        raise ValueError(msg)
    return sp.vstack(parts, format="csr")


def least_open(objective: str) -> int:
    """One peak to read, and without RNA another one to predict."""
    return 2 if objective == "peaks" else 1


def batch_names(batch: pd.Series, key: str) -> pd.Series:
    """Names of batches as text; an error where one is missing."""
    if batch.isna().any():
        msg = f"`batch_key={key!r}` is missing for {int(batch.isna().sum()):,} of {len(batch):,} cells; name their batch or leave them out."
        raise ValueError(msg)
    return batch.astype(str)


def _usable(pattern: sp.csr_matrix, target: Any, objective: str) -> np.ndarray:
    """Cells with an open peak and, for counts, with RNA."""
    usable = pattern.getnnz(axis=1) >= least_open(objective)
    if objective == "counts":
        usable &= np.asarray(target.sum(axis=1)).ravel() > 0
    warn_unusable(usable)
    return usable


def warn_unusable(usable: np.ndarray) -> None:
    """Tell how many cells are left out."""
    if not usable.all():
        msg = f"{int((~usable).sum()):,} of {len(usable):,} cells have no open peak or no RNA and are left out of training."
        warnings.warn(msg, UserWarning, stacklevel=5)


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
    """Raise where there is too little to train or to validate on."""
    if len(train) < 2 or not len(held):
        msg = f"Too few cells: {len(train)} to train on and {len(held)} to validate on, of {n_cells}."
        raise ValueError(msg)


def _follow_genes(
    wanted: GeneVocabulary, genes: GeneVocabulary, target: Any
) -> tuple[GeneVocabulary, Any, np.ndarray | None]:
    """Columns of `target` that a model's genes have, and which of its genes they are."""
    if target is None:
        return wanted, None, None
    positions, columns = np.unique(wanted.match(genes), return_index=True)
    positions, columns = positions[positions >= 0], columns[positions >= 0]
    if len(positions) < 2:
        msg = (
            f"The data share {len(positions)} of the {len(wanted):,} genes of `init`, the model: "
            f"{genes.names[:3]} against {wanted.names[:3]}. Name genes as the model does (in fine-tuning: `expression=False` leaves the RNA aside)."
        )
        raise ValueError(msg)
    return wanted, target[:, columns], positions
