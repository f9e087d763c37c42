"""Expression heads in closed form: profiles of clusters, weighted by memberships in them."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from ..nn import ModelConfig
from ..peaks.counted import WEIGHT
from .statistics import FIXED, Statistics

PSEUDO_CELLS = 5.0  # pseudocount of cells by which profiles are shrunk to the mean of all cells
PROFILE_RIDGE = 0.1  # of the mean variance of a membership
PSEUDO_BATCH = 20.0  # pseudocount of cells by which batch effects are shrunk to none


def expression_weights(
    statistics: Statistics,
    config: ModelConfig,
    embedding: np.ndarray,
    expression: sp.csr_matrix,
    batches: np.ndarray | None,
    n_batches: int,
) -> dict[str, Tensor]:
    r"""Weights of a linear expression head, by their names in it.

    A cell has expected memberships :math:`m_k` in the clusters, which add up to 1. With
    ``"counts"``, the logarithm of the fraction of gene g is :math:`\sum_k m_k \log \pi_{kg}` up to
    a constant, with :math:`\pi_{kg}` the fraction of g in the counts of cluster k, shrunk to its
    fraction in all counts; with ``"binary"``, log odds take the place of logarithms. With
    ``"gaussian"``, expression is a ridge regression on the memberships.

    Profiles are those of `statistics`; `embedding`, `expression` and codes of `batches` (or None)
    are those of a sample of cells.
    """
    n_cells = cluster_sizes(statistics)
    objective = config.objective
    n_genes = expression.shape[1]
    sums = statistics.profiles.get(objective, np.zeros((0, n_genes))) / WEIGHT
    mean = np.zeros(n_genes)
    if objective == "counts":
        base = (sums.sum(axis=0) + 1) / (sums.sum() + n_genes)
        pseudo = PSEUDO_CELLS * sums.sum() / max(n_cells.sum(), 1e-9)
        weight = np.log((sums + pseudo * base) / (sums.sum(axis=1, keepdims=True) + pseudo))
    elif objective == "binary":
        base = (sums.sum(axis=0) + 0.5) / (n_cells.sum() + 1)
        rate = (sums + PSEUDO_CELLS * base) / (n_cells[:, None] + PSEUDO_CELLS)
        weight = np.log(rate) - np.log1p(-rate)
    else:
        weight, mean = ridge(embedding[:, : config.width].astype(np.float64), expression)
    found = {
        "linear.weight": weight.T,
        "linear.bias": np.zeros(n_genes),
        "mean": mean,
        "deviation": np.ones(n_genes),
    }
    if batches is not None:
        found["batch"] = batch_offsets(
            embedding, expression, batches, weight, mean, objective, n_batches
        )
    return {name: _tensor(array) for name, array in found.items()}


def measured_weights(statistics: Statistics) -> dict[str, Tensor]:
    """Weights of the head for the measured scale: mean expression of each cluster, shrunk."""
    n_cells = cluster_sizes(statistics)
    sums = statistics.profiles["measured"] / (WEIGHT * FIXED)
    mean = sums.sum(axis=0) / max(n_cells.sum(), 1e-9)
    return {"weight": _tensor((sums + PSEUDO_CELLS * mean) / (n_cells[:, None] + PSEUDO_CELLS))}


def cluster_sizes(statistics: Statistics) -> np.ndarray:
    """Number of cells in each cluster, by their memberships."""
    return statistics.totals[:, : statistics.dim].sum(axis=0) / WEIGHT


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def ridge(memberships: np.ndarray, expression: sp.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Ridge regression of expression on memberships: weights (dim, n_genes), intercepts."""
    center = memberships.mean(axis=0)
    level = np.asarray(expression.mean(axis=0), dtype=np.float64).ravel()
    around = memberships - center
    inner = around.T @ around
    inner += (PROFILE_RIDGE * np.trace(inner) / len(inner) + 1e-12) * np.eye(len(inner))
    cross = np.asarray((expression.T @ around).T) - np.outer(around.sum(axis=0), level)
    weight = np.linalg.solve(inner, cross)
    return weight, level - center @ weight


def batch_offsets(
    embedding: np.ndarray,
    expression: sp.csr_matrix,
    codes: np.ndarray,
    weight: np.ndarray,
    mean: np.ndarray,
    objective: str,
    n_batches: int,
) -> np.ndarray:
    """Offset of each batch in the logits of each gene, with mean 0 over batches.

    The logarithm (log odds, difference) of the expression of its cells over that predicted from
    their memberships, (n_batches, n_genes).
    """
    memberships = np.clip(embedding[:, : len(weight)].astype(np.float64), 0, None)
    observed, predicted = (np.zeros((n_batches, weight.shape[1])) for _ in range(2))
    size = np.bincount(codes[codes >= 0], minlength=n_batches)[:, None].astype(float)
    depth = np.ones(len(codes))
    if objective == "counts":
        depth = np.asarray(expression.sum(axis=1), dtype=np.float64).ravel()
    if objective == "gaussian":
        scale = weight + mean
    else:
        scale = np.exp(weight) if objective == "counts" else 1 / (1 + np.exp(-weight))
    for code in range(n_batches):
        inside = np.flatnonzero(codes == code)
        if len(inside):
            observed[code] = np.asarray(expression[inside].sum(axis=0)).ravel()
            predicted[code] = (depth[inside] @ memberships[inside]) @ scale
    if objective == "gaussian":
        offsets = (observed - predicted) / (size + PSEUDO_BATCH)
    else:
        total = observed.sum(axis=0) / max(size.sum(), 1)
        total_predicted = np.maximum(predicted.sum(axis=1, keepdims=True), 1e-12)
        expected = predicted * (observed.sum(axis=1, keepdims=True) / total_predicted)
        seen, wanted = (array + PSEUDO_BATCH * total + 1e-9 for array in (observed, expected))
        offsets = np.log(seen) - np.log(wanted)
        if objective == "binary":
            n_cells = size + PSEUDO_BATCH
            silent, wanted_silent = (
                np.log1p(-np.minimum(each / n_cells, 0.999)) for each in (seen, wanted)
            )
            offsets -= silent - wanted_silent
    has_cells = size[:, 0] > 0
    offsets[has_cells] -= offsets[has_cells].mean(axis=0)
    offsets[~has_cells] = 0
    return offsets
