"""From a cells x peaks matrix, of any format, to packed tokens: the positions of a cell's open peaks."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import scipy.sparse as sp

from ._validate import check_values

# Enough cells a chunk that the work per chunk does not count, few enough that the memory does not.
CHUNK = 2048

T = TypeVar("T")


@dataclass(frozen=True)
class Tokens:
    """The open peaks of some cells, one after the other.

    Parameters
    ----------
    ids
        Positions in the vocabulary, ascending in each cell, (n_tokens,).
    offsets
        Where each cell begins, and the end of the last, (n_cells + 1,).
    n_open
        Open peaks of each cell in the data, known to the vocabulary or not, (n_cells,).
    n_known
        Of those, how many map to the vocabulary, (n_cells,).
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
    """Make `matrix` readable by slices of rows: backed and dense as they are, CSC and the like as CSR."""
    if sp.issparse(matrix):
        return matrix if matrix.format == "csr" else matrix.tocsr()
    if getattr(matrix, "format", None) == "csc":  # backed: row slices of CSC would each read the whole file
        return matrix.to_memory().tocsr()
    return matrix


def read_rows(matrix: Any, start: int, stop: int) -> sp.csr_matrix:
    """Rows as CSR, as they are stored; from memory without a copy, so do not write into them."""
    stop = min(stop, matrix.shape[0])
    if sp.issparse(matrix) and matrix.format == "csr":  # scipy's own slicing copies entry by entry
        part = slice(matrix.indptr[start], matrix.indptr[stop])
        indptr = matrix.indptr[start : stop + 1] - matrix.indptr[start]
        return sp.csr_matrix((matrix.data[part], matrix.indices[part], indptr), shape=(stop - start, matrix.shape[1]))
    rows = matrix[start:stop]
    if hasattr(rows, "compute"):  # dask
        rows = rows.compute()
    if rows.dtype == np.float16:  # which sparse matrices do not know
        rows = rows.astype(np.float32)
    return sp.csr_matrix(rows)


def open_peaks(rows: sp.csr_matrix) -> sp.csr_matrix:
    """The pattern of positive entries: sorted, without zeros and duplicates."""
    if rows.has_canonical_format and (not rows.data.size or rows.data.all()):
        return rows
    positive = (rows.data > 0).astype(np.float32)  # before anything is added up, which a small type might not hold
    pattern = sp.csr_matrix((positive, rows.indices.copy(), rows.indptr.copy()), shape=rows.shape)
    pattern.sum_duplicates()
    pattern.eliminate_zeros()
    return pattern


def ahead[T](items: Iterator[T], n: int = 1) -> Generator[T, None, None]:
    """Have the next items made in a thread, `n` of them at most, while one is used: reading beside computing."""
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as reader:
        coming = deque(reader.submit(next, items, end) for _ in range(n))
        try:
            while (item := coming.popleft().result()) is not end:
                coming.append(reader.submit(next, items, end))
                yield item  # type: ignore[misc] # `end` is not
        finally:
            for each in coming:
                each.cancel()


def iter_tokens(
    matrix: Any,
    projection: sp.csr_matrix | None,
    names: pd.Index,
    *,
    chunk: int = CHUNK,
) -> Iterator[tuple[slice, Tokens]]:
    """Read a matrix by chunks of cells, never densified.

    Parameters
    ----------
    matrix
        Cells x peaks: dense, sparse or backed.
    projection
        Peaks x vocabulary, from :meth:`PeakVocabulary.projection`; None when the peaks are the vocabulary.
    names
        Names of the cells, for errors.
    chunk
        Cells read at a time.

    Yields
    ------
    The rows that were read, and their tokens.
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
            yield slice(start, stop), Tokens(rows.indices, rows.indptr, n_open, n_open, total, matched)
            continue
        n_known = np.add.reduceat(np.append(known[rows.indices], False), rows.indptr[:-1], dtype=np.int64)
        n_known[n_open == 0] = 0
        mapped = (
            sp.csr_matrix((np.ones(rows.nnz, np.float32), rows.indices, rows.indptr), shape=rows.shape) @ projection
        )
        mapped.sort_indices()
        yield slice(start, stop), Tokens(mapped.indices, mapped.indptr, n_open, n_known, total, matched)
