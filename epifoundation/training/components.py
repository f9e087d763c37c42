"""Components of cells: latent semantic indexing of open peaks, principal components of RNA."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp
import torch
from threadpoolctl import threadpool_limits

from ..nn import add_up

N_COMPONENTS = 30  # of RNA or of open peaks, for clusters and neighbours
N_OVERSAMPLED = 10
N_ITERATIONS = 3
PER_CELL = 1e4  # total counts that a cell is normalised to


@dataclass(frozen=True)
class Components:
    """Scores of cells: products of their scaled values with loadings, centered and scaled.

    Attributes
    ----------
    loadings
        Including the weight of each column, float32 (n_columns, n_components).
    center, scale
        Of the scores of the cells that were fitted, (n_components,).
    is_pattern
        Values are open peaks, with a weight of ``log1p(1e4 / n)`` in a cell with n of them.
    """

    loadings: torch.Tensor
    center: np.ndarray
    scale: np.ndarray
    is_pattern: bool

    def scores(self, rows: sp.csr_matrix) -> np.ndarray:
        """Scores of cells, float64 (n_cells, n_components)."""
        return (self._project(rows) - self.center) / self.scale

    def _project(self, rows: sp.csr_matrix) -> np.ndarray:
        ids, offsets, values = packed(rows, self.loadings.device)
        sums = add_up(self.loadings, ids, offsets, None if self.is_pattern else values)
        found = sums.double().cpu().numpy()
        return found * cell_weights(rows)[:, None] if self.is_pattern else found


def semantic_components(
    pattern: sp.csr_matrix, n: int, rng: np.random.Generator, device: torch.device
) -> Components:
    """Latent semantic indexing of ``log1p(1e4 / n_open) * idf`` of open peaks, standardized.

    The first component, which is depth, is dropped. Small data have fewer than `n` components.
    """
    idf = np.log1p(pattern.shape[0] / (1 + pattern.getnnz(axis=0)))
    matrix = Product(pattern, device, rows=cell_weights(pattern), columns=idf)
    vectors = _right_vectors(matrix, n + 1, rng)[:, 1:]
    loadings = torch.from_numpy((idf[:, None] * vectors).astype(np.float32)).to(device)
    return _centered(loadings, pattern, is_pattern=True)


def expression_components(
    values: sp.csr_matrix, n: int, rng: np.random.Generator, device: torch.device
) -> Components:
    """Principal components of expression: an uncentered decomposition with centered scores."""
    if values.shape[1] < 3:
        vectors = np.eye(values.shape[1])
    else:
        vectors = _right_vectors(Product(values, device), n + 1, rng)
    loadings = torch.from_numpy(vectors.astype(np.float32)).to(device)
    return _centered(loadings, values, is_pattern=False)


def _centered(loadings: torch.Tensor, cells: sp.csr_matrix, *, is_pattern: bool) -> Components:
    """Components whose scores of these cells have mean 0 and, for open peaks, variance 1."""
    n = loadings.shape[1]
    found = Components(loadings, np.zeros(n), np.ones(n), is_pattern)
    scores = found.scores(cells)
    scale = scores.std(axis=0) + 1e-12 if is_pattern else np.ones(n)
    return replace(found, center=scores.mean(axis=0), scale=scale)


class Product:
    """Products of a sparse matrix, with scaled rows and columns, and a dense one, in float32."""

    def __init__(
        self,
        matrix: sp.csr_matrix,
        device: torch.device,
        rows: np.ndarray | None = None,
        columns: np.ndarray | None = None,
    ) -> None:
        self.shape = matrix.shape
        self.rows, self.columns = (
            None if a is None else torch.from_numpy(a.astype(np.float32)).to(device)[:, None]
            for a in (rows, columns)
        )
        self.straight = packed(matrix, device)
        self.turned = packed(matrix.tocsc(), device)
        self.is_pattern = matrix.dtype == np.int8
        self.device = device

    def times(self, right: np.ndarray) -> np.ndarray:
        """The matrix times `right`, (n_rows, k)."""
        return self._multiply(self.straight, right, self.columns, self.rows)

    def transposed_times(self, right: np.ndarray) -> np.ndarray:
        """The transposed matrix times `right`, (n_columns, k)."""
        return self._multiply(self.turned, right, self.rows, self.columns)

    def _multiply(
        self,
        parts: tuple,
        right: np.ndarray,
        before: torch.Tensor | None,
        after: torch.Tensor | None,
    ) -> np.ndarray:
        ids, offsets, values = parts
        table = torch.from_numpy(np.ascontiguousarray(right, dtype=np.float32)).to(self.device)
        table = table if before is None else table * before
        found = add_up(table, ids, offsets, None if self.is_pattern else values)
        found = found if after is None else found * after
        return found.cpu().numpy()


def _right_vectors(matrix: Product, n: int, rng: np.random.Generator) -> np.ndarray:
    """Right singular vectors by randomized subspace iteration (Halko et al. 2011), at most `n`."""
    n = min(n, *(size - 1 for size in matrix.shape))
    if n < 1:
        return np.zeros((matrix.shape[1], 0))
    width = min(n + N_OVERSAMPLED, *matrix.shape)
    basis = rng.standard_normal((matrix.shape[1], width)).astype(np.float32)
    for _ in range(N_ITERATIONS):
        basis = _orthonormal(matrix.transposed_times(_orthonormal(matrix.times(basis))))
    turned = matrix.transposed_times(_orthonormal(matrix.times(basis)))
    with same_bits():
        vectors, _, _ = np.linalg.svd(turned.astype(np.float64), full_matrices=False)
    vectors = vectors[:, :n]
    return vectors * np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(n)])


def _orthonormal(columns: np.ndarray) -> np.ndarray:
    with same_bits():
        return np.linalg.qr(columns)[0]


def log_normalise(counts: sp.csr_matrix) -> sp.csr_matrix:
    """``log1p`` of counts per 10,000, sparse float32."""
    totals = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    factors = (PER_CELL / np.maximum(totals, 1)).astype(np.float32)
    values = np.repeat(factors, np.diff(counts.indptr))
    values *= counts.data
    np.log1p(values, out=values)
    return with_values(counts, values)


def scored_expression(rows: sp.csr_matrix, objective: str) -> sp.csr_matrix:
    """Expression of which components are computed: normalised, if the objective is of counts."""
    return log_normalise(rows) if objective == "counts" else rows


def with_values(rows: sp.csr_matrix, values: np.ndarray) -> sp.csr_matrix:
    """A matrix with other values in the same places; indices are not copied."""
    return sp.csr_matrix((values, rows.indices, rows.indptr), shape=rows.shape)


def cell_weights(pattern: sp.csr_matrix) -> np.ndarray:
    """Weight of an open peak in each cell, (n_cells,)."""
    return np.log1p(PER_CELL / np.maximum(np.diff(pattern.indptr), 1))


def packed(
    rows: sp.csr_matrix | sp.csc_matrix, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Column numbers, offsets and values of sparse rows (of CSC: of its columns), on a device."""
    index = np.int32 if rows.nnz < 2**31 else np.int64
    ids, offsets = (
        torch.from_numpy(a.astype(index, copy=False)).to(device)
        for a in (rows.indices, rows.indptr)
    )
    return ids, offsets, torch.from_numpy(rows.data).to(device)


@contextmanager
def same_bits() -> Iterator[None]:
    """Run dense linear algebra in one thread, so that results do not depend on their number."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(n_threads)
