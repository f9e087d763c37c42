"""Latent semantic indexing of peaks, and the vectors of peaks that training begins with (DESIGN 2a)."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp


def idf(pattern: sp.csr_matrix) -> np.ndarray:
    """Inverse document frequency of each peak, ``log(1 + n_cells / (1 + count))``, (n_peaks,)."""
    return np.log1p(pattern.shape[0] / (1 + pattern.getnnz(axis=0))).astype(np.float32)


def peak_vectors(
    pattern: sp.csr_matrix, scores: np.ndarray | None, dim: int, rng: np.random.Generator, *, std: float = 0.02
) -> np.ndarray:
    """Vectors of peaks that open together, or with the same genes.

    Half of the columns come from the cross-covariance of peaks and RNA, the rest from latent semantic
    indexing of the peaks; all of them without RNA. What the rank of small data cannot fill is noise.

    Parameters
    ----------
    pattern
        Open peaks of the training cells, ones, (n_cells, n_peaks).
    scores
        Principal components of the cells' RNA, (n_cells, n_components), or None.
    dim
        Columns wanted.
    rng
        Source of randomness.
    std
        Standard deviation of every column.

    Returns
    -------
    float32, (n_peaks, dim).
    """
    from_rna = np.empty((pattern.shape[1], 0)) if scores is None else _cross_covariance(pattern, scores)[:, : dim // 2]
    from_atac = _semantic_index(pattern, dim - from_rna.shape[1], rng)
    columns = np.concatenate([from_rna, from_atac], axis=1)
    noise = rng.standard_normal((pattern.shape[1], dim - columns.shape[1]))
    columns = np.concatenate([columns, noise], axis=1)
    return (std * columns / (columns.std(axis=0) + 1e-12)).astype(np.float32)


def semantic_scores(pattern: sp.csr_matrix, n_components: int, rng: np.random.Generator) -> np.ndarray:
    """Latent semantic indexing of cells, standardised, without the first component, (n_cells, n_components or less)."""
    weighted = _tf_idf(pattern)
    scores = _svd(weighted, n_components + 1, rng).fit_transform(weighted)[:, 1:]
    return (scores - scores.mean(axis=0)) / (scores.std(axis=0) + 1e-12)


def rna_scores(expression: sp.csr_matrix, n_components: int, rng: np.random.Generator) -> np.ndarray:
    """Centred principal component scores of log-normalised expression, (n_cells, n_components or less)."""
    if expression.shape[1] < 3:
        scores = expression.toarray()
        return scores - scores.mean(axis=0)
    scores = _svd(expression, n_components + 1, rng).fit_transform(expression)
    # The first vector of an uncentred SVD is about the mean; centring the scores leaves little of it.
    return scores - scores.mean(axis=0)


def log_normalise(counts: sp.csr_matrix, per_cell: float = 1e4) -> sp.csr_matrix:
    """``log1p`` of counts per `per_cell`, sparse."""
    totals = np.asarray(counts.sum(axis=1)).ravel()
    scaled = sp.diags(per_cell / np.maximum(totals, 1)) @ counts
    return scaled.tocsr().log1p()


def neighbor_weights(scores: np.ndarray, n_neighbors: int) -> sp.csr_matrix:
    """Row-stochastic weights of each cell's nearest cells, itself counted, (n_cells, n_cells)."""
    from sklearn.neighbors import NearestNeighbors

    n_neighbors = min(n_neighbors, len(scores))
    graph = NearestNeighbors(n_neighbors=n_neighbors).fit(scores).kneighbors_graph(scores)
    return (graph / n_neighbors).tocsr().astype(np.float32)


def _cross_covariance(pattern: sp.csr_matrix, scores: np.ndarray) -> np.ndarray:
    """Left singular vectors of peaks x RNA components, rare peaks held down by 1 / sqrt(count + 5)."""
    weight = 1 / np.sqrt(pattern.getnnz(axis=0) + 5)
    covariance = (pattern.T @ scores) * weight[:, None]
    left, values, _ = np.linalg.svd(covariance, full_matrices=False)
    return left[:, values > 1e-6 * values[0]]


def _semantic_index(pattern: sp.csr_matrix, dim: int, rng: np.random.Generator) -> np.ndarray:
    """Peak loadings of TF-IDF, without the first component, which is depth."""
    if min(pattern.shape) < 3:
        return np.empty((pattern.shape[1], 0))
    weighted = _tf_idf(pattern)
    return _svd(weighted, dim + 1, rng).fit(weighted).components_[1:].T


def _tf_idf(pattern: sp.csr_matrix) -> sp.csr_matrix:
    frequency = sp.diags(1 / np.maximum(pattern.getnnz(axis=1), 1)) @ pattern
    weighted = (frequency @ sp.diags(idf(pattern))).tocsr()
    weighted.data = np.log1p(1e4 * weighted.data)
    return weighted


def _svd(matrix: sp.csr_matrix, n_components: int, rng: np.random.Generator):  # noqa: ANN202
    from sklearn.decomposition import TruncatedSVD

    return TruncatedSVD(min(n_components, min(matrix.shape) - 1), random_state=int(rng.integers(2**31)))
