"""Rows of one matrix: dense, sparse, backed or dask."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp


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
