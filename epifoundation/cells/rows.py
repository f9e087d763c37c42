"""Rows of a source, a chunk of cells at a time, with their values checked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, override

import numpy as np
import pandas as pd
import scipy.sparse as sp

from .._validate import check_values
from .matrix import row_reader
from .source import Source

CELLS_PER_READ = 2048  # enough to hide the overhead, few enough for the memory
MAX_GAP = 64  # rows that are read and dropped, rather than starting another read


class LoadedRows(Source):
    """Rows that were read before.

    Parameters
    ----------
    matrix, names
        Cells x features, and the names of the cells.
    name
        Name in errors.
    """

    def __init__(self, matrix: Any, names: pd.Index, name: str = "the data") -> None:
        super().__init__(name)
        self._matrix, self._names, self.n_obs = row_reader(matrix, name), names, len(names)

    @override
    def names(self, start: int, stop: int) -> pd.Index:
        return self._names[start:stop]

    @override
    def matrix(self, layer: str | None) -> Any:
        return self._matrix


def runs_of(rows: np.ndarray) -> list[np.ndarray]:
    """Ascending rows, split where reading on would take longer than another read."""
    return np.split(rows, np.flatnonzero(np.diff(rows) > MAX_GAP) + 1) if len(rows) else []


class SelectedRows(Source):
    """Some cells of a source, in any order.

    Parameters
    ----------
    source
        The source, which is closed with this one.
    rows
        Its rows.
    """

    def __init__(self, source: Source, rows: np.ndarray) -> None:
        super().__init__(source.name)
        self.source, self.rows, self.n_obs, self.var = source, rows, len(rows), source.var

    @override
    def names(self, start: int, stop: int) -> pd.Index:
        return pd.Index([self.source.names(row, row + 1)[0] for row in self.rows[start:stop]])

    @override
    def stored_entries(self) -> np.ndarray:
        sizes = np.diff(self.source.stored_entries())[self.rows]
        return np.concatenate([[0], sizes.cumsum()])

    @override
    def read(self, start: int, stop: int, layer: str | None = None) -> sp.csr_matrix:
        rows, order = np.unique(self.rows[start:stop], return_inverse=True)
        parts = [
            self.source.read(int(run[0]), int(run[-1]) + 1, layer)[run - run[0]]
            for run in runs_of(rows)
        ]
        read = parts[0] if len(parts) == 1 else sp.vstack(parts, format="csr")
        return read if (np.diff(order) == 1).all() else read[order]

    @override
    def close(self) -> None:
        self.source.close()


def read_counts(
    source: Source,
    *,
    layer: str | None = None,
    what: str = "`X` of the ATAC modality",
    signed: bool = False,
) -> sp.csr_matrix:
    """All rows, as :func:`iter_rows`; `signed` allows negative values."""
    rows = source.read(0, source.n_obs, layer)
    check_values(rows.data, rows.indptr, source.names(0, source.n_obs), what, signed=signed)
    return rows


def iter_rows(
    source: Source,
    *,
    chunk: int = CELLS_PER_READ,
    layer: str | None = None,
    what: str = "`X` of the ATAC modality",
) -> Iterator[tuple[slice, sp.csr_matrix]]:
    """Read rows in chunks, as CSR with the stored values, which must be counts.

    Yields
    ------
    The slice of rows, and the rows; read-only, since they may share memory with the data.
    """
    for start in range(0, source.n_obs, chunk):
        stop = min(start + chunk, source.n_obs)
        rows = source.read(start, stop, layer)
        check_values(rows.data, rows.indptr, source.names(start, stop), what)
        yield slice(start, stop), rows
