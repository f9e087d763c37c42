"""Batches of cells to learn from, in an order that seed and epoch settle: from memory, or from files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import ceil
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor


class Batch(NamedTuple):
    """Some cells: packed tokens, expression target, code of batch and of label, what they gave to the vectors of peaks (None where there is none)."""

    ids: Tensor
    offsets: Tensor
    target: Tensor | None
    batch: Tensor | None = None
    label: Tensor | None = None
    own: Tensor | None = None


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
    own
        What each cell gave to the vectors of peaks, (n_cells, dim), or None.
    """

    def __init__(
        self,
        pattern: sp.csr_matrix,
        target: sp.csr_matrix | np.ndarray | None = None,
        pooling: sp.csr_matrix | None = None,
        batch: np.ndarray | None = None,
        label: np.ndarray | None = None,
        own: np.ndarray | None = None,
    ) -> None:
        self.pattern, self.target, self.pooling, self.batch, self.label = pattern, target, pooling, batch, label
        self.own = own

    def __len__(self) -> int:
        return self.pattern.shape[0]

    def __getitem__(self, rows: np.ndarray) -> Batch:
        tokens = self.pattern[rows]
        return Batch(
            torch.from_numpy(tokens.indices.astype(np.int64)),
            torch.from_numpy(tokens.indptr.astype(np.int64)),
            self._target(rows),
            *(None if each is None else torch.from_numpy(each[rows]) for each in (self.batch, self.label, self.own)),
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
        torch.empty((), dtype=torch.int64).random_()  # as torch's own loader does: models stay what they were
        for i in range(start * batch_size, len(rows), batch_size):
            yield cells[rows[i : i + batch_size]]

    return Loader(batches, ceil(len(rows) / batch_size))


def permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch: the epochs before it are drawn again, so that any can be the first."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epoch + 1):
        torch.empty((), dtype=torch.int64).random_(generator=generator)  # as torch's own loader does
        order = torch.randperm(n, generator=generator)
    return order.numpy()


def balanced_weights(counts: np.ndarray, power: float) -> np.ndarray:
    """Weight of a cell of each label, the label's count to the power of -`power`; a cell has 1 on average."""
    weights = np.maximum(counts, 1) ** -float(power)
    return weights * counts.sum() / (weights * counts).sum()
