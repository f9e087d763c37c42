"""Cells in files to learn from: rows of several matrices on one set of columns, and batches of them in shuffled order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise
from typing import Any

import numpy as np
import scipy.sparse as sp

from ._validate import check_values
from .batches import Batch, Cells, Loader, Share
from .sources import Located, Source, open_source
from .tokens import ahead, open_peaks

RUN = 256  # cells that lie together are read together: chunks on disk hold about so many
GAP = 64  # rows that are read and dropped rather than begun anew behind them


@dataclass(frozen=True)
class Piece:
    """A file of a :class:`StoredRows`.

    Parameters
    ----------
    place
        Where it is.
    modality
        Which modality of a MuData.
    n_cells
        Its rows.
    projection
        Its columns x those of the whole; None where they are the same.
    layer
        Layer; None is ``X``.
    """

    place: Located
    modality: str
    n_cells: int
    projection: sp.csr_matrix | None
    layer: str | None = None


@dataclass
class StoredRows:
    """Rows of several files, one after the other, on common columns; read when they are asked for, as float32 CSR.

    Parameters
    ----------
    pieces
        The files.
    n_columns
        Columns.
    what
        What errors call the values.
    change
        What is made of the rows of a file.
    """

    pieces: Sequence[Piece]
    n_columns: int
    what: str
    change: Callable[[sp.csr_matrix], sp.csr_matrix]
    signed: bool = False
    _opened: dict[int, Source] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return sum(piece.n_cells for piece in self.pieces), self.n_columns

    def __getitem__(self, rows: np.ndarray) -> sp.csr_matrix:
        rows = np.asarray(rows)
        if not len(rows):
            return sp.csr_matrix((0, self.n_columns), dtype=np.float32)
        order = np.argsort(rows, kind="stable")
        wanted = rows[order]
        starts = np.cumsum([0, *(piece.n_cells for piece in self.pieces)])
        parts = []
        for i, (first, last) in enumerate(pairwise(starts)):
            mine = wanted[np.searchsorted(wanted, first) : np.searchsorted(wanted, last)] - first
            if len(mine):
                cuts = np.flatnonzero(np.diff(mine) > GAP) + 1
                parts += [self._read(i, run) for run in np.split(mine, cuts)]
        read = parts[0] if len(parts) == 1 else sp.vstack(parts, format="csr")
        if (order == np.arange(len(order))).all():
            return read
        back = np.empty(len(order), dtype=np.int64)
        back[order] = np.arange(len(order))
        return read[back]

    def blocks(self, cells: int) -> Iterator[tuple[slice, sp.csr_matrix]]:
        """All rows from the first on, in blocks."""
        n = self.shape[0]
        for start in range(0, n, cells):
            stop = min(start + cells, n)
            yield slice(start, stop), self[np.arange(start, stop)]

    def close(self) -> None:
        """Let go of the files."""
        while self._opened:
            self._opened.popitem()[1].close()

    def _read(self, i: int, rows: np.ndarray) -> sp.csr_matrix:
        """Rows of a file that lie close together, in ascending order; some may be asked for twice."""
        piece = self.pieces[i]
        if i not in self._opened:
            if len(self._opened) >= 16:  # of many files, few are open
                self._opened.pop(next(iter(self._opened))).close()
            source = open_source(piece.place, piece.modality, name=str(piece.place)[:80])
            self._opened[i] = source
        source, start = self._opened[i], int(rows[0])
        found = source.read(start, int(rows[-1]) + 1, piece.layer)
        names = _Names(source, start)
        check_values(found.data, found.indptr, names, f"{self.what} of {source.name}", signed=self.signed)
        if len(rows) < found.shape[0] or (np.diff(rows) == 0).any():
            found = found[rows - start]
        found = self.change(found)
        if piece.projection is None:
            return found
        found = (found @ piece.projection).tocsr()
        # Several open peaks of a file may lie in one of the vocabulary, which is open or not
        return as_pattern(found) if self.change is as_pattern else found


class _Names:
    """Names of the cells of a run, which only an error reads."""

    def __init__(self, source: Source, start: int) -> None:
        self.source, self.start = source, start

    def __getitem__(self, row: int) -> Any:
        return self.source.names(self.start + row, self.start + row + 1)[0]


def as_pattern(rows: sp.csr_matrix) -> sp.csr_matrix:
    """Open peaks, as ones."""
    rows = open_peaks(rows)
    return sp.csr_matrix((np.ones(rows.nnz, np.float32), rows.indices, rows.indptr), shape=rows.shape)


def as_float(rows: sp.csr_matrix) -> sp.csr_matrix:
    """Values as they are."""
    return rows.astype(np.float32)


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
    sample, own
        Rows that the vectors of peaks were measured with, ascending, and what each gave to them (one row each, and maybe others); or None.
    """

    pattern: StoredRows
    target: StoredRows | None
    rows: np.ndarray
    batch: np.ndarray | None = None
    label: np.ndarray | None = None
    buffer: int = 8192
    dense: bool = False
    sample: np.ndarray | None = None
    own: np.ndarray | None = None

    def loader(self, batch_size: int, seed: int, share: Share) -> Loader:
        """Runs of cells in random order, the cells of a buffer shuffled; each process reads a part of its own."""
        scDataset = _scdataset()
        of_each = len(self.rows) // share.world
        size = min(batch_size // share.world, of_each)
        n_batches = of_each // size
        n_fetched = max(self.buffer // size, 1)

        def batches(epoch: int, start: int) -> Iterator[Batch]:
            order = self.order(seed, epoch)[share.rank * of_each :][: n_batches * size]
            first = start // n_fetched
            dataset = scDataset(
                self,
                _given(order[first * n_fetched * size :]),
                batch_size=size,
                fetch_factor=n_fetched,
                fetch_callback=lambda cells, rows: cells.fetch(rows, seed + epoch),
                batch_callback=lambda fetched, places: fetched[0][fetched[1][places]],
                rank=0,
                world_size=1,
                seed=seed,
            )
            coming = islice(iter(dataset), start - first * n_fetched, None)
            return ahead(coming, n_fetched)

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
            self._own(rows),
        )
        return cells, np.random.default_rng([seed, int(rows[0]), len(rows)]).permutation(len(rows))

    def _own(self, rows: np.ndarray) -> np.ndarray | None:
        """What cells gave to the vectors of peaks; NaN where they were not in the sample."""
        if self.own is None or self.sample is None:
            return None
        place = np.minimum(np.searchsorted(self.sample, rows), len(self.sample) - 1)
        own = self.own[place]
        own[self.sample[place] != rows] = np.nan
        return own

    def close(self) -> None:
        """Let go of the files."""
        self.pattern.close()
        if self.target is not None:
            self.target.close()


def _scdataset() -> Any:
    try:
        from scdataset import scDataset
    except ImportError as error:
        msg = "Training from files reads them with scDataset, which is not installed: `pip install 'epifoundation[atlas]'`."
        raise ImportError(msg) from error
    return scDataset


def _given(rows: np.ndarray) -> Any:
    """A strategy of scDataset that gives out these rows in this order."""
    from scdataset.strategy import SamplingStrategy

    class Given(SamplingStrategy):
        _shuffle_before_yield = False

        def __init__(self) -> None:
            pass

        def get_len(self, data_collection: Any) -> int:
            return len(rows)

        def get_indices(self, data_collection: Any, seed: int | None = None, rng: Any = None) -> np.ndarray:
            return rows

    return Given()
