"""The set encoder: sums of peak vectors and a kernel readout, all fitted in closed form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from .folded import Folded, FoldedSums
from .kernel_readout import KernelReadout
from .output_norm import Projection
from .peak_vectors import PeakVectors

if TYPE_CHECKING:
    from .config import ModelConfig, Sizes


class SetEncoder(nn.Module):
    """Encodes a cell by the clusters of cells in which its open peaks are open.

    The columns are sums of :class:`PeakVectors` of memberships in clusters (of RNA, or of
    the latent semantic indexing of peaks without RNA). Batch effects are projected out of them, and
    a :class:`KernelReadout` turns them into the embedding: the expected memberships of the cell in
    the same clusters.
    """

    options: ClassVar[Mapping[str, Any]] = {"dim": None}
    is_measured: ClassVar[bool] = True
    is_trained: ClassVar[bool] = False
    folded: ClassVar[type[Folded]] = FoldedSums
    vectors_class: ClassVar[type[PeakVectors]] = PeakVectors

    def __init__(self, config: ModelConfig, sizes: Sizes) -> None:
        super().__init__()
        self.vectors = self.vectors_class(sizes.n_peaks, config.width)
        self.projection = Projection(config.width, sizes.n_removed)
        self.readout = KernelReadout(config.width, sizes.n_encoder_landmarks, config.width)

    def forward(self, ids: Tensor, offsets: Tensor, known: Tensor | None = None) -> Tensor:
        """Columns of packed tokens, (n_cells, dim); `known` as in :class:`PeakVectors`."""
        return self.features(self.vectors(ids, offsets, known))

    def features(self, columns: Tensor) -> Tensor:
        """Columns without batch effects, from scaled sums of peak vectors."""
        return self.projection(columns)

    def embed(self, features: Tensor) -> Tensor:
        """Embedding from columns, (n_cells, dim)."""
        return self.readout(features)


class LabelColumns(nn.Module):
    """Columns for labels, for any encoder: peak vectors of labels, and a readout of all columns."""

    def __init__(self, config: ModelConfig, sizes: Sizes) -> None:
        super().__init__()
        n_labels = sizes.n_labels
        self.vectors = PeakVectors(sizes.n_peaks, n_labels)
        self.readout = KernelReadout(config.width + n_labels, sizes.n_label_landmarks, n_labels)
