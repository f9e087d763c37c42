"""The label head: calibrated probabilities, conformal scores and novelty."""

from __future__ import annotations

import torch
from torch import Tensor, nn

N_NEAREST = 15  # reference cells that a distance is the mean of
# Deviations by which energy may exceed distance: a cell among reference cells is not novel
CREDIT = 2.0
# Deviations that a distance counts less: energy separates near outliers better, distance far ones
ALLOWANCE = 1.0


class LabelHead(nn.Module):
    """Linear softmax with a temperature that is fitted on held-out cells (Guo et al. 2017).

    The paper's has hidden layers (Linear, ReLU, LayerNorm) before it. With `n_calibration`
    validation cells and `n_reference` training cells, it also gives conformal sets and novelty.
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
            # Conformal scores and novelty of validation cells, both ascending
            self.register_buffer("conformal", torch.zeros(n_calibration))
            self.register_buffer("novelty", torch.zeros(n_calibration))
            # Embedding of training cells, scaled
            self.register_buffer("reference", torch.zeros(n_reference, dim))
            self.register_buffer("scaling", torch.ones(dim))
            # Mean and standard deviation of energy and distance of validation cells
            self.register_buffer("moments", torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
        self.sizes = {
            "n_labels": n_labels,
            "n_label_layers": n_layers,
            "n_calibration": n_calibration,
            "n_reference": n_reference,
        }
        self.is_calibrated = bool(n_calibration)

    def forward(self, embedding: Tensor) -> Tensor:
        """Calibrated probabilities, (n_cells, n_labels)."""
        return (self.logits(embedding) / self.temperature).softmax(dim=-1)

    def logits(self, embedding: Tensor) -> Tensor:
        """Before the temperature, (n_cells, n_labels)."""
        return self.linear(self.hidden(embedding))

    def ood_scores(self, embedding: Tensor) -> Tensor:
        """Energy (Liu et al. 2020), mean distance to nearest reference cells, (n_cells, 2)."""
        energy = -self.logits(embedding).logsumexp(dim=-1)
        distances = torch.cdist(embedding * self.scaling, self.reference)
        nearest = distances.topk(min(N_NEAREST, len(self.reference)), largest=False).values
        return torch.stack([energy, nearest.mean(dim=-1)], dim=-1)

    def score_novelty(self, embedding: Tensor) -> Tensor:
        """Dissimilarity to reference cells, (n_cells,); about 0 on average in validation cells."""
        scores = (self.ood_scores(embedding) - self.moments[0]) / self.moments[1]
        energy, distance = scores.unbind(dim=1)
        return torch.maximum(torch.minimum(energy, distance + CREDIT), distance - ALLOWANCE)


def conformal_scores(probabilities: Tensor) -> Tensor:
    """Probability of all likelier labels plus half of that of each label, (n_cells, n_labels).

    The adaptive score of Romano et al. 2020, with its random number replaced by the mean, so that
    the set of a cell is always the same.
    """
    ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
    return torch.empty_like(ordered).scatter_(-1, order, ordered.cumsum(dim=-1) - ordered / 2)
