"""Accessibility of elements in the samples of an atlas."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import pandas as pd
import torch

from ..genome import overlaps
from ..models import EpiFoundation
from ..nn.profile_encoder import MEAN_UNITS

if TYPE_CHECKING:
    from ..nn import ProfileEncoder

CHUNK = 100_000  # elements whose levels are computed at a time


class AtlasLevels:
    """Levels of elements in the DNase samples of an atlas: 0 (closed) to 3 (strongest third).

    Attributes
    ----------
    elements
        Columns ``chrom``, ``start``, ``end``.
    samples
        Names of the samples.
    mean
        Mean level of each element over the samples, (n_elements,).
    """

    def __init__(self, atlas: EpiFoundation) -> None:
        self._encoder = cast("ProfileEncoder", atlas.network.encoder)
        self._first = self._encoder.n_sorted
        self.elements = atlas.peaks.intervals
        self.samples = pd.Index(atlas.training["profiles"][self._first :])
        self.mean = self._encoder.means[1].cpu().numpy() / MEAN_UNITS

    def of(self, ids: np.ndarray) -> np.ndarray:
        """Levels of some elements in all samples, (n_ids, n_samples)."""
        with torch.inference_mode():
            levels = self._encoder.levels(torch.from_numpy(ids))[:, self._first :]
        return levels.cpu().numpy()

    def in_samples(self, samples: list[str]) -> np.ndarray:
        """Mean level of all elements in some samples, (n_elements,)."""
        columns = self.samples.get_indexer(pd.Index(samples))
        ids = np.arange(len(self.elements))
        parts = np.split(ids, range(CHUNK, len(ids), CHUNK))
        return np.concatenate([self.of(part)[:, columns].mean(axis=1) for part in parts])

    def at(self, intervals: pd.DataFrame) -> np.ndarray:
        """The overlapping element with the highest mean level, (n_intervals,); -1 if none."""
        pairs = overlaps(intervals, self.elements)
        order = np.lexsort((-self.mean[pairs[:, 1]], pairs[:, 0]))
        is_first = np.diff(pairs[order, 0], prepend=-1) != 0
        found = np.full(len(intervals), -1)
        found[pairs[order, 0][is_first]] = pairs[order, 1][is_first]
        return found

    def features(
        self, elements: np.ndarray, genes: np.ndarray, pair: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Features of pairs of an element and the promoter of a gene, each (n_pairs,).

        Parameters
        ----------
        elements, genes
            The elements of the atlas (:meth:`at`), -1 if there is none, for which features are 0.
        pair
            Positions in both, (n_pairs, 2).
        """
        mean = np.append(self.mean, 0.0)
        profiles = [_standardised(self, each) for each in (elements, genes)]
        both = np.zeros(len(pair))
        for start in range(0, len(pair), CHUNK):
            part = pair[start : start + CHUNK]
            of_element, of_gene = profiles[0][part[:, 0]], profiles[1][part[:, 1]]
            both[start : start + CHUNK] = np.einsum("ij,ij->i", of_element, of_gene)
        return {
            "usual_activity": mean[elements[pair[:, 0]]],
            "usual_promoter": mean[genes[pair[:, 1]]],
            "coaccessibility": both,
        }


def _standardised(levels: AtlasLevels, elements: np.ndarray) -> np.ndarray:
    """Profiles over the samples with mean 0 and length 1, float32; 0 without an element."""
    profiles = np.zeros((len(elements), len(levels.samples)), np.float32)
    known = np.flatnonzero(elements >= 0)
    for start in range(0, len(known), CHUNK):
        rows = known[start : start + CHUNK]
        profiles[rows] = levels.of(elements[rows])
    profiles -= profiles.mean(axis=1, keepdims=True)
    return profiles / np.maximum(np.linalg.norm(profiles, axis=1, keepdims=True), 1e-6)
