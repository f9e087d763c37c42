"""Expression heads: the likelihood of expression given the embedding, and the linear decoder."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PER_CELL = 1e4  # predicted counts are per this many counts of a cell, as in `sc.pp.normalize_total`


class Expression(nn.Module):
    """What expression heads share: the likelihood of the target, and the scale of what is predicted.

    A head gives logits (standardised means, for ``"gaussian"``) by its `forward`. The batch enters here and not in the
    encoder, so that the embedding need not carry it; prediction without one is for the mean over the training batches.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, n_genes: int, objective: str) -> None:
        super().__init__()
        self.objective = objective
        # Mean and deviation of each gene in the training cells; only `gaussian` has others than 0 and 1.
        self.register_buffer("mean", torch.zeros(n_genes))
        self.register_buffer("deviation", torch.ones(n_genes))

    def loss(
        self,
        embedding: Tensor,
        target: Tensor,
        batch: Tensor | None = None,
        *,
        genes: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Negative log-likelihood: a count, for ``"counts"``; a gene of a cell, otherwise.

        The target is counts, for ``"binary"`` 0, 1 or a share of cells between, for ``"gaussian"`` any numbers.
        `genes` (positions) says which genes the columns of `target` are, when they are not all. `weight` of each entry
        is for ``"binary"``, see :func:`balance`.
        """
        logits = self(embedding, batch)
        logits = logits if genes is None else logits[:, genes]
        if self.objective == "counts":
            return -(target * F.log_softmax(logits, dim=-1)).sum() / target.sum().clamp(min=1)
        if self.objective == "binary":
            if weight is None:
                return F.binary_cross_entropy_with_logits(logits, target)
            total = F.binary_cross_entropy_with_logits(logits, target, weight, reduction="sum")
            return total / weight.sum().clamp(min=1e-6)
        every = slice(None) if genes is None else genes
        return F.mse_loss(logits, (target - self.mean[every]) / self.deviation[every])

    def predict(
        self, embedding: Tensor, genes: Tensor | None = None, batch: Tensor | None = None
    ) -> Tensor:
        """Expression, (n_cells, n_genes) or (n_cells, len(genes)).

        ``log1p`` of counts per 10,000 for ``"counts"``, a probability for ``"binary"``, the measured scale for
        ``"gaussian"``.
        """
        return self.scaled(self(embedding, batch), genes)

    def scaled(self, logits: Tensor, genes: Tensor | None, *, link: bool = False) -> Tensor:
        """From logits of all genes to the scale that is predicted, for some; the logits are overwritten.

        With `link` to the scale on which effects add up: the logarithm of the share of counts for ``"counts"``, log odds for ``"binary"``.
        """
        if self.objective == "counts":
            # In place: this is the largest array of an inference.
            total = logits.logsumexp(dim=-1, keepdim=True)
            logits = (logits if genes is None else logits[:, genes]).sub_(total)
            return logits if link else logits.exp_().mul_(PER_CELL).log1p_()
        if self.objective == "gaussian":
            logits = self.mean + self.deviation * logits
        logits = logits if genes is None else logits[:, genes]
        return logits.sigmoid() if self.objective == "binary" and not link else logits

    def predictor(
        self, genes: Tensor | None = None, *, link: bool = False
    ) -> Callable[[Tensor, Tensor | None], Tensor]:
        """:meth:`predict` for the same genes time and again: a function of embedding and batch. `link`: see :meth:`scaled`."""
        return lambda embedding, batch: self.scaled(self(embedding, batch), genes, link=link)


class ExpressionHead(Expression):
    """Linear decoder, with one offset a gene and batch."""

    def __init__(self, dim: int, n_genes: int, n_batches: int, objective: str) -> None:
        super().__init__(n_genes, objective)
        self.linear = small_linear(dim, n_genes)
        self.batch = nn.Parameter(torch.zeros(n_batches, n_genes)) if n_batches else None

    def forward(self, embedding: Tensor, batch: Tensor | None = None) -> Tensor:
        """Logits (or standardised means, for ``"gaussian"``), (n_cells, n_genes); columns for labels are not read."""
        logits = self.linear(embedding[:, : self.linear.in_features])
        if self.batch is None:
            return logits
        return logits + of_batch(self.batch, batch)

    @torch.no_grad()
    def start_from(self, other: ExpressionHead) -> None:
        """Take over all but the batches; what is predicted for the mean batch stays what it was."""
        self.linear.load_state_dict(other.linear.state_dict())
        self.mean.copy_(other.mean)
        self.deviation.copy_(other.deviation)
        if other.batch is not None:
            self.linear.bias.add_(other.batch.mean(dim=0).to(self.linear.bias.device))


def of_batch(table: Tensor, batch: Tensor | None) -> Tensor:
    """Rows of a table of batches, (n_cells, d); their mean where the code is -1, and (1, d) without codes."""
    mean = table.mean(dim=0, keepdim=True)
    return mean if batch is None else torch.cat([table, mean])[batch]


def balance(target: Tensor, most: int, *, draw: bool) -> Tensor:
    """Weights with which as many silent as expressed genes of each cell enter a loss, (n_cells, n_genes).

    A cell has as many of either as the rarer kind has, `most` in all. With `draw` they are drawn: weights are 0 and 1
    (Wu et al. 2025). Without, weights are the probabilities to be drawn, so that a loss can be compared between epochs.
    """
    expressed = target > 0
    n_expressed = expressed.sum(dim=1, keepdim=True)
    n_silent = target.shape[1] - n_expressed
    wanted = torch.minimum(n_expressed, n_silent).clamp(max=most // 2)
    if not draw:
        return torch.where(
            expressed, wanted / n_expressed.clamp(min=1), wanted / n_silent.clamp(min=1)
        )
    # The `wanted` smallest of random numbers in either kind: sort all, expressed genes first.
    order = (torch.rand_like(target) + (~expressed)).argsort(dim=1)
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(target.shape[1], device=target.device).expand_as(order)
    )
    return torch.where(expressed, rank < wanted, rank - n_expressed < wanted).to(target.dtype)


def small_linear(dim: int, n: int) -> nn.Linear:
    """A linear layer with small weights and no bias."""
    linear = nn.Linear(dim, n)
    nn.init.normal_(linear.weight, std=0.02)
    nn.init.zeros_(linear.bias)
    return linear
