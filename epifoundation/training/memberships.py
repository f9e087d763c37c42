"""Memberships of cells with RNA in the clusters of a model, from the expression of each cluster."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from ..models import EpiFoundation
from ..nn import ENCODER, ExpressionHead
from ..peaks.counted import WEIGHT
from .components import same_bits

LARGEST = 0.4  # mean largest membership of a cell, if the model does not know its training cells
N_ROUNDS = 5  # in which memberships and the scales of genes are fitted in turn
PSEUDO_COUNT = 20.0  # by which the scales of genes are shrunk to 1
N_HALVINGS = 40  # of the interval of temperatures


def profiles_of(model: EpiFoundation, genes: np.ndarray) -> np.ndarray:
    """Mean expression of some genes in each cluster, (n_clusters, n_genes).

    Fractions of the counts of these genes; of a model of values, values.
    """
    head = model.network.expression
    if not isinstance(head, ExpressionHead):
        msg = f"Expected a linear decoder, got {type(head).__name__}."
        raise TypeError(msg)
    with same_bits():
        logits = (head.linear.weight.T + head.linear.bias).double().cpu().numpy()[:, genes]
    if model.config.objective == "gaussian":
        mean, deviation = (part.double().cpu().numpy() for part in (head.mean, head.deviation))
        return mean[genes] + deviation[genes] * logits
    if model.config.objective == "binary":  # the mean count of a gene that is silent so often
        rates = np.logaddexp(0, logits)
    else:
        rates = np.exp(logits - logits.max())
    return rates / rates.sum(axis=1, keepdims=True)


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


def largest_membership(model: EpiFoundation) -> float:
    """Mean largest membership of the training cells of a model."""
    cells = model.cells.get(ENCODER)
    if cells is None or not len(cells):
        return LARGEST
    others = cells.weights.astype(float) / WEIGHT
    first = 1 - others.sum(axis=1, keepdims=True)
    return float(np.concatenate([first, others], axis=1).max(axis=1).mean())


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
