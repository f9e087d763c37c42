"""Expression heads. Transformers use their loss; `training/expression.py` fits set encoders."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PER_CELL = 1e4  # predicted counts are per this many counts of a cell, as in `sc.pp.normalize_total`


class Expression(nn.Module):
    """Base class of expression heads: likelihood of the target, and scale of predictions.

    `forward` returns logits (standardised means for ``"gaussian"``). Batches are inputs of the head
    and not of the encoder, so that the embedding need not encode them; without a batch, predictions
    are for the mean over training batches.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, n_genes: int, objective: str) -> None:
        super().__init__()
        self.objective = objective
        # Mean and standard deviation of each gene in training cells; 0 and 1, except in `gaussian`
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
        """Negative log-likelihood, per count for ``"counts"``, else per gene and cell.

        The target is counts; for ``"binary"`` 0, 1 or a fraction of cells; for ``"gaussian"`` any
        numbers. `genes` are the positions of the columns of `target`, if these are not all genes.
        `weight` of each entry is for ``"binary"``, see :func:`balance`.
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

        ``log1p`` of counts per 10,000 for ``"counts"``, a probability for ``"binary"``, the
        measured scale for ``"gaussian"``.
        """
        return self.scaled(self(embedding, batch), genes)

    def scaled(self, logits: Tensor, genes: Tensor | None, *, link: bool = False) -> Tensor:
        """Predictions of some genes from logits of all genes, which are overwritten.

        With `link`, on the scale on which effects are additive: the logarithm of the fraction of
        counts for ``"counts"``, log odds for ``"binary"``.
        """
        if self.objective == "counts":
            # In place: this is the largest array of inference
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
        """A function of embedding and batch that predicts the same genes; see :meth:`scaled`."""
        return lambda embedding, batch: self.scaled(self(embedding, batch), genes, link=link)


class ExpressionHead(Expression):
    """Linear decoder, with an offset for each gene and batch."""

    def __init__(self, dim: int, n_genes: int, n_batches: int, objective: str) -> None:
        super().__init__(n_genes, objective)
        self.linear = small_linear(dim, n_genes)
        self.batch = nn.Parameter(torch.zeros(n_batches, n_genes)) if n_batches else None

    def forward(self, embedding: Tensor, batch: Tensor | None = None) -> Tensor:
        """Logits (standardised means for ``"gaussian"``), (n_cells, n_genes)."""
        logits = self.linear(embedding[:, : self.linear.in_features])
        if self.batch is None:
            return logits
        return logits + of_batch(self.batch, batch)

    @torch.no_grad()
    def start_from(self, other: ExpressionHead) -> None:
        """Copy all but the batches; predictions for the mean batch do not change."""
        self.linear.load_state_dict(other.linear.state_dict())
        self.mean.copy_(other.mean)
        self.deviation.copy_(other.deviation)
        if other.batch is not None:
            self.linear.bias.add_(other.batch.mean(dim=0).to(self.linear.bias.device))


def of_batch(table: Tensor, batch: Tensor | None) -> Tensor:
    """Rows of a table of batches, (n_cells, d); their mean for a code of -1, and without codes."""
    mean = table.mean(dim=0, keepdim=True)
    return mean if batch is None else torch.cat([table, mean])[batch]


def balance(target: Tensor, max_genes: int, *, draw: bool) -> Tensor:
    """Weights by which expressed and silent genes of each cell balance in a loss.

    Of each kind a cell has as many genes as of the rarer one, at most `max_genes` in all. With
    `draw` they are sampled, with weights of 0 and 1 (Wu et al. 2025). Without, weights are the
    sampling probabilities, so that losses can be compared between epochs. (n_cells, n_genes)
    """
    expressed = target > 0
    n_expressed = expressed.sum(dim=1, keepdim=True)
    n_silent = target.shape[1] - n_expressed
    wanted = torch.minimum(n_expressed, n_silent).clamp(max=max_genes // 2)
    if not draw:
        rate, silent_rate = (wanted / n.clamp(min=1) for n in (n_expressed, n_silent))
        return torch.where(expressed, rate, silent_rate)
    # The `wanted` smallest random numbers of each kind: sort all, expressed genes first
    order = (torch.rand_like(target) + (~expressed)).argsort(dim=1)
    places = torch.arange(target.shape[1], device=target.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, places)
    return torch.where(expressed, rank < wanted, rank - n_expressed < wanted).to(target.dtype)


def small_linear(dim: int, n: int) -> nn.Linear:
    """A linear layer with small weights and no bias."""
    linear = nn.Linear(dim, n)
    nn.init.normal_(linear.weight, std=0.02)
    nn.init.zeros_(linear.bias)
    return linear
