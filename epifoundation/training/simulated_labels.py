"""A label head that is fitted to simulated cells: their labels and clusters are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..models import EpiFoundation
from .features import embedding_of
from .label_head import fit_label_head
from .labels import without_labels
from .model_clusters import ModelClusters
from .simulated_cells import simulate_peaks


def with_simulated_labels(
    clusters: ModelClusters,
    cluster_of: np.ndarray,
    codes: np.ndarray,
    is_held: np.ndarray,
    names: Sequence[str],
    rng: np.random.Generator,
) -> EpiFoundation:
    """The model of `clusters` with a head for the labels of cells whose clusters are known.

    Open peaks are simulated from the clusters, and embedded as those of new cells are, so the
    head is fitted and calibrated to embeddings with the noise of cells with ATAC.

    Parameters
    ----------
    clusters
        Clusters of a model.
    cluster_of
        Cluster of each cell.
    codes
        Code of the label of each cell; each of the `names` is that of a training cell.
    is_held
        Which cells are for calibration.
    """
    base = without_labels(clusters.model)
    embedding = embedding_of(base, simulate_peaks(clusters, cluster_of, rng))
    parts = (~is_held, is_held, slice(None))
    head, _ = fit_label_head(*((embedding[part], codes[part]) for part in parts))
    tensors = {f"label.{name}": tensor for name, tensor in head.state_dict().items()}
    network = base.network.with_sizes(base.network.sizes.updated(head.sizes), tensors)
    return replace(base, network=network, labels=list(names), adapter=None).to(base.device)
