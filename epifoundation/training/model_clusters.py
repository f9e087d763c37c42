"""The clusters of a model, to which labels of cells without open peaks are given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from ..models import EpiFoundation
from ..nn import ExpressionHead, ProfileExpressionHead, ProfileLabelHead
from .atlas_clusters import AtlasClusters
from .set_clusters import SetClusters


class ModelClusters(Protocol):
    """Clusters of cells, with the mean expression of each."""

    @property
    def model(self) -> EpiFoundation:
        """The model."""

    @property
    def shares(self) -> np.ndarray:
        """Proportion of each cluster among the cells of the model, (n_clusters,)."""

    @property
    def certainty(self) -> float:
        """Mean largest membership of a cell in the clusters."""

    @property
    def depth(self) -> float:
        """Mean number of open peaks of a simulated cell."""

    @property
    def is_of_counts(self) -> bool:
        """Whether expression is that of counts, not values of any scale."""

    def profiles(self, genes: np.ndarray) -> np.ndarray:
        """Mean expression of some genes in each cluster, (n_clusters, n_genes).

        Fractions of the counts of these genes; of a model of values, values.
        """

    def with_labels(
        self,
        memberships: np.ndarray,
        codes: np.ndarray,
        is_held: np.ndarray,
        names: Sequence[str],
        rng: np.random.Generator,
    ) -> EpiFoundation:
        """The model with a head for the labels of cells of which memberships are known.

        Parameters
        ----------
        memberships
            (n_cells, n_clusters); rows add up to 1.
        codes
            Code of the label of each cell; each of the `names` is that of a training cell.
        is_held
            Which cells are for calibration.
        """


def clusters_of(model: EpiFoundation, what: str) -> ModelClusters:
    """Clusters of a model.

    Raises
    ------
    ValueError
        The model has no clusters with expression; `what` needs them.
    """
    head = model.network.expression
    if isinstance(head, ProfileExpressionHead):
        if isinstance(model.network.label, ProfileLabelHead):
            return AtlasClusters(model)
        msg = f"The labels of the atlas {model.name!r} were replaced, and {what} needs them: use "
        msg += "'human-atlas'."
        raise ValueError(msg)
    if model.config.is_measured and isinstance(head, ExpressionHead):
        return SetClusters(model)
    reason = "it learned from ATAC alone, so that it has no genes"
    if head is not None:
        reason = f"its encoder is {model.config.encoder!r}, and only 'set' and 'profiles' have "
        reason += "clusters of cells"
    msg = f"The model {model.name!r} cannot use {what}: {reason}. Pass a reference with ATAC, use "
    msg += "the model 'human-atlas' for human blood, or pretrain on paired data with the encoder "
    msg += "'set' (the default)."
    raise ValueError(msg)
