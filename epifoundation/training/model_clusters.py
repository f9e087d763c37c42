"""The clusters of a model, from which cells with known memberships are simulated."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from ..models import EpiFoundation
from ..nn import ExpressionHead, ProfileExpressionHead
from .atlas_clusters import AtlasClusters
from .set_clusters import SetClusters


class ModelClusters(Protocol):
    """Expression and open peaks of the clusters of a model.

    Attributes
    ----------
    model
        The model.
    shares
        Proportion of each cluster among the cells of the model, (n_clusters,).
    n_others
        Clusters without expression, whose positions follow those of the clusters with expression.
    certainty
        Mean largest membership of a cell in the clusters.
    depth, spread
        Mean number of open peaks of a cell, and standard deviation of its logarithm.
    is_of_counts
        Whether expression is that of counts, not of values of any scale.
    background
        Rates of peaks that are open in cells of any cluster, (n_peaks,), or None; and the largest
        fraction of the open peaks of a cell that is drawn from these.
    """

    model: EpiFoundation
    shares: np.ndarray
    n_others: int
    certainty: float
    depth: float
    spread: float
    is_of_counts: bool
    background: tuple[np.ndarray, float] | None

    def profiles(self, genes: np.ndarray) -> np.ndarray:
        """Mean expression of some genes in each cluster, (n_clusters, n_genes).

        Fractions of the counts of these genes; of a model of values, values.
        """

    def rates(self, cluster: int) -> np.ndarray:
        """How often each peak is open in a cluster, on any scale, float64 (n_peaks,)."""


def clusters_of(model: EpiFoundation, what: str) -> ModelClusters:
    """Clusters of a model.

    Raises
    ------
    ValueError
        The model has no clusters with expression; `what` needs them.
    """
    head = model.network.expression
    if isinstance(head, ProfileExpressionHead):
        return AtlasClusters(model)
    if model.config.is_measured and isinstance(head, ExpressionHead):
        return SetClusters(model)
    reason = "it learned from ATAC alone, so that it has no genes"
    if head is not None:
        reason = f"its encoder is {model.config.encoder!r}, and only 'set' and 'profiles' have "
        reason += "clusters of cells"
    msg = f"The model {model.name!r} cannot use {what}: {reason}. Pass a reference with ATAC, use "
    msg += "the model 'human-atlas', or pretrain on paired data with the encoder 'set' (the "
    msg += "default)."
    raise ValueError(msg)
