"""Latent semantic indexing of peaks, and the vectors of peaks that training begins with."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

N_CLUSTERED = 30  # components that cells are clustered by
LEAST = 5  # cells a cluster, on average
MOST = 20_000  # cells that clusters are found with
SOFTNESS = 1.0  # of the median squared distance to the nearest centre
PSEUDO = 15  # cells that a peak is shrunken by


def idf(pattern: sp.csr_matrix) -> np.ndarray:
    """Inverse document frequency of each peak, ``log(1 + n_cells / (1 + count))``, (n_peaks,)."""
    return np.log1p(pattern.shape[0] / (1 + pattern.getnnz(axis=0))).astype(np.float32)


def known_of_cells(pattern: sp.csr_matrix, scores: np.ndarray | None, dim: int, rng: np.random.Generator) -> np.ndarray:
    """What is known of each training cell, of which the vector of a peak is the mean over the cells in which it is open.

    Soft memberships of clusters of cells of like RNA, which tell rare kinds of cells better than principal components do. Without RNA, clusters are of the
    latent semantic indexing of peaks, which makes up the other half of the columns. What small data cannot fill is noise.

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

    Returns
    -------
    float64, (n_cells, dim), each column with a mean of zero.
    """
    if scores is None:
        scores = semantic_scores(pattern, dim - dim // 2, rng)
        columns = np.concatenate([memberships(scores[:, :N_CLUSTERED], dim // 2, rng), scores], axis=1)
    else:
        columns = memberships(scores, dim, rng)
    noise = rng.standard_normal((len(columns), dim - columns.shape[1]))
    columns = np.concatenate([columns, noise], axis=1)
    return columns - columns.mean(axis=0)


def memberships(scores: np.ndarray, n_clusters: int, rng: np.random.Generator) -> np.ndarray:
    """Soft memberships of k-means clusters, (n_cells, n_clusters or less): a cell is of those that are not much farther than the nearest."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    n_clusters = min(n_clusters, len(scores) // LEAST)
    if n_clusters < 2 or not scores.shape[1]:
        return np.empty((len(scores), 0))
    seen = rng.permutation(len(scores))[:MOST]
    n_clusters = min(n_clusters, len(np.unique(scores[seen], axis=0)))  # cells of the same few genes may be alike
    with threadpool_limits(1):  # so that each process finds the same, to the last bit
        clusters = KMeans(n_clusters, n_init=2, random_state=int(rng.integers(2**31))).fit(scores[seen])
    distance = clusters.transform(scores) ** 2
    nearest = distance.min(axis=1, keepdims=True)
    weight = np.exp((nearest - distance) / (SOFTNESS * np.median(nearest) + 1e-12))
    return weight / weight.sum(axis=1, keepdims=True)


def measure(pattern: sp.csr_matrix, known: np.ndarray, std: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors of peaks: means of what is known of the cells in which they are open, shrunken as by `PSEUDO` cells of which nothing is.

    A cell is in the vectors of its own peaks. Summed over a cell with hundreds of peaks that few others have, it finds itself, and what is learned from that
    does not hold for new cells. So a cell that is learned from has to be taken out of them: with `share`, which is what a cell weighs in the
    vector of a peak without it, the vector without a cell of which `own` is known is ``vector + share * (vector - own)``.

    Returns
    -------
    vectors
        float32, (n_peaks, dim), in units in which the sum over a cell, itself taken out, over the root of the number of its peaks has a standard deviation of `std`.
    share
        float32, (n_peaks,).
    own
        float32, (n_cells, dim): `known` in these units.
    """
    count = pattern.getnnz(axis=0)
    vectors = (pattern.T @ known) / (count + PSEUDO)[:, None]
    share = 1 / (count + PSEUDO - 1)
    left_out = pattern @ (vectors * (1 + share)[:, None]) - known * (pattern @ share)[:, None]
    left_out /= np.sqrt(np.maximum(pattern.getnnz(axis=1), 1))[:, None]
    unit = std / (left_out.std(axis=0) + 1e-12)
    return tuple(array.astype(np.float32) for array in (vectors * unit, share, known * unit))


def semantic_scores(pattern: sp.csr_matrix, n_components: int, rng: np.random.Generator) -> np.ndarray:
    """Latent semantic indexing of cells, standardised, without the first component, (n_cells, n_components or less)."""
    if min(pattern.shape) < 3:
        return np.empty((pattern.shape[0], 0))
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


def _tf_idf(pattern: sp.csr_matrix) -> sp.csr_matrix:
    frequency = sp.diags(1 / np.maximum(pattern.getnnz(axis=1), 1)) @ pattern
    weighted = (frequency @ sp.diags(idf(pattern))).tocsr()
    weighted.data = np.log1p(1e4 * weighted.data)
    return weighted


def _svd(matrix: sp.csr_matrix, n_components: int, rng: np.random.Generator):  # noqa: ANN202
    from sklearn.decomposition import TruncatedSVD

    return TruncatedSVD(min(n_components, min(matrix.shape) - 1), random_state=int(rng.integers(2**31)))
