"""Tokens of cells: the positions in a vocabulary of their open peaks."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from .._validate import check_values

CELLS_PER_READ = 2048  # enough to hide the overhead, few enough for the memory


@dataclass(frozen=True)
class Tokens:
    """The open peaks of some cells, concatenated.

    Parameters
    ----------
    ids
        Positions in the vocabulary, ascending within each cell, (n_tokens,).
    offsets
        Tokens of cell i are ``ids[offsets[i] : offsets[i + 1]]``, (n_cells + 1,).
    n_open
        Number of open peaks of each cell in the data, (n_cells,).
    n_known
        Number of these that map to the vocabulary, (n_cells,).
    total, matched
        Sum of all counts of these cells, and of those in peaks that map to the vocabulary.
    """

    ids: np.ndarray
    offsets: np.ndarray
    n_open: np.ndarray
    n_known: np.ndarray
    total: float
    matched: float

    def __len__(self) -> int:
        return len(self.offsets) - 1


def row_reader(matrix: Any) -> Any:
    """The matrix itself if its rows can be sliced (dense, CSR, backed), else as CSR."""
    if sp.issparse(matrix):
        return matrix if matrix.format == "csr" else matrix.tocsr()
    if getattr(matrix, "format", None) == "csc":  # backed: each slice would read the whole file
        return matrix.to_memory().tocsr()
    return matrix


def read_rows(matrix: Any, start: int, stop: int) -> sp.csr_matrix:
    """Rows as CSR with the stored values; read-only, since they may share memory with `matrix`."""
    stop = min(stop, matrix.shape[0])
    if sp.issparse(matrix) and matrix.format == "csr":  # slicing in scipy copies each entry
        part = slice(matrix.indptr[start], matrix.indptr[stop])
        indptr = matrix.indptr[start : stop + 1] - matrix.indptr[start]
        shape = (stop - start, matrix.shape[1])
        return sp.csr_matrix((matrix.data[part], matrix.indices[part], indptr), shape=shape)
    rows = matrix[start:stop]
    if hasattr(rows, "compute"):  # dask
        rows = rows.compute()
    if rows.dtype == np.float16:  # not supported by scipy.sparse
        rows = rows.astype(np.float32)
    return sp.csr_matrix(rows)


def open_peaks(rows: sp.csr_matrix) -> sp.csr_matrix:
    """Ones where entries are positive; sorted, without explicit zeros and duplicates."""
    if rows.has_canonical_format and (not rows.data.size or rows.data.all()):
        return rows
    # Binarize before duplicates are summed, which could overflow a small integer type
    positive = (rows.data > 0).astype(np.float32)
    pattern = sp.csr_matrix((positive, rows.indices.copy(), rows.indptr.copy()), shape=rows.shape)
    pattern.sum_duplicates()
    pattern.eliminate_zeros()
    return pattern


def ahead[T](items: Iterator[T], n: int = 1) -> Generator[T, None, None]:
    """Prefetch up to `n` items in a thread, so that reading and computing overlap."""
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as reader:
        pending = deque(reader.submit(next, items, end) for _ in range(n))
        try:
            while (item := pending.popleft().result()) is not end:
                pending.append(reader.submit(next, items, end))
                yield item  # type: ignore[misc] # never `end`
        finally:
            for each in pending:
                each.cancel()


def iter_tokens(
    matrix: Any, projection: sp.csr_matrix | None, names: pd.Index, *, chunk: int = CELLS_PER_READ
) -> Iterator[tuple[slice, Tokens]]:
    """Read a matrix in chunks of cells; sparse matrices stay sparse.

    Parameters
    ----------
    matrix
        Cells x peaks: dense, sparse or backed.
    projection
        Peaks x vocabulary, from :meth:`PeakVocabulary.projection`; None if the peaks are the
        vocabulary.
    names
        Names of the cells, for errors.
    chunk
        Cells read at a time.

    Yields
    ------
    The slice of rows, and their tokens.
    """
    matrix = row_reader(matrix)
    known = np.zeros(0, bool) if projection is None else np.diff(projection.indptr) > 0
    for start in range(0, len(names), chunk):
        stop = min(start + chunk, len(names))
        rows = read_rows(matrix, start, stop)
        check_values(rows.data, rows.indptr, names[start:stop], "`X` of the ATAC modality")
        total = matched = float(rows.data.sum(dtype=np.float64))
        if projection is not None:
            matched = float(rows.data.sum(where=known[rows.indices], dtype=np.float64))
        rows = open_peaks(rows)
        n_open = np.diff(rows.indptr)
        if projection is None:
            tokens = Tokens(rows.indices, rows.indptr, n_open, n_open, total, matched)
            yield slice(start, stop), tokens
            continue
        in_vocabulary = np.append(known[rows.indices], False)
        n_known = np.add.reduceat(in_vocabulary, rows.indptr[:-1], dtype=np.int64)
        n_known[n_open == 0] = 0
        ones = np.ones(rows.nnz, np.float32)
        mapped = sp.csr_matrix((ones, rows.indices, rows.indptr), shape=rows.shape) @ projection
        mapped.sort_indices()
        mapped_tokens = Tokens(mapped.indices, mapped.indptr, n_open, n_known, total, matched)
        yield slice(start, stop), mapped_tokens
