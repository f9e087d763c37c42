"""Open peaks of cells of known clusters, simulated with the rates of the clusters of a model."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from .model_clusters import ModelClusters

MIN_DEPTH = 5.0


def draw_clusters(memberships: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One cluster for each cell, by its memberships.

    Memberships say which cluster a cell may belong to, and a cell belongs to one. (If its open
    peaks were drawn from all clusters, cells would be easier to label than real ones.)
    """
    return (memberships.cumsum(axis=1) > rng.random((len(memberships), 1))).argmax(axis=1)


def simulate_peaks(
    clusters: ModelClusters, cluster_of: np.ndarray, rng: np.random.Generator
) -> sp.csr_matrix:
    """Open peaks of cells of one cluster each, ones, sparse int8 (n_cells, n_peaks).

    Depth is distributed log-normally around that of the model. If it has a background, the fraction
    of the fragments of a cell that are of the background is uniformly distributed.
    """
    n_cells = len(cluster_of)
    noise = rng.standard_normal(n_cells) * clusters.spread - clusters.spread**2 / 2
    depth = np.maximum(clusters.depth * np.exp(noise), MIN_DEPTH)
    n_fragments = np.maximum(rng.poisson(depth), 1)
    n_background = np.zeros(n_cells, int)
    rows, columns = [], []
    if clusters.background is not None:
        rates, largest = clusters.background
        n_background = rng.binomial(n_fragments, rng.random(n_cells) * largest)
        rows.append(np.repeat(np.arange(n_cells), n_background))
        columns.append(_draw(rates, len(rows[-1]), rng))
    for cluster in np.unique(cluster_of):
        cells = np.flatnonzero(cluster_of == cluster)
        rows.append(np.repeat(cells, (n_fragments - n_background)[cells]))
        columns.append(_draw(clusters.rates(cluster), len(rows[-1]), rng))
    places = tuple(np.concatenate(part or [np.zeros(0, int)]) for part in (rows, columns))
    n_peaks = len(clusters.model.peaks)
    found = sp.csr_matrix((np.ones(len(places[0]), np.int64), places), shape=(n_cells, n_peaks))
    found.data = np.ones(found.nnz, np.int8)
    return found


def _draw(rates: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Positions drawn by rates, (n,)."""
    ends = rates.cumsum()
    at = np.searchsorted(ends, rng.random(n) * ends[-1], side="right")
    return np.minimum(at, len(ends) - 1)
