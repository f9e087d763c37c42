"""The clusters of a set encoder: labels are fitted to cells that are simulated from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch

from ..models import EpiFoundation
from ..nn import ENCODER, ExpressionHead, MeasuredPeakHead, SetEncoder
from ..peaks.counted import WEIGHT
from .components import same_bits
from .features import embedding_of
from .label_head import fit_label_head
from .labels import without_labels
from .simulated_cells import simulate_peaks

LARGEST = 0.4  # mean largest membership of a cell, if the model does not know its training cells
SPREAD = 0.8  # standard deviation of the logarithm of the depth of cells


class SetClusters:
    """See :class:`.model_clusters.ModelClusters`."""

    def __init__(self, model: EpiFoundation) -> None:
        self.model = model
        self.is_of_counts = model.config.objective != "gaussian"
        base = cast("SetEncoder", model.network.encoder).vectors.base.double().cpu().numpy()
        self.shares = np.clip(base, 0, None) / np.clip(base, 0, None).sum()

    @property
    def certainty(self) -> float:
        """Mean largest membership of the training cells."""
        cells = self.model.cells.get(ENCODER)
        if cells is None or not len(cells):
            return LARGEST
        others = cells.weights.astype(float) / WEIGHT
        first = 1 - others.sum(axis=1, keepdims=True)
        return float(np.concatenate([first, others], axis=1).max(axis=1).mean())

    @property
    def depth(self) -> float:
        """Mean number of open peaks of the training cells."""
        count = cast("SetEncoder", self.model.network.encoder).vectors.count
        known = self.model.cells.get(ENCODER)
        numbers = [self.model.training.get(name, 0) for name in ("cells", "validation_cells")]
        n_cells = sum(numbers) if known is None else len(known)
        return float(count.double().sum() / max(n_cells, float(count.max()), 1.0))

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
        """How often each peak is open in a cluster: from the head for held-out peaks."""
        head = cast("MeasuredPeakHead", self.model.network.peaks)
        one = torch.zeros(1, self.model.config.width, device=self.model.device)
        one[0, cluster] = 1
        return head(one)[0].double().softmax(dim=0).cpu().numpy()

    def with_labels(
        self,
        memberships: np.ndarray,
        codes: np.ndarray,
        is_held: np.ndarray,
        names: Sequence[str],
        rng: np.random.Generator,
    ) -> EpiFoundation:
        """The model with a head that is fitted to simulated cells.

        Open peaks are simulated from the memberships, and embedded as those of new cells are, so
        the head is fitted and calibrated to embeddings with the noise of cells with ATAC.
        """
        base = without_labels(self.model)
        pattern = simulate_peaks(self.rates, memberships, rng, self.depth, SPREAD)
        embedding = embedding_of(base, pattern)
        parts = (~is_held, is_held, slice(None))
        head, _ = fit_label_head(*((embedding[part], codes[part]) for part in parts))
        tensors = {f"label.{name}": tensor for name, tensor in head.state_dict().items()}
        network = base.network.with_sizes(base.network.sizes.updated(head.sizes), tensors)
        return replace(base, network=network, labels=list(names), adapter=None).to(base.device)
