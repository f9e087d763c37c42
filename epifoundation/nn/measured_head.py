"""Expression as shallow cells show it: the mean of ``log1p`` of counts per 10,000."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class LinearMeasuredHead(nn.Module):
    """The mean of each cluster, weighed by the expected memberships of a cell; at least 0.

    A decoder of counts gives the logarithm of a mean. In cells of few counts the mean of the logarithm is another number.
    """

    weight: Tensor

    def __init__(self, dim: int, n_genes: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(dim, n_genes))

    def forward(self, embedding: Tensor, genes: Tensor | None = None) -> Tensor:
        """Expression, (n_cells, n_genes) or (n_cells, len(genes))."""
        return self.predictor(genes)(embedding, None)

    def predictor(self, genes: Tensor | None = None) -> Callable[[Tensor, Tensor | None], Tensor]:
        """For the same genes time and again: a function of embedding and batch; batches make no difference."""
        weight = self.weight if genes is None else self.weight[:, genes]
        return lambda embedding, _: (embedding[:, : len(weight)] @ weight).clamp_(min=0)


class MeasuredHead(nn.Module):
    """The head of models of format 1, by kernel ridge regression.

    Mean of ``log1p`` of counts per 10,000: ``base + exp(-|z - landmark|^2 / width) @ weight``, at least 0.

    Far from all landmarks it says `base`, the mean of the training cells.
    """

    landmarks: Tensor
    width: Tensor
    weight: Tensor
    base: Tensor

    def __init__(self, dim: int, n_landmarks: int, n_genes: int) -> None:
        super().__init__()
        self.register_buffer("landmarks", torch.zeros(n_landmarks, dim))
        self.register_buffer("width", torch.ones(()))
        self.register_buffer("weight", torch.zeros(n_landmarks, n_genes))
        self.register_buffer("base", torch.zeros(n_genes))

    def features(self, embedding: Tensor) -> Tensor:
        """Likeness of cells to the landmarks, (n_cells, n_landmarks)."""
        return torch.exp(
            -torch.cdist(embedding[:, : self.landmarks.shape[1]], self.landmarks).square()
            / self.width
        )

    def forward(self, embedding: Tensor, genes: Tensor | None = None) -> Tensor:
        """Expression, (n_cells, n_genes) or (n_cells, len(genes))."""
        return self.predictor(genes)(embedding, None)

    def predictor(self, genes: Tensor | None = None) -> Callable[[Tensor, Tensor | None], Tensor]:
        """For the same genes time and again: a function of embedding and batch, of which it knows nothing."""
        weight, base = (
            (self.weight, self.base) if genes is None else (self.weight[:, genes], self.base[genes])
        )
        return lambda embedding, _: (base + self.features(embedding) @ weight).clamp_(min=0)
