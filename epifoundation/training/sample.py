"""The sample of cells to which clusters, readouts and heads are fitted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from ..cells.matrix import read_rows
from ..nn import TrainingConfig
from .data import TrainingData
from .split import check_split, draw

MAX_SAMPLE_ENTRIES = 15_000_000  # open peaks of the sampled training cells
MIN_SAMPLE_CELLS, MAX_SAMPLE_CELLS = 1_000, 16_384  # sampled training cells, by default
PILOT = 256  # cells from which the mean number of open peaks is estimated


@dataclass
class Sample:
    """Sampled cells: rows of the data, open peaks, and which of them are validation cells.

    Training cells come first; both are in ascending order.
    """

    rows: np.ndarray
    pattern: sp.csr_matrix
    is_held: np.ndarray

    @classmethod
    def of(cls, data: TrainingData, train: np.ndarray, held: np.ndarray) -> Sample:
        """The cells of these rows."""
        rows = np.concatenate([train, held])
        return cls(rows, data.pattern[rows], np.arange(len(rows)) >= len(train))

    @property
    def train(self) -> Sample:
        """The training cells."""
        n = int((~self.is_held).sum())
        return Sample(self.rows[:n], read_rows(self.pattern, 0, n), self.is_held[:n])

    def keep(self, kept: np.ndarray) -> Sample:
        """The cells of a boolean mask; ValueError if too few are left."""
        found = self
        if not kept.all():
            found = Sample(self.rows[kept], self.pattern[kept], self.is_held[kept])
        check_split(found.rows[~found.is_held], found.rows[found.is_held], len(kept))
        return found


def sample_size(data: TrainingData, training: TrainingConfig, rng: np.random.Generator) -> int:
    """Number of training cells to sample."""
    if training.sample is not None:
        return training.sample
    depth = data.pattern.mean_entries(draw(data.train, PILOT, rng))
    return int(np.clip(MAX_SAMPLE_ENTRIES / max(depth, 1), MIN_SAMPLE_CELLS, MAX_SAMPLE_CELLS))


def draw_sample(
    data: TrainingData,
    labels: np.ndarray | None,
    training: TrainingConfig,
    rng: np.random.Generator,
) -> Sample:
    """Training cells, with some of each label, and half as many validation cells."""
    n_cells = sample_size(data, training, rng)
    train, held = draw(data.train, n_cells, rng, labels), draw(data.held, max(n_cells // 2, 1), rng)
    sample = Sample.of(data, train, held)
    return sample.keep(np.diff(sample.pattern.indptr) > 0)
