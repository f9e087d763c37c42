"""Scores of pairs of peaks and genes in groups of cells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ..genome import lift_over
from ..models import EpiFoundation
from ..models._atlas import bundled_atlas
from ..models._registry import DEFAULT_MODEL
from ..peaks.mapping import genome_build
from .activity import match_levels, nearest_sample, usual_levels
from .atlas_levels import AtlasLevels
from .pair_features import ACTIVE_ELEMENT, ACTIVE_PROMOTER, Landscape, promoters, strongest
from .pairs import Pairs, sites_of
from .score import crispr_score, posterior


class Scorer:
    """Probabilities of links from distance, accessibility, the atlas, and p-values.

    Parameters
    ----------
    peaks
        All peaks of the data: columns ``chrom``, ``start``, ``end``.
    sites
        Transcription start sites of the genes to link: columns ``chrom``, ``start``.
    all_sites
        Those of all genes of the annotation.
    pair
        Rows of `peaks` and `sites`, (n_pairs, 2).
    known
        What the atlas knows of peaks and genes; None if they are not human.

    Attributes
    ----------
    samples
        By group, the sample of the atlas that is most similar.
    """

    def __init__(
        self,
        peaks: pd.DataFrame,
        sites: pd.DataFrame,
        all_sites: pd.DataFrame,
        pair: np.ndarray,
        known: InAtlas | None,
    ) -> None:
        self._peaks, self._sites, self._all_sites = peaks, sites, all_sites
        self._pair, self._known = pair, known
        self._score = crispr_score(atlas=known is not None)
        self._fixed = {} if known is None else known.features(pair)
        self.samples: dict[str, str] = {}

    @property
    def report(self) -> dict[str, Any]:
        """The features, and the groups with their samples."""
        groups, samples = list(self.samples), list(self.samples.values())
        return {"features": list(self._score.coefficients), "groups": groups, "samples": samples}

    def score(self, group: str, n_open: np.ndarray, pvalue: np.ndarray) -> np.ndarray:
        """Probability of each pair in a group of cells, (n_pairs,).

        Parameters
        ----------
        group
            Name of the group.
        n_open
            Number of its cells in which each peak is open, (n_peaks,).
        pvalue
            Of each pair, NaN if it was not tested.
        """
        near = promoters(self._sites)
        if self._known is None:
            level = match_levels(n_open, usual_levels(len(n_open)))
            at_start = strongest(near, self._peaks, level)
            has_peak = strongest(near, self._peaks, np.ones(len(level))) > 0
            at_start[~has_peak] = ACTIVE_PROMOTER  # it is not known
        else:
            level, of_sample, sample = self._known.levels(n_open)
            self.samples[group] = sample
            # A gene may start where the data have no peak
            at_start = np.maximum(strongest(near, self._peaks, level), of_sample)
        landscape = Landscape(self._peaks, level, self._all_sites)
        features = landscape.features(self._peaks, level, self._sites, self._pair)
        # The score was fitted on accessible elements and expressed genes
        is_open = np.minimum(level / ACTIVE_ELEMENT, 1)[self._pair[:, 0]]
        is_open *= np.minimum(at_start / ACTIVE_PROMOTER, 1)[self._pair[:, 1]]
        return posterior(is_open * self._score.probability(features | self._fixed), pvalue)


class InAtlas:
    """The elements of the atlas at peaks and at the starts of genes.

    Parameters
    ----------
    atlas
        The bundled atlas.
    lifted, n_peaks
        Peaks of the data on the build of the atlas, indexed by their number, and how many the data
        have.
    sites
        Transcription start sites of the genes to link.
    chain
        From the build of the sites to that of the atlas; None if they are the same.
    """

    def __init__(
        self,
        atlas: EpiFoundation,
        lifted: pd.DataFrame,
        n_peaks: int,
        sites: pd.DataFrame,
        chain: str | None,
    ) -> None:
        self._atlas = AtlasLevels(atlas)
        self._of_peak = self._at(lifted, n_peaks)
        self._of_gene = self._at(_lifted(promoters(sites), chain), len(sites))
        self._peaks = np.flatnonzero(self._of_peak >= 0)
        self._levels = self._atlas.of(self._of_peak[self._peaks])
        known = np.flatnonzero(self._of_gene >= 0)
        self._of_start = np.zeros((len(sites), self._levels.shape[1]), self._levels.dtype)
        self._of_start[known] = self._atlas.of(self._of_gene[known])

    def features(self, pair: np.ndarray) -> dict[str, np.ndarray]:
        """Features of pairs of a peak and a gene that are the same in all groups of cells."""
        return self._atlas.features(self._of_peak, self._of_gene, pair)

    def levels(self, n_open: np.ndarray) -> tuple[np.ndarray, np.ndarray, str]:
        """Levels in a group of cells, with the distribution of the most similar sample.

        Parameters
        ----------
        n_open
            Number of cells in which each peak is open, (n_peaks,).

        Returns
        -------
        Levels of the peaks; levels of the promoters in the sample, 0 without an element; and the
        name of the sample.
        """
        seen = n_open[self._peaks]
        sample = nearest_sample(seen, self._levels)
        level = match_levels(seen, self._levels[:, sample])
        # Peaks that the atlas does not know, by the same function
        order = np.argsort(seen, kind="stable")
        every = np.interp(n_open, seen[order], level[order])
        return every, self._of_start[:, sample], self._atlas.samples[sample]

    def _at(self, lifted: pd.DataFrame, n: int) -> np.ndarray:
        """Elements of the atlas at `n` intervals, -1 where there is none or it was not lifted."""
        found = np.full(n, -1)
        found[lifted.index] = self._atlas.at(lifted)
        return found


def _lifted(intervals: pd.DataFrame, chain: str | None) -> pd.DataFrame:
    """The intervals that lift over, indexed by number; all without a chain."""
    intervals = intervals.reset_index(drop=True)
    return intervals if chain is None else lift_over(intervals, chain)[0]


def make_scorer(
    model: EpiFoundation,
    genes: pd.DataFrame,
    annotation: pd.DataFrame,
    peaks: pd.DataFrame,
    pairs: Pairs,
    report: Mapping[str, Any],
) -> Scorer:
    """The scorer of the pairs that are no controls, with the bundled atlas for human peaks.

    Parameters
    ----------
    model
        The model, to whose build the peaks may have been lifted over.
    genes, annotation
        Genes to link, and all genes (:func:`epifoundation.genome.read_genes`).
    peaks
        All peaks of the data.
    pairs
        Pairs of both, and controls.
    report
        How the peaks were mapped onto those of the model.
    """
    chain = report.get("options", {}).get("liftover")
    build = report["data_genome"]
    if chain is not None or build == "unknown":
        build = genome_build(model.peaks)
    lifted = _lifted(peaks, chain)
    atlas = model if model.name == DEFAULT_MODEL else bundled_atlas(lifted, build)
    tested = ~pairs.is_control
    pair = np.column_stack([pairs.peak[tested], pairs.gene[tested]])
    sites = sites_of(genes)
    known = None if atlas is None else InAtlas(atlas, lifted, len(peaks), sites, chain)
    return Scorer(peaks, sites, sites_of(annotation), pair, known)
