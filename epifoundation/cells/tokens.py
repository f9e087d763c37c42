"""Tokens of cells: the positions in a vocabulary of their open peaks."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from .rows import CELLS_PER_READ, iter_rows
from .source import Source


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
    source: Source, projection: sp.csr_matrix | None, *, chunk: int = CELLS_PER_READ
) -> Iterator[tuple[slice, Tokens]]:
    """Read the tokens of cells in chunks; sparse matrices stay sparse.

    Parameters
    ----------
    source
        Cells x peaks.
    projection
        Peaks x vocabulary, from :meth:`PeakVocabulary.projection`; None if the peaks are the
        vocabulary.
    chunk
        Cells read at a time.

    Yields
    ------
    The slice of rows, and their tokens.
    """
    known = np.zeros(0, bool) if projection is None else np.diff(projection.indptr) > 0
    for at, rows in iter_rows(source, chunk=chunk):
        total = matched = float(rows.data.sum(dtype=np.float64))
        if projection is not None:
            matched = float(rows.data.sum(where=known[rows.indices], dtype=np.float64))
        pattern = open_peaks(rows)
        n_open = np.diff(pattern.indptr)
        if projection is None:
            yield at, Tokens(pattern.indices, pattern.indptr, n_open, n_open, total, matched)
            continue
        in_vocabulary = np.append(known[pattern.indices], False)
        n_known = np.add.reduceat(in_vocabulary, pattern.indptr[:-1], dtype=np.int64)
        n_known[n_open == 0] = 0
        ones = np.ones(pattern.nnz, np.float32)
        pattern = sp.csr_matrix((ones, pattern.indices, pattern.indptr), shape=pattern.shape)
        mapped = pattern @ projection
        mapped.sort_indices()
        yield at, Tokens(mapped.indices, mapped.indptr, n_open, n_known, total, matched)
