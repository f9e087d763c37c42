"""The last step of an encoder: a layer normalisation, and what is taken out of the embedding after it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class OutputNorm(nn.LayerNorm):
    """``z - (z A) B + c`` of ``z = LayerNorm(x)``: an oblique projection, ``B A = I``.

    What a cell reads along the columns of A is taken out along the rows of B, and the constant c put in its place. A and B are kept as
    `read` and `along`, both (n_removed, dim); c, (dim,), is `shift`. Linear heads say of each cell what they said of one that reads as the
    middle does.
    """

    read: Tensor
    along: Tensor
    shift: Tensor

    def __init__(self, dim: int, n_removed: int = 0) -> None:
        super().__init__(dim)
        self.n_removed = n_removed
        if n_removed:
            self.register_buffer("read", torch.zeros(n_removed, dim))
            self.register_buffer("along", torch.zeros(n_removed, dim))
            self.register_buffer("shift", torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalised rows, (n, dim)."""
        z = super().forward(x)
        return z - (z @ self.read.T) @ self.along + self.shift if self.n_removed else z

    @torch.no_grad()
    def followed_by(self, read: Tensor, along: Tensor, shift: Tensor) -> dict[str, Tensor]:
        """Buffers of one projection that does what this one does and then another."""
        if not self.n_removed:
            return {"read": read, "along": along, "shift": shift}
        return {
            "read": torch.cat([self.read, read]),
            "along": torch.cat([self.along - (self.along @ read.T) @ along, along]),
            "shift": self.shift - (self.shift @ read.T) @ along + shift,
        }
