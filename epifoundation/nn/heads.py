"""Protocol of heads, and the heads of a network by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from .expression_head import ExpressionHead
from .label_head import LabelHead
from .measured_head import LinearMeasuredHead, MeasuredHead
from .peak_heads import PeakHead
from .profile_encoder import PROFILES
from .profile_heads import (
    N_POPULATION_LABELS,
    PopulationLabelHead,
    ProfileExpressionHead,
    ProfileLabelHead,
)
from .query_head import QueryHead

if TYPE_CHECKING:
    from .config import ModelConfig, Sizes


class Head(Protocol):
    """Predicts from the embedding; a :class:`torch.nn.Module` saved as its parameters and buffers.

    The first ``config.width`` columns of the embedding are from the encoder, label columns follow.
    Only the label head reads these, so that the others can be kept in fine-tuning to other labels.
    """

    def __call__(self, embedding: Tensor) -> Tensor:
        """Predictions, (n_cells, n_outputs)."""
        ...


def _peaks(config: ModelConfig, sizes: Sizes) -> Head | None:
    if config.is_measured or not config.predicts_peaks:
        return None
    return PeakHead(config.width, sizes.n_peaks, sizes.n_batches if sizes.peaks_by_batch else 0)


def _expression(config: ModelConfig, sizes: Sizes) -> Head | None:
    if not sizes.n_genes:
        return None
    if config.encoder == PROFILES:
        return ProfileExpressionHead(config.width, sizes)
    if config.decoder == "linear":
        return ExpressionHead(config.width, sizes.n_genes, sizes.n_batches, config.objective)
    return QueryHead(
        config.width,
        sizes.n_genes,
        sizes.n_batches,
        config.objective,
        n_chromosomes=sizes.n_chromosomes,
        n_bins=sizes.n_bins,
        dropout=config.dropout or 0.0,
        values=config.values,
    )


def _measured(config: ModelConfig, sizes: Sizes) -> Head | None:
    if sizes.has_measured:
        return LinearMeasuredHead(config.width, sizes.n_genes)
    if sizes.n_landmarks:
        return MeasuredHead(config.width, sizes.n_landmarks, sizes.n_genes)
    return None


def _label(config: ModelConfig, sizes: Sizes) -> Head | None:
    if not sizes.n_labels:
        return None
    if config.encoder == PROFILES and not sizes.n_label_landmarks:
        if N_POPULATION_LABELS in sizes.heads:
            return PopulationLabelHead(config.width, sizes)
        return ProfileLabelHead(config.width, sizes)
    dim = config.width + (sizes.n_labels if sizes.n_label_landmarks else 0)
    calibration = sizes.n_calibration, sizes.n_reference
    return LabelHead(dim, sizes.n_labels, sizes.n_label_layers, *calibration)


# By attribute of a network; None if there is no head for these sizes. The size of a head without a
# field in `Sizes` is `sizes.heads.get("name")`. Append only: the order fixes the weights of a seed.
HEADS: dict[str, Callable[[ModelConfig, Sizes], Head | None]] = {
    "peaks": _peaks,
    "expression": _expression,
    "measured": _measured,
    "label": _label,
}
