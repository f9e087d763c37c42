"""Training data as gradient training reads them: all cells in memory, or a sample of them and the files of the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from tqdm import tqdm

from .._settings import settings
from ..nn import TrainingConfig
from ..training.data import TrainingData, check_split, warn_unusable
from ..training.rows import in_blocks
from ..vocabulary import GeneVocabulary, PeakVocabulary
from .minibatches import StoredCells


@dataclass(frozen=True)
class Loaded:
    """Cells in memory, training and validation cells.

    Attributes
    ----------
    peaks, genes, gene_positions, gene_chromosomes, batches
        As in :class:`epifoundation.training.data.TrainingData`.
    pattern
        Open peaks, (n_cells, n_vocabulary).
    target
        Expression, (n_cells, n_genes), sparse or dense, or None.
    train, held
        Which of these cells are learned from and validated on.
    batch_codes
        Code of the batch of each, or None.
    labels
        Label of each, or None.
    stored
        If these are a sample of the training cells: all of them in their files.
    """

    peaks: PeakVocabulary
    genes: GeneVocabulary
    pattern: sp.csr_matrix
    target: Any
    gene_positions: np.ndarray | None
    gene_chromosomes: pd.Series | None
    train: np.ndarray
    held: np.ndarray
    batch_codes: np.ndarray | None
    batches: list[str]
    labels: pd.Series | None
    stored: StoredCells | None = None

    @property
    def n_train(self) -> int:
        """Training cells, in memory or not."""
        return len(self.train) if self.stored is None else len(self.stored.rows)


def load(
    data: TrainingData,
    objective: str,
    training: TrainingConfig,
    *,
    min_cells: int,
    keep_vocabulary: bool,
    rng: np.random.Generator,
) -> Loaded:
    """Look over all cells, leave out those with nothing to learn from and rare peaks, and read what is held in memory."""
    is_train = np.zeros(data.pattern.shape[0], bool)
    is_train[data.train] = True
    n_open, often, n_counts = _look(data, is_train)
    least = 2 if objective == "peaks" else 1  # one peak to read, and without RNA another one to predict
    usable = n_open >= least
    if n_counts is not None and objective == "counts":
        usable &= n_counts > 0
    warn_unusable(usable, stacklevel=5)
    train, held = data.train[usable[data.train]], data.held[usable[data.held]]
    check_split(train, held, len(usable))
    if not keep_vocabulary:
        kept = often >= min_cells
        if not kept.any():
            msg = f"No peak is open in at least `min_cells` ({min_cells}) of the {len(train):,} training cells."
            raise ValueError(msg)
        if not kept.all():
            data.keep_peaks(kept)
            still = _look(data, is_train)[0] >= least  # a cell may have lost its last peak
            train, held = train[still[train]], held[still[held]]
            check_split(train, held, len(usable))
    is_dense, stored, sample = objective == "gaussian", None, train
    if not data.is_in_memory:
        sample = np.sort(rng.choice(train, min(len(train), training.buffer), replace=False))
        held = np.sort(rng.choice(held, min(len(held), training.buffer), replace=False))
        stored = StoredCells(data.pattern, data.target, train, data.batch_codes, None, training.buffer, is_dense)
    both = np.concatenate([sample, held])
    target = None if data.target is None else data.target[both]
    return Loaded(
        data.peaks,
        data.genes,
        data.pattern[both],
        target.toarray() if is_dense and target is not None else target,
        data.gene_positions,
        data.gene_chromosomes,
        np.arange(len(sample)),
        np.arange(len(sample), len(both)),
        None if data.batch_codes is None else data.batch_codes[both],
        data.batches,
        None if data.labels is None else data.labels.iloc[both].reset_index(drop=True),
        stored,
    )


def _look(data: TrainingData, is_train: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Open peaks of each cell, training cells in which each peak is open, and the sum of each cell's expression."""
    n_cells, n_peaks = data.pattern.shape
    n_open, often = np.zeros(n_cells, np.int64), np.zeros(n_peaks, np.int64)
    n_counts = None if data.target is None else np.zeros(n_cells)
    with tqdm(total=n_cells, desc="Reading", unit=" cells", disable=not settings.progress) as bar:
        for block in in_blocks(data.pattern):
            rows = np.arange(block.start, block.stop)
            part = data.pattern[rows]
            n_open[rows] = np.diff(part.indptr)
            often += np.bincount(part[is_train[rows]].indices, minlength=n_peaks)
            if data.target is not None and n_counts is not None:
                n_counts[rows] = np.asarray(data.target[rows].sum(axis=1)).ravel()
            bar.update(len(rows))
    return n_open, often, n_counts
