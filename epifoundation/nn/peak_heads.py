"""Heads that predict which peaks are open: a trained one, and one computed from peak vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .expression_head import of_batch, small_linear
from .peak_vectors import PeakVectors

MIN_RATIO = 0.02  # of the rate of a peak in a cell to its rate in all cells


class PeakHead(nn.Module):
    """Multinomial over all peaks: which of them were held out."""

    def __init__(self, dim: int, n_peaks: int, n_batches: int = 0) -> None:
        super().__init__()
        self.linear = small_linear(dim, n_peaks)
        # Of the embedding, not of the logits: a row per batch as wide as the embedding
        self.batch = nn.Parameter(torch.zeros(n_batches, dim)) if n_batches else None

    def forward(self, embedding: Tensor, batch: Tensor | None = None) -> Tensor:
        """Logits, (n_cells, n_peaks); without a batch, for the mean batch."""
        embedding = embedding[:, : self.linear.in_features]
        if self.batch is not None:
            embedding = embedding + of_batch(self.batch, batch)
        return self.linear(embedding)

    def loss(
        self, embedding: Tensor, ids: Tensor, cells: Tensor, batch: Tensor | None = None
    ) -> Tensor:
        """Mean negative log-likelihood of held-out peaks `ids` of `cells` (rows of `embedding`)."""
        if not len(ids):
            return embedding.sum() * 0
        logits = self(embedding, batch)
        return (logits.logsumexp(dim=-1)[cells] - logits[cells, ids]).mean()

    @torch.no_grad()
    def start_from(self, other: PeakHead) -> None:
        """Copy all but the batches; predictions for the mean batch do not change."""
        self.linear.load_state_dict(other.linear.state_dict())
        if other.batch is not None:
            shift = other.linear.weight @ other.batch.mean(dim=0)
            self.linear.bias.add_(shift.to(self.linear.bias.device))


class MeasuredPeakHead(nn.Module):
    r"""Which peaks are open in a cell, from its expected memberships in clusters and peak vectors.

    The rate of peak :math:`p` in cluster :math:`k`, over its rate in all cells, is
    :math:`P(k \mid p) / P(k) = 1 + x_{pk} / \mu_k`; a cell with expected memberships :math:`m`
    mixes the clusters. The head has no weights.

    Parameters
    ----------
    vectors
        Peak vectors of memberships, whose columns are those of the embedding.
    """

    def __init__(self, vectors: PeakVectors) -> None:
        super().__init__()
        self._vectors = [vectors]  # in a list, so that they are not registered twice

    def forward(self, embedding: Tensor) -> Tensor:
        """Logits, (n_cells, n_peaks)."""
        vectors = self._vectors[0]
        scaled = embedding[:, : len(vectors.base)] / vectors.base.clamp(min=1e-6)
        change = scaled @ vectors.weight.T
        return change.add_(1).clamp_(min=MIN_RATIO).log_().add_((vectors.count + 1).log())
