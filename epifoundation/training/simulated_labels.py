"""A label head that is fitted to simulated cells: their labels and clusters are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..models import EpiFoundation
from ..nn import ExpressionHead
from .features import embedding_of
from .label_head import fit_label_head
from .labels import without_labels
from .simulated_cells import simulate_peaks


def check_clusters(model: EpiFoundation, what: str) -> None:
    """Raise ValueError unless the model has clusters with expression; `what` needs them."""
    reason = None
    if not len(model.genes) or model.network.expression is None:
        reason = "it learned from ATAC alone, so that it has no genes"
    elif not model.config.is_measured or not isinstance(model.network.expression, ExpressionHead):
        reason = f"its encoder is {model.config.encoder!r}, and only 'set' has clusters of cells"
    if reason is not None:
        msg = f"The model {model.name!r} cannot use {what}: {reason}. Pass a reference with ATAC, "
        msg += "or pretrain on paired data with the encoder 'set' (the default)."
        raise ValueError(msg)


def is_of_counts(model: EpiFoundation) -> bool:
    """Whether the model learned counts (or which genes are expressed), not values of any scale."""
    return model.config.objective != "gaussian"


def with_simulated_labels(
    model: EpiFoundation,
    memberships: np.ndarray,
    codes: np.ndarray,
    is_held: np.ndarray,
    names: Sequence[str],
    rng: np.random.Generator,
) -> EpiFoundation:
    """`model` with a head for the labels of cells of which memberships in clusters are known.

    Open peaks are simulated from the memberships, and embedded as those of new cells are, so the
    head is fitted and calibrated to embeddings with the noise of cells with ATAC.

    Parameters
    ----------
    memberships
        (n_cells, n_clusters); rows add up to 1.
    codes
        Code of the label of each cell; each of the `names` is that of a training cell.
    is_held
        Which cells are for calibration.
    """
    base = without_labels(model)
    embedding = embedding_of(base, simulate_peaks(base, memberships, rng))
    parts = (~is_held, is_held, slice(None))
    head, _ = fit_label_head(*((embedding[part], codes[part]) for part in parts))
    tensors = {f"label.{name}": tensor for name, tensor in head.state_dict().items()}
    network = base.network.with_sizes(base.network.sizes.updated(head.sizes), tensors)
    return replace(base, network=network, labels=list(names), adapter=None).to(model.device)
