"""Minibatches of cells, in an order that seed and epoch determine: from memory, or from files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from ..tokens import ahead
from ..training.rows import Rows

RUN = 256  # cells that lie together are read together: chunks on disk hold about as many


class Batch(NamedTuple):
    """Some cells: packed tokens, expression target, code of batch and of label (None where there is none)."""

    ids: Tensor
    offsets: Tensor
    target: Tensor | None
    batch: Tensor | None = None
    label: Tensor | None = None


class Cells:
    """Cells in memory; a list of rows becomes one :class:`Batch`.

    Parameters
    ----------
    pattern
        Open peaks, (n_cells, n_vocabulary).
    target
        Expression, (n_cells, n_genes), sparse or dense, or None.
    pooling
        Row-stochastic neighbour weights, (n_cells, n_cells): the target of a cell is ``pooling @ target``.
    batch, label
        Code of batch and label of each cell, or None.
    """

    def __init__(
        self,
        pattern: sp.csr_matrix,
        target: sp.csr_matrix | np.ndarray | None = None,
        pooling: sp.csr_matrix | None = None,
        batch: np.ndarray | None = None,
        label: np.ndarray | None = None,
    ) -> None:
        self.pattern, self.target, self.pooling, self.batch, self.label = pattern, target, pooling, batch, label

    def __len__(self) -> int:
        return self.pattern.shape[0]

    def __getitem__(self, rows: np.ndarray) -> Batch:
        tokens = self.pattern[rows]
        return Batch(
            torch.from_numpy(tokens.indices.astype(np.int64)),
            torch.from_numpy(tokens.indptr.astype(np.int64)),
            self._target(rows),
            *(None if each is None else torch.from_numpy(each[rows]) for each in (self.batch, self.label)),
        )

    def _target(self, rows: np.ndarray) -> Tensor | None:
        if self.target is None:
            return None
        target = self.target[rows] if self.pooling is None else self.pooling[rows] @ self.target
        dense = target.toarray() if sp.issparse(target) else target  # a batch of cells x genes
        return torch.from_numpy(np.asarray(dense, dtype=np.float32))


class Share(NamedTuple):
    """Which of the processes that train together this one is, and how many there are."""

    rank: int = 0
    world: int = 1


class Loader:
    """The batches of an epoch, from any of them on: what Lightning asks of a loader whose position is part of a checkpoint.

    Parameters
    ----------
    batches
        Of an epoch, from the one with that number on.
    n_batches
        How many an epoch has.
    """

    def __init__(self, batches: Callable[[int, int], Iterator[Batch]], n_batches: int) -> None:
        self.batches, self.n_batches = batches, n_batches
        self.epoch = self.start = self.done = 0

    def __len__(self) -> int:
        return self.n_batches

    def __iter__(self) -> Iterator[Batch]:
        start, self.start = self.start, 0
        for number, batch in enumerate(self.batches(self.epoch, start), start=start + 1):
            self.done = number
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Which epoch it is, and how many of its batches are done."""
        return {"epoch": self.epoch, "done": self.done % self.n_batches}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Begin after these batches."""
        self.epoch, self.start, self.done = state["epoch"], state["done"], state["done"]


def shuffled(cells: Cells, batch_size: int, seed: int, share: Share) -> Loader:
    """All cells once an epoch, in random order; each process takes its part of each batch."""
    # An incomplete last batch of very few cells would be a noisy step.
    n_batches = len(cells) // batch_size if len(cells) > batch_size else 1

    def batches(epoch: int, start: int) -> Iterator[Batch]:
        order = permutation(len(cells), seed, epoch)
        for i in range(start, n_batches):
            rows = order[i * batch_size : (i + 1) * batch_size]
            yield cells[rows[share.rank :: share.world]]

    return Loader(batches, n_batches)


def in_order(cells: Cells, batch_size: int, share: Share) -> Loader:
    """All cells, of which each process takes its part."""
    rows = np.arange(share.rank, len(cells), share.world)

    def batches(epoch: int, start: int) -> Iterator[Batch]:
        for i in range(start * batch_size, len(rows), batch_size):
            yield cells[rows[i : i + batch_size]]

    return Loader(batches, ceil(len(rows) / batch_size))


def permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch: the epochs before it are drawn again, so that any can be the first."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epoch + 1):
        order = torch.randperm(n, generator=generator)
    return order.numpy()


@dataclass(frozen=True)
class StoredCells:
    """Training cells in files.

    Parameters
    ----------
    pattern, target
        Open peaks, and expression or None; of all cells.
    rows
        Those to learn from, ascending.
    batch, label
        Code of batch and label of all cells, or None.
    buffer
        Cells that are read at a time and shuffled; twice as many are in memory.
    dense
        The target is dense: normalised values.
    """

    pattern: Rows
    target: Rows | None
    rows: np.ndarray
    batch: np.ndarray | None = None
    label: np.ndarray | None = None
    buffer: int = 8192
    dense: bool = False

    def loader(self, batch_size: int, seed: int, share: Share) -> Loader:
        """Runs of cells in random order, the cells of a buffer shuffled; each process reads a part."""
        of_each = len(self.rows) // share.world
        size = min(batch_size // share.world, of_each)
        n_batches = of_each // size
        at_once = max(self.buffer // size, 1) * size

        def buffers(epoch: int, start: int) -> Iterator[tuple[Cells, np.ndarray]]:
            order = self.order(seed, epoch)[share.rank * of_each :][: n_batches * size]
            for first in range(start * size // at_once * at_once, len(order), at_once):
                yield self.fetch(order[first : first + at_once], seed + epoch)

        def batches(epoch: int, start: int) -> Iterator[Batch]:
            skipped = start * size % at_once
            for cells, order in ahead(buffers(epoch, start)):
                for i in range(skipped, len(order), size):
                    yield cells[order[i : i + size]]
                skipped = 0

        return Loader(batches, n_batches)

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """Rows of an epoch: runs in random order, so that a buffer holds cells from everywhere."""
        rng = np.random.default_rng([seed, epoch])
        runs = np.split(self.rows, np.arange(RUN, len(self.rows), RUN))
        return np.concatenate([runs[i] for i in rng.permutation(len(runs))])

    def fetch(self, rows: np.ndarray, seed: int) -> tuple[Cells, np.ndarray]:
        """Cells of a buffer in memory, and the order that they are given out in, which depends on them and the seed alone."""
        target = None if self.target is None else self.target[rows]
        cells = Cells(
            self.pattern[rows],
            target.toarray() if self.dense and target is not None else target,
            None,
            None if self.batch is None else self.batch[rows],
            None if self.label is None else self.label[rows],
        )
        return cells, np.random.default_rng([seed, int(rows[0]), len(rows)]).permutation(len(rows))
