"""What is read off a cell embedding: expression, held-out peaks, label."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PER_CELL = 1e4  # predicted counts are given per this many counts of a cell, as scanpy's normalize_total is used


class ExpressionHead(nn.Module):
    """Linear decoder of gene expression with a likelihood that fits the target.

    The batch enters here, as one offset a gene and batch, and not in the encoder: so the embedding need not
    carry it. Prediction uses the mean over the training batches.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, dim: int, n_genes: int, n_batches: int, objective: str) -> None:
        super().__init__()
        self.objective = objective
        self.linear = _small_linear(dim, n_genes)
        # Mean and deviation of each gene in the training cells; only `gaussian` has others than 0 and 1.
        self.register_buffer("mean", torch.zeros(n_genes))
        self.register_buffer("deviation", torch.ones(n_genes))
        self.batch = nn.Parameter(torch.zeros(n_batches, n_genes)) if n_batches else None

    def forward(self, embedding: Tensor, batch: Tensor | None = None) -> Tensor:
        """Logits (or standardised means, for ``"gaussian"``), (n_cells, n_genes)."""
        logits = self.linear(embedding)
        if self.batch is None:
            return logits
        return logits + (self.batch.mean(dim=0) if batch is None else self.batch[batch])

    def loss(
        self, embedding: Tensor, target: Tensor, batch: Tensor | None = None, *, genes: Tensor | None = None
    ) -> Tensor:
        """Negative log-likelihood: a count, for ``"counts"``; a gene of a cell, otherwise.

        The target is counts, for ``"binary"`` 0, 1 or a share of cells between, for ``"gaussian"`` any numbers.
        `genes` (positions) says which genes the columns of `target` are, when they are not all.
        """
        logits = self(embedding, batch)
        logits = logits if genes is None else logits[:, genes]
        if self.objective == "counts":
            return -(target * F.log_softmax(logits, dim=-1)).sum() / target.sum().clamp(min=1)
        if self.objective == "binary":
            return F.binary_cross_entropy_with_logits(logits, target)
        every = slice(None) if genes is None else genes
        return F.mse_loss(logits, (target - self.mean[every]) / self.deviation[every])

    def predict(self, embedding: Tensor, genes: Tensor | None = None) -> Tensor:
        """Expression, (n_cells, n_genes) or (n_cells, len(genes)).

        ``log1p`` of counts per 10,000 for ``"counts"``, a probability for ``"binary"``, the measured scale for
        ``"gaussian"``.
        """
        logits = self(embedding)
        if self.objective == "counts":
            # In place: this is the largest array of an inference.
            total = logits.logsumexp(dim=-1, keepdim=True)
            logits = logits if genes is None else logits[:, genes]
            return logits.sub_(total).exp_().mul_(PER_CELL).log1p_()
        if self.objective == "gaussian":
            logits = self.mean + self.deviation * logits
        logits = logits if genes is None else logits[:, genes]
        return logits.sigmoid() if self.objective == "binary" else logits


class PeakHead(nn.Module):
    """Multinomial over all peaks: which of them were held out of this cell."""

    def __init__(self, dim: int, n_peaks: int) -> None:
        super().__init__()
        self.linear = _small_linear(dim, n_peaks)

    def forward(self, embedding: Tensor) -> Tensor:
        """Logits, (n_cells, n_peaks)."""
        return self.linear(embedding)

    def loss(self, embedding: Tensor, ids: Tensor, cells: Tensor) -> Tensor:
        """Negative log-likelihood a held-out peak; `ids` and `cells` (row of `embedding`) are (n_held_out,)."""
        if not len(ids):
            return embedding.sum() * 0
        logits = self(embedding)
        return (logits.logsumexp(dim=-1)[cells] - logits[cells, ids]).mean()


class LabelHead(nn.Module):
    """Linear softmax with a temperature that is fitted on held-out cells (Guo et al. 2017)."""

    temperature: Tensor

    def __init__(self, dim: int, n_labels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, n_labels)
        self.register_buffer("temperature", torch.ones(()))

    def forward(self, embedding: Tensor) -> Tensor:
        """Calibrated probabilities, (n_cells, n_labels)."""
        return (self.linear(embedding) / self.temperature).softmax(dim=-1)


def _small_linear(dim: int, n: int) -> nn.Linear:
    linear = nn.Linear(dim, n)
    nn.init.normal_(linear.weight, std=0.02)
    nn.init.zeros_(linear.bias)
    return linear
