"""A network that tells batches from embeddings, and against which an encoder learns."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

WIDTH = 64


class Adversary(nn.Module):
    """Tells batches from embeddings, and turns the gradient around for what made them (Ganin et al. 2016)."""

    def __init__(self, dim: int, n_batches: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(dim, WIDTH), nn.ReLU(), nn.Linear(WIDTH, n_batches))

    def forward(self, embedding: Tensor) -> Tensor:
        return self.layers(_Reversal.apply(embedding))


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        return -gradients[0]
