"""The set encoder of format 1, trained by gradient descent; models are read, but not trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from .folded import Folded, FoldedSums
from .output_norm import OutputNorm
from .packed import add_up
from .peak_vectors import PeakVectors

if TYPE_CHECKING:
    from .config import ModelConfig, Sizes

STD = 0.02  # unit of the stored vectors


class PeakTable(nn.Embedding):
    """Peak vectors trained by gradient descent; training cells cannot be left out of them."""

    divisor = staticmethod(PeakVectors.divisor)

    def sums(self, ids: Tensor, offsets: Tensor) -> Tensor:
        """Sums of the vectors of packed tokens, (n_cells, dim)."""
        return add_up(self.weight, ids, offsets)


class TrainedSetEncoder(nn.Module):
    """A sum of peak vectors, over the square root of their number, and residual layers.

    The encoder of models saved in format 1 (``encoder="set-1"`` in their configuration).
    """

    options: ClassVar[Mapping[str, Any]] = {
        "dim": 128,
        "n_heads": 0,
        "n_layers": 2,
        "dropout": 0.1,
        "feedforward": None,
        "max_peaks": None,
        "decoder": "linear",
    }
    is_measured: ClassVar[bool] = False
    is_trained: ClassVar[bool] = False
    folded: ClassVar[type[Folded]] = FoldedSums

    def __init__(self, config: ModelConfig, sizes: Sizes) -> None:
        super().__init__()
        dim = config.width
        self.peak = PeakTable(sizes.n_peaks, dim)
        # Fraction of training cells with each peak: not used, but part of the files
        self.register_buffer("share", torch.zeros(sizes.n_peaks))
        self.output = nn.Linear(dim, dim)
        self.seed = nn.Parameter(torch.zeros(1, dim))
        self.mix = nn.Sequential(*(ResidualMLP(dim) for _ in range(config.n_layers or 0)))
        self.norm = OutputNorm(dim, sizes.n_removed)

    @property
    def vectors(self) -> PeakTable:
        """The peak vectors."""
        return self.peak

    def forward(self, ids: Tensor, offsets: Tensor, known: Tensor | None = None) -> Tensor:
        """Embedding of packed tokens, (n_cells, dim); NaN for a cell without open peaks."""
        return self.features(
            self.peak.sums(ids, offsets) / self.peak.divisor(offsets.diff())[:, None]
        )

    def features(self, columns: Tensor) -> Tensor:
        """Embedding from scaled sums of peak vectors."""
        return self.norm(self.mix(self.seed + self.output(columns / STD)))

    def embed(self, features: Tensor) -> Tensor:
        """The embedding is the output of the encoder."""
        return features


class ResidualMLP(nn.Module):
    """``x + MLP(LayerNorm(x))``."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(dim),
            nn.Linear(dim, 2 * dim),
            nn.GELU(),
            nn.Identity(),
            nn.Linear(2 * dim, dim),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Rows of the same shape."""
        return x + self.layers(x)
