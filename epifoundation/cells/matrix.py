"""Rows of one matrix: dense, sparse, backed or dask, with real numbers of any dtype."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from .zarr_csr import StoredCsr

WIDER = {"float16": np.float32, "float128": np.float64}  # not supported by scipy.sparse or torch


def row_reader(matrix: Any, what: str = "the matrix") -> Any:
    """The matrix itself if its rows can be sliced (dense, CSR, backed), else as CSR.

    Raises
    ------
    ValueError
        The values are not real numbers, or the row pointers are damaged; `what` is named.
    """
    check_kind(matrix, what)
    if hasattr(matrix, "group") and hasattr(matrix, "to_memory"):  # backed, by anndata
        is_csr = matrix.format == "csr"
        # Each slice of CSC would read the whole file
        matrix = StoredCsr.of(matrix.group, matrix.shape) if is_csr else matrix.to_memory()
    if not hasattr(matrix, "indptr"):
        return matrix.tocsr() if sp.issparse(matrix) else matrix
    try:
        _check_pointers(matrix)
        return matrix if matrix.format == "csr" else _checked(matrix).tocsr()
    except ValueError as error:
        msg = f"{what} is damaged: {error}. Build or copy it again."
        raise ValueError(msg) from error


def read_rows(matrix: Any, start: int, stop: int) -> sp.csr_matrix:
    """Rows as CSR with the stored values, sorted and without duplicates.

    They are read-only, since they may share memory with `matrix`.

    Raises
    ------
    ValueError
        Column numbers lie outside of the matrix, or values are masked.
    """
    stop = min(stop, matrix.shape[0])
    if hasattr(matrix, "indptr"):  # slicing in scipy copies each entry
        part = slice(int(matrix.indptr[start]), int(matrix.indptr[stop]))
        indptr = matrix.indptr[start : stop + 1] - matrix.indptr[start]
        shape = (stop - start, matrix.shape[1])
        data, indices = matrix.data[part], matrix.indices[part]
        return _canonical(_compressed(matrix, data, indices, indptr, shape))
    rows = matrix[start:stop]
    if hasattr(rows, "compute"):  # dask
        rows = rows.compute()
    check_kind(rows, "the matrix")
    if sp.issparse(rows):
        return _canonical(sp.csr_matrix(_checked(rows) if hasattr(rows, "indptr") else rows))
    return sp.csr_matrix(_native(rows))


def check_kind(matrix: Any, what: str) -> None:
    """Raise ValueError unless the values are real numbers, and none is masked."""
    if isinstance(matrix, np.ma.MaskedArray):
        msg = f"{what} is a masked array: fill it, such as `adata.X = adata.X.filled(0)`."
        raise ValueError(msg)
    dtype = np.dtype(matrix.dtype)
    if dtype.kind not in "biuf":
        cure = "adata.X.real" if dtype.kind == "c" else "adata.X.astype('float32')"
        msg = f"{what} has the dtype {dtype}; expected real numbers: convert it, such as "
        msg += f"`adata.X = {cure}`."
        raise ValueError(msg)


def _native(values: np.ndarray) -> np.ndarray:
    """Values in a dtype of this machine that scipy and torch support."""
    dtype = values.dtype.newbyteorder("=")
    return values.astype(WIDER.get(dtype.name, dtype), copy=False)


def _check_pointers(matrix: Any) -> None:
    """Raise ValueError unless the rows (of CSC, the columns) lie one after the other."""
    indptr, n_stored = matrix.indptr, min(matrix.data.shape[0], matrix.indices.shape[0])
    n_lines = matrix.shape[0 if matrix.format == "csr" else 1]
    if len(indptr) != n_lines + 1:
        msg = f"{len(indptr):,} pointers for {n_lines:,} lines"
        raise ValueError(msg)
    wrong = (np.diff(indptr) < 0) | (indptr[1:] > n_stored) | (indptr[:-1] < 0)
    if indptr[0] != 0 or wrong.any():
        first = int(np.flatnonzero(wrong)[0]) if wrong.any() else 0
        line = "row" if matrix.format == "csr" else "column"
        msg = (
            f"{line} {first:,} has the entries {indptr[first]:,} to {indptr[first + 1]:,} of "
            f"{n_stored:,}"
        )
        raise ValueError(msg)


def _checked(matrix: Any) -> Any:
    """CSR or CSC with checked indices and native values; the C code of scipy checks neither."""
    return _compressed(matrix, matrix.data, matrix.indices, matrix.indptr, matrix.shape)


def _compressed(like: Any, data: Any, indices: Any, indptr: Any, shape: Any) -> Any:
    """A matrix of these arrays, in the format of `like`, without copies."""
    is_csr = like.format == "csr"
    size, line = (shape[1], "column") if is_csr else (shape[0], "row")
    if not len(data) == len(indices) == indptr[-1]:
        msg = f"{len(data):,} values and {len(indices):,} {line} numbers for "
        msg += f"{indptr[-1]:,} entries"
        raise ValueError(msg)
    if indices.dtype.kind not in "iu":
        msg = f"{line} numbers of the dtype {indices.dtype}"
        raise ValueError(msg)
    indices = _native(indices)
    # Negative ones would be taken from the end, or read other memory. As unsigned, they are large
    if len(indices) and indices.view(f"u{indices.itemsize}").max() >= size:
        msg = f"{line} numbers from {indices.min():,} to {indices.max():,} in a matrix of "
        msg += f"{size:,} {line}s"
        raise ValueError(msg)
    data = _native(data)
    kind = np.int32 if max(indptr[-1], *shape) < 2**31 else np.int64
    # scipy's constructor would copy parts of larger arrays
    found = (sp.csr_matrix if is_csr else sp.csc_matrix)(shape, dtype=data.dtype)
    found.data, found.indices = data, indices.astype(kind, copy=False)
    found.indptr = np.asarray(indptr, dtype=kind)
    return found


def _canonical(rows: sp.csr_matrix) -> sp.csr_matrix:
    """Sorted, and without duplicates, whose sum may exceed a small integer type."""
    if rows.has_canonical_format:
        return rows
    rows = rows.sorted_indices()
    if not rows.has_canonical_format:
        rows = rows.astype(np.float64)
        rows.sum_duplicates()
    return rows
