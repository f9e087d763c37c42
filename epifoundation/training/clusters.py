"""Clusters of cells, and the memberships of cells in them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..peaks.counted import WEIGHT
from .components import same_bits

MIN_CLUSTER_CELLS = 5  # per cluster, on average
N_KEPT = 5  # memberships of a cell


@dataclass(frozen=True)
class Clusters:
    """Centers of k-means clusters.

    Attributes
    ----------
    centers
        (n_clusters, n_components).
    temperature
        Excess in squared distance over the nearest center at which a membership falls to 1 / e.
    """

    centers: np.ndarray
    temperature: float

    @property
    def n_kept(self) -> int:
        """Memberships per cell."""
        return min(N_KEPT, len(self.centers))

    def memberships(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Columns and weights of the largest memberships, as in :class:`.counted.CountedCells`."""
        square = (scores**2).sum(axis=1, keepdims=True) + (self.centers**2).sum(axis=1)
        square -= 2 * scores @ self.centers.T
        codes = np.argsort(square, axis=1, kind="stable")[:, : self.n_kept]
        nearest = np.take_along_axis(square, codes, axis=1)
        weights = np.exp((nearest[:, :1] - nearest) / self.temperature)
        weights = np.floor(WEIGHT * weights / weights.sum(axis=1, keepdims=True) + 1e-6)
        dtype = np.uint8 if len(self.centers) <= 256 else np.uint16
        return codes.astype(dtype), weights[:, 1:].astype(np.uint8)


def find_clusters(
    scores: np.ndarray, n_clusters: int, softness: float, rng: np.random.Generator
) -> Clusters:
    """K-means clusters: at most `n_clusters`, with enough cells each, and at least one."""
    from sklearn.cluster import KMeans

    n_clusters = max(min(n_clusters, len(scores) // MIN_CLUSTER_CELLS), 1)
    # Cells of the same few genes may be equal
    n_clusters = min(n_clusters, len(np.unique(scores, axis=0)))
    seed = int(rng.integers(2**31))
    if n_clusters == 1 or not scores.shape[1]:
        return Clusters(scores.mean(axis=0, keepdims=True), 1.0)
    with same_bits():
        found = KMeans(n_clusters, n_init=2, random_state=seed).fit(scores)
        nearest = found.transform(scores).min(axis=1) ** 2
    return Clusters(found.cluster_centers_, float(softness * np.median(nearest) + 1e-12))
