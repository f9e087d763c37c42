"""The encoder of an atlas: sums of fixed peak vectors of the profiles of bulk samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from .coded_vectors import CodedVectors
from .folded import Folded, FoldedSums
from .output_norm import Projection

if TYPE_CHECKING:
    from .config import ModelConfig, Sizes

PROFILES = "profiles"  # its name among the encoders


class ProfileEncoder(nn.Module):
    """Encodes a cell by the samples of an atlas in which its open peaks are open.

    The vector of a peak has its coordinates along the main components of the samples. The embedding
    is the sum over the open peaks of a cell, divided by the square root of their number, times
    `whitening`: for a cell whose peaks are drawn at random, its columns are uncorrelated and have
    variance 1.
    """

    options: ClassVar[Mapping[str, Any]] = {"dim": None}
    is_measured: ClassVar[bool] = False
    is_trained: ClassVar[bool] = False
    folded: ClassVar[type[Folded]] = FoldedSums

    whitening: Tensor

    def __init__(self, config: ModelConfig, sizes: Sizes) -> None:
        super().__init__()
        self.vectors = CodedVectors(sizes.n_peaks, config.width)
        self.register_buffer("whitening", torch.eye(config.width))
        self.projection = Projection(config.width, sizes.n_removed)

    def forward(self, ids: Tensor, offsets: Tensor, known: Tensor | None = None) -> Tensor:
        """Columns of packed tokens, (n_cells, dim); no cell was counted, so none is `known`."""
        return self.features(self.vectors(ids, offsets))

    def features(self, columns: Tensor) -> Tensor:
        """Whitened columns without batch effects, from scaled sums of peak vectors."""
        return self.projection(columns @ self.whitening)

    def embed(self, features: Tensor) -> Tensor:
        """Embedding from columns, (n_cells, dim)."""
        return features
