"""Training data as gradient training reads them: all cells in memory, or a sample of them and the files of the rest."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp
from tqdm import tqdm

from .._settings import settings
from ..nn import TrainingConfig
from ..training.data import TrainingData, check_split, is_among, warn_unusable
from ..training.rows import in_blocks


@dataclass
class Loaded(TrainingData):
    """Training data in memory: `pattern` and `target` are matrices.

    Attributes
    ----------
    stored
        If these are a sample of the cells: the data with all training cells in their files.
    """

    pattern: sp.csr_matrix
    target: sp.csr_matrix | None
    stored: TrainingData | None = None

    @property
    def n_train(self) -> int:
        """Training cells, in memory or not."""
        return len(self.train if self.stored is None else self.stored.train)


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
    is_train = is_among(data.train, data.pattern.shape[0])
    n_open, often, n_counts = _look(data, is_train)
    least = (
        2 if objective == "peaks" else 1
    )  # one peak to read, and without RNA another one to predict
    usable = n_open >= least
    if n_counts is not None and objective == "counts":
        usable &= n_counts > 0
    warn_unusable(usable, stacklevel=5)
    train, held = data.train[usable[data.train]], data.held[usable[data.held]]
    check_split(train, held, len(usable))
    if not keep_vocabulary and data.drop_rare_peaks(
        often, min_cells, f"{len(train):,} training cells"
    ):
        still = _look(data, is_train)[0] >= least  # a cell may have lost its last peak
        train, held = train[still[train]], held[still[held]]
        check_split(train, held, len(usable))
    stored, sample = None, train
    if not data.is_in_memory:
        sample = np.sort(rng.choice(train, min(len(train), training.buffer), replace=False))
        held = np.sort(rng.choice(held, min(len(held), training.buffer), replace=False))
        stored = replace(data, train=train)
    both = np.concatenate([sample, held])
    in_memory = {
        "pattern": data.pattern[both],
        "target": None if data.target is None else data.target[both],
        "train": np.arange(len(sample)),
        "held": np.arange(len(sample), len(both)),
        "batch_codes": None if data.batch_codes is None else data.batch_codes[both],
        "labels": None if data.labels is None else data.labels.iloc[both].reset_index(drop=True),
    }
    return Loaded(**(vars(data) | in_memory), stored=stored)


def _look(
    data: TrainingData, is_train: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
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
