"""The clusters of an atlas: its sorted populations with RNA, and its other cell types."""

from __future__ import annotations

from functools import cached_property
from typing import cast

import numpy as np
import torch

from ..models import EpiFoundation
from ..nn import ProfileEncoder, ProfileExpressionHead
from .components import PER_CELL

DEPTH, SPREAD = 1_000.0, 1.15  # of simulated cells: 95 % have between 50 and 5,000 open elements
CERTAINTY = 0.8  # mean largest membership of a cell with RNA
CLOSED = 0.1  # level of a closed element of a sample, which has some reads
BACKGROUND = 0.5  # largest fraction of the open elements of a cell that any cell may have
AMBIENT = 0.1  # fraction of the counts of a cell that are of all populations
UNITS = 64  # of a level
AT_ONCE = 2**16  # elements whose levels are computed at a time


class AtlasClusters:
    """See :class:`.model_clusters.ModelClusters`.

    The clusters are the sorted populations with RNA. Others, without expression, are the types that
    do not belong to the family of the sorted populations.
    """

    certainty = CERTAINTY
    depth, spread = DEPTH, SPREAD
    is_of_counts = True

    def __init__(self, model: EpiFoundation) -> None:
        self.model = model
        self.head = cast("ProfileExpressionHead", model.network.expression)
        n_clusters = len(self.head.sorted_of)
        self.shares = np.full(n_clusters, 1 / n_clusters)
        self.n_others = int(self.head.populations.type_of.max()) + 1

    def profiles(self, genes: np.ndarray) -> np.ndarray:
        """From the expression of the sorted populations, with some of their mean in each."""
        counts = np.expm1(self.head.mean.double().cpu().numpy()[:, genes])
        counts = (1 - AMBIENT) * counts + AMBIENT * counts.mean(axis=0) + 1 / PER_CELL
        return counts / counts.sum(axis=1, keepdims=True)

    def rates(self, cluster: int) -> np.ndarray:
        """From the levels of a population, or the mean levels of the samples of a type."""
        return self._levels[cluster] / UNITS + CLOSED

    @cached_property
    def background(self) -> tuple[np.ndarray, float]:
        """Mean levels of all elements in both tables of the atlas."""
        means = cast("ProfileEncoder", self.model.network.encoder).means.double().cpu().numpy()
        rates = means / means.sum(axis=1, keepdims=True)
        return rates.mean(axis=0), BACKGROUND

    @cached_property
    @torch.inference_mode()
    def _levels(self) -> np.ndarray:
        """Levels in all clusters, in units of 1 / 64, uint8 (n_clusters + n_others, n_peaks)."""
        encoder = cast("ProfileEncoder", self.model.network.encoder)
        sorted_of, type_of = self.head.sorted_of, self.head.populations.type_of
        clusters = torch.zeros(
            len(type_of), len(sorted_of) + self.n_others, device=self.model.device
        )
        clusters[sorted_of, torch.arange(len(sorted_of))] = 1
        samples = (type_of >= 0).nonzero()[:, 0]
        clusters[samples, len(sorted_of) + type_of[samples]] = 1
        clusters /= clusters.sum(dim=0)
        found = np.empty((clusters.shape[1], len(self.model.peaks)), np.uint8)
        for start in range(0, found.shape[1], AT_ONCE):
            part = slice(start, min(start + AT_ONCE, found.shape[1]))
            ids = torch.arange(part.start, part.stop, device=self.model.device)
            levels = (encoder.levels(ids) @ clusters * UNITS).round_().clamp_(max=255)
            found[:, part] = levels.T.to(torch.uint8).cpu().numpy()
        return found
