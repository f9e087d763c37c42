"""Open peaks of cells of known memberships, simulated from the rates of clusters."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.sparse as sp

MIN_DEPTH = 5.0


def simulate_peaks(
    rates: Callable[[int], np.ndarray],
    memberships: np.ndarray,
    rng: np.random.Generator,
    depth: float,
    spread: float,
) -> sp.csr_matrix:
    """Open peaks, ones, sparse int8 (n_cells, n_peaks).

    A cluster is drawn for each cell by its memberships, and fragments from the peaks of this
    cluster: memberships say which cluster a cell may belong to, and a cell belongs to one. (If
    fragments were drawn from all clusters, cells would be easier to label than real ones.)

    Parameters
    ----------
    rates
        Of a cluster: how often each peak is open, on any scale, (n_peaks,).
    memberships
        (n_cells, n_clusters); rows add up to 1.
    rng
        Random number generator.
    depth, spread
        Mean number of fragments, which is distributed log-normally, and standard deviation of its
        logarithm.
    """
    n_cells = len(memberships)
    cluster_of = (memberships.cumsum(axis=1) > rng.random((n_cells, 1))).argmax(axis=1)
    noise = rng.standard_normal(n_cells) * spread - spread**2 / 2
    n_fragments = np.maximum(rng.poisson(np.maximum(depth * np.exp(noise), MIN_DEPTH)), 1)
    rows, columns, n_peaks = [], [], len(rates(0))
    for cluster in np.unique(cluster_of):
        cells = np.flatnonzero(cluster_of == cluster)
        n = n_fragments[cells]
        ends = rates(cluster).cumsum()
        at = np.searchsorted(ends, rng.random(n.sum()) * ends[-1], side="right")
        columns.append(np.minimum(at, n_peaks - 1))
        rows.append(np.repeat(cells, n))
    places = tuple(np.concatenate(part or [np.zeros(0, int)]) for part in (rows, columns))
    found = sp.csr_matrix((np.ones(len(places[0]), np.int64), places), shape=(n_cells, n_peaks))
    found.data = np.ones(found.nnz, np.int8)
    return found
