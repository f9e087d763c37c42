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

RATIO = 0.3  # of the variance of cells of one kind and batch: where batches differ by more, they are taken out
LEAST = 10  # cells of a batch in a group, for their mean to count
N_GROUPS = (20, 14, 10, 7, 5, 3)  # clusters that are tried: the most of which batches are mixed
MIXED = 0.85  # of the entropy of even batches in a cluster is enough
N_ROUNDS = 3  # of finding groups in an embedding without batches, and batches within groups
RIDGE = 1e-2  # of the mean variance, added to each


def batch_directions(
    embedding: np.ndarray,
    batch: np.ndarray,
    rng: np.random.Generator,
    groups: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """What tells batches of like cells apart, and along what it is taken out: A and B, both (n_directions, d), ``A B^T = I``.

    Generalised eigenvectors of two covariances: of batch means around the mean of their group, less what chance makes of means of so many
    cells; and of cells around the mean of their group and batch. Where the first is more than 0.3 of the second, batches of like cells
    lie apart, and ``z - (z A^T) B`` has them together. Being oblique, that takes out little of what tells groups apart: they differ along few
    directions, which are seldom these. Where batches are alike, nothing is found.

    Without `groups`, they are clusters of the embedding after what was found so far is gone, at first the differences of the batches' means:
    as many as can be while all hold cells of all batches. Then what is another composition of batches within a cluster is taken for
    a difference of batches.
    """
    if len(np.unique(batch)) < 2:
        return np.zeros((0, embedding.shape[1])), np.zeros((0, embedding.shape[1]))
    with same_bits():
        if groups is not None:
            return _directions(embedding, batch, groups)
        between, _ = _covariances(embedding, batch, np.zeros(len(embedding), dtype=int))
        n_axes = min(
            len(np.unique(batch)) - 1, embedding.shape[1] // 2
        )  # cells differ along the others
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
    within += RIDGE * np.trace(within) / len(within) * np.eye(len(within)) + 1e-12 * np.eye(
        len(within)
    )
    values, vectors = eigh(between, within)  # vectors.T @ within @ vectors = I
    read = vectors[:, values > RATIO][:, ::-1][:, : embedding.shape[1] // 2].T
    return read, read @ within


def _covariances(
    embedding: np.ndarray, batch: np.ndarray, groups: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Covariance of batch means around the mean of their group, less that which chance makes, and of cells of one group and batch."""
    dim = embedding.shape[1]
    between, within, n_between, n_within = np.zeros((dim, dim)), np.zeros((dim, dim)), 0, 0
    for group in np.unique(groups[groups >= 0]):
        inside = groups == group
        parts = [embedding[inside & (batch == code)] for code in np.unique(batch[inside])]
        parts = [part for part in parts if len(part) >= LEAST]
        spreads = [np.cov(part.T).reshape(dim, dim) for part in parts]
        for part, spread in zip(parts, spreads, strict=True):
            within += len(part) * spread
            n_within += len(part)
        if len(parts) < 2:
            continue
        counts = np.array([len(part) for part in parts])
        means = np.stack([part.mean(axis=0) for part in parts])
        around = means - means.mean(axis=0)
        # The mean of n cells varies by a n-th of what cells do.
        between += (around.T * counts) @ around - (1 - 1 / len(parts)) * sum(spreads)
        n_between += int(counts.sum())
    return between / max(n_between, 1), within / max(n_within, 1)


def _cluster(embedding: np.ndarray, batch: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cluster of each cell: of the largest number that has batches mixed, or of that which has them mixed best."""
    from sklearn.cluster import KMeans

    best, most = np.zeros(len(embedding), dtype=int), 0.0
    for n in N_GROUPS:
        if n * 5 * LEAST > len(embedding) and n > N_GROUPS[-1]:
            continue
        found = KMeans(min(n, len(embedding)), n_init=3, random_state=int(rng.integers(2**31)))
        groups = found.fit_predict(embedding)
        mixed = _mixing(groups, batch)
        if mixed > most:
            best, most = groups, mixed
        if most > MIXED:
            break
    return best


def _mixing(groups: np.ndarray, batch: np.ndarray) -> float:
    """Entropy of batches in a group, each weighted to be of one size, over that of even ones; mean over cells."""
    counts = pd.crosstab(groups, batch).to_numpy().astype(float)
    shares = counts / counts.sum(axis=0)
    shares /= shares.sum(axis=1, keepdims=True)
    entropy = -(shares * np.log(np.maximum(shares, 1e-12))).sum(axis=1) / np.log(counts.shape[1])
    return float(entropy @ counts.sum(axis=1) / counts.sum())


@torch.no_grad()
def project_out(
    network: Network, read: np.ndarray, along: np.ndarray, means: np.ndarray
) -> Network:
    """The network with more directions projected out of the columns of its encoder.

    Linear decoders that are trained by gradient get back for each batch what its cells had on average.

    Parameters
    ----------
    network
        Not changed.
    read, along
        As :func:`batch_directions` gives them.
    means
        Mean columns of each batch, (n_batches, d).
    """
    along_a, along_b, centers = (
        torch.from_numpy(array.astype(np.float32)) for array in (read, along, means)
    )
    (name,) = (path for path, part in network.named_modules() if isinstance(part, Projection))
    projection = cast("Projection", copy.deepcopy(network.get_submodule(name)).cpu())
    lost = (centers @ along_a.T) @ along_b
    buffers = projection.followed_by(along_a, along_b, lost.mean(dim=0))
    tensors = {f"{name}.{key}": value for key, value in buffers.items()}
    lost = lost - lost.mean(dim=0)
    if isinstance(network.peaks, PeakHead) and network.peaks.batch is not None:
        tensors["peaks.batch"] = network.peaks.batch.cpu() + lost
    if (
        isinstance(network.expression, ExpressionHead)
        and network.expression.batch is not None
        and not network.config.is_measured
    ):
        tensors["expression.batch"] = (
            network.expression.batch.cpu() + lost @ network.expression.linear.weight.cpu().T
        )
    sizes = replace(network.sizes, n_removed=projection.n_removed + len(read))
    return network.with_sizes(sizes, tensors)


def batch_means(columns: np.ndarray, batch: np.ndarray, n_batches: int) -> np.ndarray:
    """Mean columns of the cells of each batch, and of all cells for a batch without any, (n_batches, d)."""
    there = [columns[batch == code] for code in range(n_batches)]
    return np.stack([(cells if len(cells) else columns).mean(axis=0) for cells in there])
