"""Memberships of cells with RNA in the clusters of a model, from the expression of each cluster."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from .components import same_bits

N_ROUNDS = 5  # in which memberships and the scales of genes are fitted in turn
PSEUDO_COUNT = 20.0  # by which the scales of genes are shrunk to 1
N_HALVINGS = 40  # of the interval of temperatures


def memberships_of(
    expression: sp.csr_matrix, profiles: np.ndarray, largest: float, *, counts: bool
) -> np.ndarray:
    r"""Memberships of cells in clusters, float64 (n_cells, n_clusters); rows add up to 1.

    With counts, a cell has the likelihood :math:`\prod_g (s_g \pi_{kg})^{x_g}` in cluster
    :math:`k`. The scales :math:`s_g` of the genes, by which the technology of the reference differs
    from that of the model, are fitted together with the memberships. Of values, the likelihood is
    that of a normal distribution.

    Likelihoods are tempered so that the mean of the largest membership is `largest`, as it is in
    the training cells of the model. So memberships are equally certain for any depth.
    """
    scores = _of_counts if counts else _of_values
    found = np.full((expression.shape[0], len(profiles)), 1 / len(profiles))
    with same_bits():
        for i in range(N_ROUNDS + 1):
            # In the first round, scales are 1: uniform memberships say nothing about genes
            found = _tempered(scores(expression, profiles, found if i else None), largest)
    return found


def _of_counts(
    counts: sp.csr_matrix, profiles: np.ndarray, memberships: np.ndarray | None
) -> np.ndarray:
    scaled = profiles
    if memberships is not None:
        totals = np.asarray(counts.sum(axis=1), np.float64).ravel()
        expected = (totals @ memberships) @ profiles
        observed = np.asarray(counts.sum(axis=0), np.float64).ravel()
        scaled = profiles * ((observed + PSEUDO_COUNT) / (expected + PSEUDO_COUNT))
        scaled /= scaled.sum(axis=1, keepdims=True)
    return counts @ np.log(scaled + 1e-12).T


def _of_values(
    values: sp.csr_matrix, profiles: np.ndarray, memberships: np.ndarray | None
) -> np.ndarray:
    return values @ profiles.T - 0.5 * (profiles**2).sum(axis=1)


def _tempered(scores: np.ndarray, largest: float) -> np.ndarray:
    """Softmax of scores at the temperature at which the mean of the largest is `largest`."""
    scores = scores - scores.max(axis=1, keepdims=True)
    low, high = -10.0, 10.0
    for _ in range(N_HALVINGS):
        middle = (low + high) / 2
        # The largest is exp(0) before normalisation
        mean = (1 / np.exp(scores / np.exp(middle)).sum(axis=1)).mean()
        low, high = (middle, high) if mean > largest else (low, middle)
    found = np.exp(scores / np.exp(high))
    return found / found.sum(axis=1, keepdims=True)
