"""The set encoder of format 1, which was trained by gradient: it is read, and no longer made."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .config import ModelConfig
from .output_norm import OutputNorm
from .packed import add_up

STD = 0.02  # unit of the stored vectors


class TrainedSetEncoder(nn.Module):
    """A sum of vectors over open peaks, over the root of their number, and residual layers.

    Models saved in format 1 have it (``encoder="set-1"`` in their configuration once they are read). Cells that such a
    model learned from cannot be left out of it.
    """

    def __init__(self, config: ModelConfig, n_peaks: int, n_removed: int = 0) -> None:
        super().__init__()
        dim = config.width
        self.peak = nn.Embedding(n_peaks, dim)
        self.register_buffer(
            "share", torch.zeros(n_peaks)
        )  # of training; kept so that files stay what they were
        self.output = nn.Linear(dim, dim)
        self.seed = nn.Parameter(torch.zeros(1, dim))
        self.mix = nn.Sequential(*(ResidualMLP(dim) for _ in range(config.n_layers or 0)))
        self.norm = OutputNorm(dim, n_removed)

    def forward(self, ids: Tensor, offsets: Tensor, known: Tensor | None = None) -> Tensor:
        """Cell embeddings of packed tokens, (n_cells, dim); NaN for a cell without open peaks. `known` is not used."""
        return self.features(self.sums(ids, offsets) / offsets.diff().sqrt()[:, None])

    def sums(self, ids: Tensor, offsets: Tensor, known: Tensor | None = None) -> Tensor:
        """Sums of peak vectors, (n_cells, dim)."""
        return add_up(self.peak.weight, ids, offsets)

    def features(self, columns: Tensor) -> Tensor:
        """From sums over the root of the number of peaks to the embedding."""
        return self.norm(self.mix(self.seed + self.output(columns / STD)))

    def embed(self, features: Tensor) -> Tensor:
        """The embedding is what the encoder gives."""
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
