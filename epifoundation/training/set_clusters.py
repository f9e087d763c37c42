"""The clusters of a set encoder: those of its training cells."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch

from ..models import EpiFoundation
from ..nn import ENCODER, ExpressionHead, MeasuredPeakHead, SetEncoder
from ..peaks.counted import WEIGHT
from .components import same_bits

LARGEST = 0.4  # mean largest membership of a cell, if the model does not know its training cells
SPREAD = 0.8  # standard deviation of the logarithm of the depth of cells


class SetClusters:
    """See :class:`.model_clusters.ModelClusters`."""

    n_others = 0
    background = None
    spread = SPREAD

    def __init__(self, model: EpiFoundation) -> None:
        self.model = model
        self.is_of_counts = model.config.objective != "gaussian"
        vectors = cast("SetEncoder", model.network.encoder).vectors
        base = np.clip(vectors.base.double().cpu().numpy(), 0, None)
        self.shares = base / base.sum()
        known = model.cells.get(ENCODER)
        numbers = [model.training.get(name, 0) for name in ("cells", "validation_cells")]
        n_cells = sum(numbers) if known is None else len(known)
        n_open = float(vectors.count.double().sum())
        self.depth = n_open / max(n_cells, float(vectors.count.max()), 1.0)

    @property
    def certainty(self) -> float:
        """Mean largest membership of the training cells."""
        cells = self.model.cells.get(ENCODER)
        if cells is None or not len(cells):
            return LARGEST
        others = cells.weights.astype(float) / WEIGHT
        first = 1 - others.sum(axis=1, keepdims=True)
        return float(np.concatenate([first, others], axis=1).max(axis=1).mean())

    def profiles(self, genes: np.ndarray) -> np.ndarray:
        """From the weights of the expression head."""
        head = cast("ExpressionHead", self.model.network.expression)
        with same_bits():
            logits = (head.linear.weight.T + head.linear.bias).double().cpu().numpy()[:, genes]
        if not self.is_of_counts:
            mean, deviation = (part.double().cpu().numpy() for part in (head.mean, head.deviation))
            return mean[genes] + deviation[genes] * logits
        if self.model.config.objective == "binary":  # the mean count of a gene that is so often 0
            rates = np.logaddexp(0, logits)
        else:
            rates = np.exp(logits - logits.max())
        return rates / rates.sum(axis=1, keepdims=True)

    @torch.inference_mode()
    def rates(self, cluster: int) -> np.ndarray:
        """From the head for held-out peaks."""
        head = cast("MeasuredPeakHead", self.model.network.peaks)
        one = torch.zeros(1, self.model.config.width, device=self.model.device)
        one[0, cluster] = 1
        return head(one)[0].double().softmax(dim=0).cpu().numpy()
