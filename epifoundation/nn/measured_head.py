"""Expression on the measured scale: the mean of ``log1p`` of counts per 10,000."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class LinearMeasuredHead(nn.Module):
    """The mean of each cluster, weighted by the expected memberships of a cell; at least 0.

    A decoder of counts gives the logarithm of a mean. In cells of few counts, this differs from the
    mean of the logarithm.
    """

    weight: Tensor

    def __init__(self, dim: int, n_genes: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(dim, n_genes))

    def forward(self, embedding: Tensor, genes: Tensor | None = None) -> Tensor:
        """Expression, (n_cells, n_genes) or (n_cells, len(genes))."""
        return self.predictor(genes)(embedding, None)

    def predictor(self, genes: Tensor | None = None) -> Callable[[Tensor, Tensor | None], Tensor]:
        """A function of embedding and batch that predicts the same genes; batches are ignored."""
        weight = self.weight if genes is None else self.weight[:, genes]
        return lambda embedding, _: (embedding[:, : len(weight)] @ weight).clamp_(min=0)


class MeasuredHead(nn.Module):
    """A kernel ridge regression: ``base + exp(-|z - landmark|^2 / width) @ weight``, at least 0.

    Far from all landmarks it predicts `base`, the mean of the training cells.
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
        """Kernel between cells and landmarks, (n_cells, n_landmarks)."""
        distances = torch.cdist(embedding[:, : self.landmarks.shape[1]], self.landmarks)
        return torch.exp(-distances.square() / self.width)

    def forward(self, embedding: Tensor, genes: Tensor | None = None) -> Tensor:
        """Expression, (n_cells, n_genes) or (n_cells, len(genes))."""
        return self.predictor(genes)(embedding, None)

    def predictor(self, genes: Tensor | None = None) -> Callable[[Tensor, Tensor | None], Tensor]:
        """A function of embedding and batch that predicts the same genes; batches are ignored."""
        weight, base = self.weight, self.base
        if genes is not None:
            weight, base = weight[:, genes], base[genes]
        return lambda embedding, _: (base + self.features(embedding) @ weight).clamp_(min=0)
