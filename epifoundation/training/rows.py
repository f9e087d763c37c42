"""Rows of the matrices of one or several sources, in memory or in files, on common columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import scipy.sparse as sp

from .._validate import check_values
from ..cells.formats import open_source
from ..cells.rows import SelectedRows, runs_of
from ..cells.source import Located, Source
from ..cells.tokens import open_peaks

MAX_OPEN = 16  # open files
READ_RUN = 1024  # rows per read
PASS_CELLS = 16_384
PASS_ENTRIES = 4_000_000


@dataclass(frozen=True)
class Piece:
    """A source of :class:`Rows`.

    Parameters
    ----------
    place
        An object in memory or a path.
    name
        Name used in errors.
    modality
        Modality of a MuData.
    n_cells
        Number of rows.
    projection
        Its columns x the common ones; None if they are the same.
    layer
        Layer; None is ``X``.
    rows
        Rows of the cells; None for all.
    """

    place: Located
    name: str
    modality: str
    n_cells: int
    projection: sp.csr_matrix | None
    layer: str | None = None
    rows: np.ndarray | None = None


@dataclass
class Rows:
    """Rows of several sources, one after the other, on common columns; read as CSR when indexed.

    Parameters
    ----------
    pieces
        The sources.
    n_columns
        Columns.
    what
        Name of the values in errors.
    change
        Applied to stored rows before they are projected onto the common columns; None for open
        peaks, which are ones (int8) on the common columns.
    signed
        Negative values are allowed.
    """

    pieces: Sequence[Piece]
    n_columns: int
    what: str
    change: Callable[[sp.csr_matrix], sp.csr_matrix] | None = None
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
            inside = wanted[np.searchsorted(wanted, first) : np.searchsorted(wanted, last)] - first
            for run in runs_of(inside):
                pieces = np.split(run, np.arange(READ_RUN, len(run), READ_RUN))
                parts += [self._read(i, piece) for piece in pieces]
        read = parts[0] if len(parts) == 1 else _stacked(parts)
        if (order == np.arange(len(order))).all():
            return read
        back = np.empty(len(order), dtype=np.int64)
        back[order] = np.arange(len(order))
        return read[back]

    def mean_entries(self, rows: np.ndarray) -> float:
        """Mean number of non-zero values of some rows; independent of the file format."""
        return np.count_nonzero(self[rows].data) / max(len(rows), 1)

    def bounds(self) -> np.ndarray:
        """First rows of blocks of one source that fit into memory, and the end."""
        found, first = [0], 0
        for i, piece in enumerate(self.pieces):
            bounds = self._source(i).bounds(PASS_CELLS, PASS_ENTRIES)
            found += [first + int(at) for at in bounds[1:]]
            first += piece.n_cells
        return np.unique(found)

    def close(self) -> None:
        """Close the files."""
        while self._opened:
            self._opened.popitem()[1].close()

    def _source(self, i: int) -> Source:
        if i not in self._opened:
            if len(self._opened) >= MAX_OPEN:
                self._opened.pop(next(iter(self._opened))).close()
            piece = self.pieces[i]
            source = open_source(piece.place, piece.modality, name=piece.name)
            self._opened[i] = source if piece.rows is None else SelectedRows(source, piece.rows)
        return self._opened[i]

    def _read(self, i: int, rows: np.ndarray) -> sp.csr_matrix:
        """Neighbouring rows of a source, in ascending order, which may be repeated."""
        piece, source, start = self.pieces[i], self._source(i), int(rows[0])
        found = source.read(start, int(rows[-1]) + 1, piece.layer)
        what = self.what if len(self.pieces) == 1 else f"{self.what} of {source.name}"
        check_values(found.data, found.indptr, _Names(source, start), what, signed=self.signed)
        if len(rows) < found.shape[0] or (np.diff(rows) == 0).any():
            found = found[rows - start]
        found = as_pattern(found) if self.change is None else self.change(found)
        if piece.projection is not None:
            found = (found @ piece.projection).tocsr()
            if self.change is None:  # several peaks of a source may overlap one of the vocabulary
                return as_pattern(found)
        # The last bit of sums depends on the order of values
        return found if found.has_sorted_indices else found.sorted_indices()


def _stacked(parts: list[sp.csr_matrix]) -> sp.csr_matrix:
    """Stack matrices; scipy's function checks each index several times."""
    sizes = [np.diff(part.indptr) for part in parts]
    indptr = np.concatenate([[0], *sizes]).cumsum()
    indptr = indptr.astype(np.int32 if indptr[-1] < 2**31 else np.int64)
    data, indices = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("data", "indices")
    )
    return sp.csr_matrix((data, indices, indptr), shape=(len(indptr) - 1, parts[0].shape[1]))


class _Names:
    """Names of the cells of a run, read for errors only."""

    def __init__(self, source: Source, start: int) -> None:
        self.source, self.start = source, start

    def __getitem__(self, row: int) -> Any:
        return self.source.names(self.start + row, self.start + row + 1)[0]


def as_pattern(rows: sp.csr_matrix) -> sp.csr_matrix:
    """Open peaks, as ones, in ascending order."""
    rows = open_peaks(rows)
    pattern = sp.csr_matrix(
        (np.ones(rows.nnz, np.int8), rows.indices, rows.indptr), shape=rows.shape
    )
    if not pattern.has_sorted_indices:
        pattern = pattern.sorted_indices()
    return pattern


def as_float(rows: sp.csr_matrix) -> sp.csr_matrix:
    """Values in float32."""
    return rows.astype(np.float32, copy=False)


def in_blocks(rows: Rows) -> Iterator[slice]:
    """Blocks, as slices of rows."""
    for start, stop in pairwise(rows.bounds()):
        yield slice(int(start), int(stop))
