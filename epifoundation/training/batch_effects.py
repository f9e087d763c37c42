"""Directions along which batches of similar cells differ, which encoders project out."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import cast

import numpy as np
import pandas as pd
import torch

from ..nn import ExpressionHead, Network, PeakHead, Projection
from .components import same_bits

# Variance between batches, over that of cells of one group and batch, above which it is removed
RATIO = 0.3
MIN_BATCH_CELLS = 10  # of a batch in a group, for their mean to count
N_GROUPS = (20, 14, 10, 7, 5, 3)  # numbers of clusters to try: the largest with mixed batches
MIXED = 0.85  # fraction of the entropy of even batches at which a clustering counts as mixed
N_ROUNDS = 3  # of clustering without batch effects, and finding batch effects within clusters
COVARIANCE_RIDGE = 1e-2  # of the mean variance, added to each variance


def batch_directions(
    embedding: np.ndarray,
    batch: np.ndarray,
    rng: np.random.Generator,
    groups: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Directions A along which batches of similar cells differ, and B to remove them along.

    Both are (n_directions, d), with ``A B^T = I``. They are generalised eigenvectors of two
    covariances: of batch means around the mean of their group, minus the sampling variance of these
    means; and of cells around the mean of their group and batch. Where the first is more than 0.3
    of the second, batches of similar cells differ, and ``z - (z A^T) B`` aligns them. This oblique
    projection removes little of what distinguishes groups, which differ along few directions and
    seldom along these. Without batch effects, nothing is found.

    Without `groups`, they are clusters of the embedding without the directions found so far, at
    first without the differences between batch means: as many clusters as are possible with all
    batches in each. Different compositions of batches within a cluster then count as batch effects.
    """
    if len(np.unique(batch)) < 2:
        return np.zeros((0, embedding.shape[1])), np.zeros((0, embedding.shape[1]))
    with same_bits():
        if groups is not None:
            return _directions(embedding, batch, groups)
        between, _ = _covariances(embedding, batch, np.zeros(len(embedding), dtype=int))
        # Cells differ along the other axes
        n_axes = min(len(np.unique(batch)) - 1, embedding.shape[1] // 2)
        axes = np.linalg.eigh(between)[1][:, ::-1][:, :n_axes].T
        read, along = axes, axes
        for _ in range(N_ROUNDS):
            groups = _cluster(embedding - (embedding @ read.T) @ along, batch, rng)
            read, along = _directions(embedding, batch, groups)
        return read, along


def scaled_directions(
    columns: np.ndarray, batch: np.ndarray, rng: np.random.Generator, groups: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """:func:`batch_directions` of columns of any scale, such as those of a set encoder."""
    return batch_directions(columns / (columns.std(axis=0).mean() + 1e-12), batch, rng, groups)


def _directions(
    embedding: np.ndarray, batch: np.ndarray, groups: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    from scipy.linalg import eigh

    between, within = _covariances(embedding, batch, groups)
    identity = np.eye(len(within))
    within += COVARIANCE_RIDGE * np.trace(within) / len(within) * identity + 1e-12 * identity
    values, vectors = eigh(between, within)  # vectors.T @ within @ vectors = I
    read = vectors[:, values > RATIO][:, ::-1][:, : embedding.shape[1] // 2].T
    return read, read @ within


def _covariances(
    embedding: np.ndarray, batch: np.ndarray, groups: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Covariance of batch means within groups, minus sampling variance, and that of cells."""
    dim = embedding.shape[1]
    between, within, n_between, n_within = np.zeros((dim, dim)), np.zeros((dim, dim)), 0, 0
    for group in np.unique(groups[groups >= 0]):
        inside = groups == group
        parts = [embedding[inside & (batch == code)] for code in np.unique(batch[inside])]
        parts = [part for part in parts if len(part) >= MIN_BATCH_CELLS]
        spreads = [np.cov(part.T).reshape(dim, dim) for part in parts]
        for part, spread in zip(parts, spreads, strict=True):
            within += len(part) * spread
            n_within += len(part)
        if len(parts) < 2:
            continue
        counts = np.array([len(part) for part in parts])
        means = np.stack([part.mean(axis=0) for part in parts])
        around = means - means.mean(axis=0)
        # The variance of the mean of n cells is an n-th of that of cells
        between += (around.T * counts) @ around - (1 - 1 / len(parts)) * sum(spreads)
        n_between += int(counts.sum())
    return between / max(n_between, 1), within / max(n_within, 1)


def _cluster(embedding: np.ndarray, batch: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cluster of each cell: of the most clusters with mixed batches, or of the best mixed ones."""
    from sklearn.cluster import KMeans

    best, best_mixed = np.zeros(len(embedding), dtype=int), 0.0
    for n in N_GROUPS:
        if n * 5 * MIN_BATCH_CELLS > len(embedding) and n > N_GROUPS[-1]:
            continue
        found = KMeans(min(n, len(embedding)), n_init=3, random_state=int(rng.integers(2**31)))
        groups = found.fit_predict(embedding)
        mixed = _mixing(groups, batch)
        if mixed > best_mixed:
            best, best_mixed = groups, mixed
        if best_mixed > MIXED:
            break
    return best


def _mixing(groups: np.ndarray, batch: np.ndarray) -> float:
    """Entropy of batches in a group, weighted to equal sizes, over the maximum; mean over cells."""
    counts = pd.crosstab(groups, batch).to_numpy().astype(float)
    parts = counts / counts.sum(axis=0)
    parts /= parts.sum(axis=1, keepdims=True)
    entropy = -(parts * np.log(np.maximum(parts, 1e-12))).sum(axis=1) / np.log(counts.shape[1])
    return float(entropy @ counts.sum(axis=1) / counts.sum())


@torch.no_grad()
def project_out(
    network: Network, read: np.ndarray, along: np.ndarray, means: np.ndarray
) -> Network:
    """The network with more directions projected out of the columns of its encoder.

    The mean that a batch loses is added to linear decoders trained by gradient descent, as offset.
    `read` and `along` are from :func:`batch_directions`, `means` from :func:`batch_means`.
    """
    parts = (torch.from_numpy(array.astype(np.float32)) for array in (read, along, means))
    along_a, along_b, centers = parts
    (name,) = (path for path, part in network.named_modules() if isinstance(part, Projection))
    projection = cast("Projection", copy.deepcopy(network.get_submodule(name)).cpu())
    lost = (centers @ along_a.T) @ along_b
    buffers = projection.followed_by(along_a, along_b, lost.mean(dim=0))
    tensors = {f"{name}.{key}": value for key, value in buffers.items()}
    lost = lost - lost.mean(dim=0)
    if isinstance(network.peaks, PeakHead) and network.peaks.batch is not None:
        tensors["peaks.batch"] = network.peaks.batch.cpu() + lost
    head = None if network.config.is_measured else network.expression
    if isinstance(head, ExpressionHead) and head.batch is not None:
        tensors["expression.batch"] = head.batch.cpu() + lost @ head.linear.weight.cpu().T
    sizes = replace(network.sizes, n_removed=projection.n_removed + len(read))
    return network.with_sizes(sizes, tensors)


def batch_means(columns: np.ndarray, batch: np.ndarray, n_batches: int) -> np.ndarray:
    """Mean columns of the cells of each batch, (n_batches, d); of all cells for an empty batch."""
    parts = [columns[batch == code] for code in range(n_batches)]
    return np.stack([(cells if len(cells) else columns).mean(axis=0) for cells in parts])
