"""Training data for gradient descent: all cells in memory, or a sample and files of the rest."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp
from tqdm import tqdm

from .._settings import settings
from ..cells.content import hash_of
from ..nn import TrainingConfig
from ..training.data import TrainingData
from ..training.rows import in_blocks
from ..training.split import check_split, mask_of, warn_unusable


@dataclass
class Loaded(TrainingData):
    """Training data in memory: `pattern` and `target` are matrices.

    Attributes
    ----------
    stored
        The data with all training cells in their files, if these are a sample of them.
    content
        Identifies the values of all cells.
    """

    pattern: sp.csr_matrix
    target: sp.csr_matrix | None
    stored: TrainingData | None = None
    content: str = ""

    @property
    def n_train(self) -> int:
        """Number of training cells, in memory or in files."""
        return len(self.train if self.stored is None else self.stored.train)


def load(
    data: TrainingData,
    objective: str,
    training: TrainingConfig,
    *,
    min_cells: int,
    rng: np.random.Generator,
) -> Loaded:
    """Leave out unusable cells and rare peaks, and read the cells that are kept in memory.

    `min_cells` is as in :func:`.training.measure.measure`.
    """
    is_train = mask_of(data.train, data.pattern.shape[0])
    n_open, n_open_in, n_counts, content = _scan(data, is_train)
    min_peaks = 2 if objective == "peaks" else 1  # without RNA, one to read and one to predict
    usable = n_open >= min_peaks
    if n_counts is not None and objective == "counts":
        usable &= n_counts > 0
    warn_unusable(usable)
    train, held = data.train[usable[data.train]], data.held[usable[data.held]]
    check_split(train, held, len(usable))
    if data.drop_rare_peaks(n_open_in, min_cells, f"{len(train):,} training cells"):
        still = _scan(data, is_train)[0] >= min_peaks  # a cell may have lost its last peak
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
    return Loaded(**(vars(data) | in_memory), stored=stored, content=content)


def _scan(
    data: TrainingData, is_train: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, str]:
    """Scan all cells: open peaks of each, training cells with each peak, total expression, content.

    The content identifies the cells.
    """
    n_cells, n_peaks = data.pattern.shape
    n_open, n_open_in = np.zeros(n_cells, np.int64), np.zeros(n_peaks, np.int64)
    n_counts = None if data.target is None else np.zeros(n_cells)
    contents: list[str] = []
    with tqdm(total=n_cells, desc="Reading", unit=" cells", disable=not settings.progress) as bar:
        for block in in_blocks(data.pattern):
            rows = np.arange(block.start, block.stop)
            part = data.pattern[rows]
            target = None if data.target is None else data.target[rows]
            contents.append(hash_of(part, target))
            n_open[rows] = np.diff(part.indptr)
            n_open_in += np.bincount(part[is_train[rows]].indices, minlength=n_peaks)
            if target is not None and n_counts is not None:
                n_counts[rows] = np.asarray(target.sum(axis=1)).ravel()
            bar.update(len(rows))
    return n_open, n_open_in, n_counts, hash_of(*contents)
