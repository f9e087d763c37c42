"""The clusters of an atlas: its sorted populations with RNA."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch

from .._keys import UNKNOWN_LABEL
from ..models import EpiFoundation
from ..nn import (
    N_POPULATION_LABELS,
    PopulationLabelHead,
    ProfileEncoder,
    ProfileExpressionHead,
    ProfileLabelHead,
    conformal_scores,
)
from ..nn.profile_encoder import CLOSED
from .features import embedding_of
from .labels import without_labels
from .simulated_cells import simulate_peaks

# Of simulated cells: 95 % have between 50 and 5,000 open elements
DEPTH, SPREAD = 1_000.0, 1.15
CERTAINTY = 0.9  # mean largest membership of a cell with RNA, about as often as it is right
AMBIENT = 0.3  # fraction of the counts of a cell that are of all populations
FAMILY = 0.9  # probability of the sorted populations before a cell is seen
# Cells of the reference that make labels of a population as likely as none, also as a fraction
MIN_CELLS, MIN_SHARE = 0.5, 0.001
N_SIMULATED = 2_000  # calibration cells
AT_ONCE = 2**16  # elements whose levels are computed at a time


class AtlasClusters:
    """See :class:`.model_clusters.ModelClusters`."""

    certainty, depth, is_of_counts = CERTAINTY, DEPTH, True

    def __init__(self, model: EpiFoundation) -> None:
        self.model = model
        self.head = cast("ProfileExpressionHead", model.network.expression)
        n_clusters = len(self.head.sorted_of)
        self.shares = np.full(n_clusters, 1 / n_clusters)

    def profiles(self, genes: np.ndarray) -> np.ndarray:
        """From the expression of the populations, with some of their mean in each."""
        counts = np.expm1(self.head.mean[:, genes].double().cpu().numpy())
        counts = (1 - AMBIENT) * counts + AMBIENT * counts.mean(axis=0) + 0.03
        return counts / counts.sum(axis=1, keepdims=True)

    def with_labels(
        self,
        memberships: np.ndarray,
        codes: np.ndarray,
        is_held: np.ndarray,
        names: Sequence[str],
        rng: np.random.Generator,
    ) -> EpiFoundation:
        """The model with a head that gives the labels of its populations.

        The atlas knows how probable its populations are in a cell, which was calibrated on measured
        cells. Reference cells only say which labels a population has.
        """
        names = list(dict.fromkeys([*names, UNKNOWN_LABEL]))
        labels, unknown = np.eye(len(names))[codes], names.index(UNKNOWN_LABEL)
        first, final = (
            self._labels_in(memberships[part], labels[part], unknown)
            for part in (~is_held, slice(None))
        )
        base = without_labels(self.model)
        atlas = cast("ProfileLabelHead", self.model.network.label)
        tensors = {f"label.{name}": each.cpu() for name, each in atlas.state_dict().items()}
        tensors |= {"label.labels_in": first, "label.other": torch.tensor(unknown)}
        tensors["label.populations.prior"] = torch.tensor(FAMILY)
        tensors["label.conformal"] = torch.zeros(1)
        sizes = base.network.sizes.updated({"n_labels": len(names), N_POPULATION_LABELS: 1})
        network = base.network.with_sizes(sizes, tensors).to(base.device)
        head = cast("PopulationLabelHead", network.label)
        scores = self._scores(head, memberships[is_held], codes[is_held], rng)
        tensors |= {"label.labels_in": final, "label.conformal": scores.cpu()}
        sizes = sizes.updated({N_POPULATION_LABELS: len(scores)})
        network = base.network.with_sizes(sizes, tensors)
        return replace(base, network=network, labels=names, adapter=None).to(base.device)

    def _labels_in(self, memberships: np.ndarray, labels: np.ndarray, unknown: int) -> torch.Tensor:
        """Probabilities of labels in each sorted population, (n_sorted, n_labels).

        A population in which no cell of the reference is most likely, or without RNA, is unknown.
        """
        sums = memberships.T @ labels
        n_cells = np.bincount(memberships.argmax(axis=1), minlength=len(sums))[:, None]
        is_known = n_cells / (n_cells + MIN_CELLS + MIN_SHARE * len(memberships))
        known = is_known * sums / (sums.sum(axis=1, keepdims=True) + 1e-12)
        found = np.zeros((self.head.populations.contrasts.shape[1], labels.shape[1]))
        found[self.head.sorted_of.cpu().numpy()] = known
        found[:, unknown] += 1 - found.sum(axis=1)
        return torch.from_numpy(found.astype(np.float32))

    @torch.inference_mode()
    def _scores(
        self,
        head: PopulationLabelHead,
        memberships: np.ndarray,
        codes: np.ndarray,
        rng: np.random.Generator,
    ) -> torch.Tensor:
        """Conformal scores of simulated cells, ascending."""
        drawn = np.tile(np.arange(len(codes)), -(-N_SIMULATED // len(codes)))
        levels = self._levels()
        pattern = simulate_peaks(
            lambda cluster: levels[cluster] + CLOSED, memberships[drawn], rng, self.depth, SPREAD
        )
        likely = head(torch.from_numpy(embedding_of(self.model, pattern)).to(self.model.device))
        own = torch.from_numpy(codes[drawn]).to(likely.device)[:, None]
        return conformal_scores(likely).gather(1, own)[:, 0].sort().values

    @torch.inference_mode()
    def _levels(self) -> np.ndarray:
        """Levels of all elements in the populations with RNA, (n_clusters, n_peaks)."""
        encoder = cast("ProfileEncoder", self.model.network.encoder)
        every = torch.arange(len(self.model.peaks), device=self.model.device)
        parts = [encoder.levels(ids)[:, self.head.sorted_of] for ids in every.split(AT_ONCE)]
        return torch.cat(parts).T.double().cpu().numpy()
