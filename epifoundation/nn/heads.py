"""What is read off a cell embedding: expression, held-out peaks, label."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .peak_vectors import PeakVectors

PER_CELL = 1e4  # predicted counts are given per this many counts of a cell, as scanpy's normalize_total is used
MIN_RATIO = 0.02  # of the rate of a peak in a cell to that in all cells
N_NEAREST = 15  # reference cells that a distance is the mean of
CREDIT = 2.0  # deviations by which energy may exceed distance: what lies amid reference cells is no stranger
ALLOWANCE = 1.0  # deviations that a distance is worth less: energy tells near strangers better, distance those far away


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
        self.linear = _small_linear(dim, n_genes)
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


class PeakHead(nn.Module):
    """Multinomial over all peaks: which of them were held out of this cell."""

    def __init__(self, dim: int, n_peaks: int, n_batches: int = 0) -> None:
        super().__init__()
        self.linear = _small_linear(dim, n_peaks)
        # A batch shifts the embedding that is read: as many numbers a batch as the embedding has, not as there are peaks
        self.batch = nn.Parameter(torch.zeros(n_batches, dim)) if n_batches else None

    def forward(self, embedding: Tensor, batch: Tensor | None = None) -> Tensor:
        """Logits, (n_cells, n_peaks); without a batch, for the mean of them. Columns for labels are not read."""
        embedding = embedding[:, : self.linear.in_features]
        if self.batch is not None:
            embedding = embedding + of_batch(self.batch, batch)
        return self.linear(embedding)

    def loss(
        self, embedding: Tensor, ids: Tensor, cells: Tensor, batch: Tensor | None = None
    ) -> Tensor:
        """Negative log-likelihood a held-out peak; `ids` and `cells` (row of `embedding`) are (n_held_out,)."""
        if not len(ids):
            return embedding.sum() * 0
        logits = self(embedding, batch)
        return (logits.logsumexp(dim=-1)[cells] - logits[cells, ids]).mean()

    @torch.no_grad()
    def start_from(self, other: PeakHead) -> None:
        """Take over all but the batches; what is predicted for the mean batch stays what it was."""
        self.linear.load_state_dict(other.linear.state_dict())
        if other.batch is not None:
            shift = other.linear.weight @ other.batch.mean(dim=0)
            self.linear.bias.add_(shift.to(self.linear.bias.device))


class MeasuredPeakHead(nn.Module):
    r"""Which peaks are open in a cell, from its expected memberships in clusters, by the vectors of the peaks themselves.

    The rate of peak :math:`p` in cluster :math:`k`, over its rate in all cells, is
    :math:`P(k \mid p) / P(k) = 1 + x_{pk} / \mu_k`; a cell with expected memberships :math:`m` mixes the clusters.
    It has no weights of its own.

    Parameters
    ----------
    vectors
        Peak vectors of memberships, whose columns are those of the embedding.
    """

    def __init__(self, vectors: PeakVectors) -> None:
        super().__init__()
        self._vectors = [vectors]  # in a list, so that it is not a part of this module, too

    def forward(self, embedding: Tensor) -> Tensor:
        """Logits, (n_cells, n_peaks)."""
        vectors = self._vectors[0]
        change = (
            embedding[:, : len(vectors.base)] / vectors.base.clamp(min=1e-6)
        ) @ vectors.weight.T
        return change.add_(1).clamp_(min=MIN_RATIO).log_().add_((vectors.count + 1).log())


class LabelHead(nn.Module):
    """Linear softmax with a temperature that is fitted on held-out cells (Guo et al. 2017).

    The paper's has hidden layers (Linear, ReLU, LayerNorm) before it. With `n_calibration` held-out cells and `n_reference` others it
    also knows how far to trust itself: which labels it cannot exclude, and which cells are like none that it learned from.
    """

    temperature: Tensor
    conformal: Tensor
    novelty: Tensor
    reference: Tensor
    scaling: Tensor
    moments: Tensor

    def __init__(
        self,
        dim: int,
        n_labels: int,
        n_layers: int = 0,
        n_calibration: int = 0,
        n_reference: int = 0,
    ) -> None:
        super().__init__()
        layers = [
            layer
            for _ in range(n_layers)
            for layer in (nn.Linear(dim, dim), nn.ReLU(), nn.LayerNorm(dim))
        ]
        self.hidden = nn.Sequential(*layers)
        self.linear = nn.Linear(dim, n_labels)
        self.register_buffer("temperature", torch.ones(()))
        if n_calibration:
            self.register_buffer(
                "conformal", torch.zeros(n_calibration)
            )  # scores of held-out cells, ascending
            self.register_buffer("novelty", torch.zeros(n_calibration))  # theirs, ascending
            self.register_buffer(
                "reference", torch.zeros(n_reference, dim)
            )  # cells that were learned from, scaled
            self.register_buffer("scaling", torch.ones(dim))
            # Mean and deviation of energy and distance, of held-out cells
            self.register_buffer("moments", torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
        self.is_calibrated = bool(n_calibration)

    def forward(self, embedding: Tensor) -> Tensor:
        """Calibrated probabilities, (n_cells, n_labels)."""
        return (self.logits(embedding) / self.temperature).softmax(dim=-1)

    def logits(self, embedding: Tensor) -> Tensor:
        """Before the temperature, (n_cells, n_labels)."""
        return self.linear(self.hidden(embedding))

    def strangeness(self, embedding: Tensor) -> Tensor:
        """Energy of the logits (Liu et al. 2020) and mean distance to the nearest reference cells, (n_cells, 2)."""
        energy = -self.logits(embedding).logsumexp(dim=-1)
        nearest = min(N_NEAREST, len(self.reference))
        distance = (
            torch.cdist(embedding * self.scaling, self.reference)
            .topk(nearest, largest=False)
            .values.mean(dim=-1)
        )
        return torch.stack([energy, distance], dim=-1)

    def score_novelty(self, embedding: Tensor) -> Tensor:
        """How unlike the reference cells are, (n_cells,): 0 is the mean of held-out reference cells."""
        energy, distance = (
            (self.strangeness(embedding) - self.moments[0]) / self.moments[1]
        ).unbind(dim=1)
        return torch.maximum(torch.minimum(energy, distance + CREDIT), distance - ALLOWANCE)


def of_batch(table: Tensor, batch: Tensor | None) -> Tensor:
    """Rows of a table of batches, (n_cells, d); their mean where the code is -1, and (1, d) without codes."""
    mean = table.mean(dim=0, keepdim=True)
    return mean if batch is None else torch.cat([table, mean])[batch]


def conformal_scores(probabilities: Tensor) -> Tensor:
    """How late each label comes: the probability of all likelier ones and half of its own, (n_cells, n_labels).

    The adaptive score of Romano et al. 2020 with its random number at the mean, so that a cell gets the same set each time.
    """
    ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
    return torch.empty_like(ordered).scatter_(-1, order, ordered.cumsum(dim=-1) - ordered / 2)


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


def _small_linear(dim: int, n: int) -> nn.Linear:
    linear = nn.Linear(dim, n)
    nn.init.normal_(linear.weight, std=0.02)
    nn.init.zeros_(linear.bias)
    return linear
