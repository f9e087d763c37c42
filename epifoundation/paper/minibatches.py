"""Minibatches of cells from memory or files, in an order determined by seed and epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from ..cells.tokens import ahead
from ..training.processes import World
from ..training.rows import Rows

MINIBATCH_RUN = 256  # neighbouring cells that are read together, as many as in a chunk on disk


class Batch(NamedTuple):
    """Some cells: packed tokens, expression target, codes of batches and labels, or None."""

    ids: Tensor
    offsets: Tensor
    target: Tensor | None
    batch: Tensor | None = None
    label: Tensor | None = None


@dataclass(frozen=True)
class MinibatchCells:
    """Cells, in memory or in files; a list of rows becomes one :class:`Batch`.

    Parameters
    ----------
    pattern
        Open peaks, (n_cells, n_vocabulary).
    target
        Expression, (n_cells, n_genes), or None.
    batch, label
        Code of batch and label of each cell, or None.
    pooling
        Row-stochastic weights of neighbours, (n_cells, n_cells): targets are ``pooling @ target``.
    """

    pattern: sp.csr_matrix | Rows
    target: sp.csr_matrix | Rows | None = None
    batch: np.ndarray | None = None
    label: np.ndarray | None = None
    pooling: sp.csr_matrix | None = None

    def __len__(self) -> int:
        return self.pattern.shape[0]

    def __getitem__(self, rows: np.ndarray) -> Batch:
        tokens, target = self.pattern[rows], None
        if self.target is not None:
            pooled = self.target[rows] if self.pooling is None else self.pooling[rows] @ self.target
            target = torch.from_numpy(pooled.toarray().astype(np.float32, copy=False))
        return Batch(
            torch.from_numpy(tokens.indices.astype(np.int64)),
            torch.from_numpy(tokens.indptr.astype(np.int64)),
            target,
            *(
                None if codes is None else torch.from_numpy(codes[rows])
                for codes in (self.batch, self.label)
            ),
        )

    def take(self, rows: np.ndarray) -> MinibatchCells:
        """Some of the cells, in memory."""
        arrays = (self.pattern, self.target, self.batch, self.label)
        return MinibatchCells(*(None if array is None else array[rows] for array in arrays))


class Loader:
    """The batches of an epoch, for Lightning; its position is part of a checkpoint.

    `batches` is a function of epoch and batch number, which yields the batches from that one on.
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
        """Number of the epoch, and of batches that are done."""
        return {"epoch": self.epoch, "done": self.done % self.n_batches}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Start after these batches."""
        self.epoch, self.start, self.done = state["epoch"], state["done"], state["done"]


def shuffled(cells: MinibatchCells, batch_size: int, seed: int, world: World) -> Loader:
    """All cells once per epoch, in random order; each process takes a part of each batch."""
    # An incomplete last batch of few cells would be a noisy step
    n_batches = len(cells) // batch_size if len(cells) > batch_size else 1

    def batches(epoch: int, start: int) -> Iterator[Batch]:
        order = permutation(len(cells), seed, epoch)
        for i in range(start, n_batches):
            rows = order[i * batch_size : (i + 1) * batch_size]
            yield cells[rows[world.rank :: world.size]]

    return Loader(batches, n_batches)


def in_order(cells: MinibatchCells, batch_size: int, world: World) -> Loader:
    """All cells in order; each process takes a part of them."""
    rows = np.arange(world.rank, len(cells), world.size)

    def batches(epoch: int, start: int) -> Iterator[Batch]:
        for i in range(start * batch_size, len(rows), batch_size):
            yield cells[rows[i : i + batch_size]]

    return Loader(batches, ceil(len(rows) / batch_size))


def from_files(
    cells: MinibatchCells, rows: np.ndarray, buffer: int, batch_size: int, seed: int, world: World
) -> Loader:
    """Runs of the ascending `rows` in random order, read and shuffled a `buffer` at a time.

    Each process reads a part. Twice as many cells as a buffer are in memory.
    """
    n_rows = len(rows) // world.size
    size = min(batch_size // world.size, n_rows)
    n_batches = n_rows // size
    at_once = max(buffer // size, 1) * size

    def buffers(epoch: int, start: int) -> Iterator[tuple[MinibatchCells, np.ndarray]]:
        # A buffer has cells from all files
        runs = np.split(rows, np.arange(MINIBATCH_RUN, len(rows), MINIBATCH_RUN))
        permuted = np.random.default_rng([seed, epoch]).permutation(len(runs))
        order = np.concatenate([runs[i] for i in permuted])
        order = order[world.rank * n_rows :][: n_batches * size]
        for first in range(start * size // at_once * at_once, len(order), at_once):
            some = order[first : first + at_once]
            rng = np.random.default_rng([seed + epoch, int(some[0]), len(some)])
            yield cells.take(some), rng.permutation(len(some))

    def batches(epoch: int, start: int) -> Iterator[Batch]:
        skipped = start * size % at_once
        for some, order in ahead(buffers(epoch, start)):
            for i in range(skipped, len(order), size):
                yield some[order[i : i + size]]
            skipped = 0

    return Loader(batches, n_batches)


def permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch; earlier ones are drawn again, so that a run can start at any."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epoch + 1):
        order = torch.randperm(n, generator=generator)
    return order.numpy()
