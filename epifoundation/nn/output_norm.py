"""The last step of an encoder: a layer normalisation, and directions of the embedding that are taken out."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class OutputNorm(nn.LayerNorm):
    """``z - (z R^T) R + c`` of ``z = LayerNorm(x)``, for orthonormal rows R (`removed`) and the constant c (`shift`) in their place.

    What lay along them in a cell is lost, so nothing that is read off the embedding depends on it; with c from the mean cell, linear heads
    say of each cell what they said of one that lies in the middle there.
    """

    removed: Tensor
    shift: Tensor

    def __init__(self, dim: int, n_removed: int = 0) -> None:
        super().__init__(dim)
        self.n_removed = n_removed
        if n_removed:
            self.register_buffer("removed", torch.zeros(n_removed, dim))
            self.register_buffer("shift", torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalised rows, (n, dim)."""
        z = super().forward(x)
        return z - (z @ self.removed.T) @ self.removed + self.shift if self.n_removed else z
