"""Batch effects projected out of the columns of an encoder."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Projection(nn.Module):
    """``z - (z A) B + c``: an oblique projection, ``B A = I``.

    The component of a cell along the columns of A is removed along the rows of B, and replaced by
    the constant c, so that the result is that of a cell in the middle of the batches.

    Parameters
    ----------
    dim
        Columns.
    n_removed
        Directions that are removed; 0 for none.

    Attributes
    ----------
    read, along
        A and B, both (n_removed, dim).
    shift
        c, (dim,).
    """

    read: Tensor
    along: Tensor
    shift: Tensor

    def __init__(self, dim: int, n_removed: int = 0) -> None:
        super().__init__()
        self.n_removed = n_removed
        if n_removed:
            self.register_buffer("read", torch.zeros(n_removed, dim))
            self.register_buffer("along", torch.zeros(n_removed, dim))
            self.register_buffer("shift", torch.zeros(dim))

    def forward(self, z: Tensor) -> Tensor:
        """Rows without batch effects, (n, dim)."""
        return z - (z @ self.read.T) @ self.along + self.shift if self.n_removed else z

    @torch.no_grad()
    def followed_by(self, read: Tensor, along: Tensor, shift: Tensor) -> dict[str, Tensor]:
        """Buffers of the composition of this projection and another one."""
        if not self.n_removed:
            return {"read": read, "along": along, "shift": shift}
        return {
            "read": torch.cat([self.read, read]),
            "along": torch.cat([self.along - (self.along @ read.T) @ along, along]),
            "shift": self.shift - (self.shift @ read.T) @ along + shift,
        }


class OutputNorm(Projection):
    """Layer normalisation, then projection: the last step of encoders with gradient descent."""

    def __init__(self, dim: int, n_removed: int = 0) -> None:
        super().__init__(dim, n_removed)
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalised rows, (n, dim)."""
        return super().forward(F.layer_norm(x, self.weight.shape, self.weight, self.bias))
