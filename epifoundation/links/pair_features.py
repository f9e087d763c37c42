"""Features of pairs of an element and a gene, from which the probability of a link is computed."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..genome import overlaps

SHORTEST = 1000  # bases: closer elements count as if they were at this distance
REACH = 1_000_000  # bases around a transcription start site within which elements compete
DECAY = 0.9  # of the contact of two loci with their distance (Fulco et al. 2019)
PROMOTER = 500  # bases on each side of a transcription start site
ACTIVE_ELEMENT, ACTIVE_PROMOTER = 0.5, 0.7  # levels from which they count as accessible
FEATURES = ("distance", "activity", "competition", "genes_between", "nearer_genes")
ATLAS_FEATURES = ("usual_activity", "usual_promoter", "coaccessibility")


class Landscape:
    """Levels of accessibility along the genome in one kind of cells, and the genes there.

    Parameters
    ----------
    elements
        All elements of the genome: columns ``chrom``, ``start``, ``end``.
    level
        Their levels, (n_elements,), from 0 (closed) to 3, as in :class:`AtlasLevels`.
    sites
        Transcription start sites of all genes: columns ``chrom``, ``start``.
    """

    def __init__(self, elements: pd.DataFrame, level: np.ndarray, sites: pd.DataFrame) -> None:
        self.chroms = pd.Index(elements["chrom"].unique())
        is_active = level > ACTIVE_ELEMENT
        place = self.place(elements["chrom"], _centre(elements))[is_active]
        order = np.argsort(place, kind="stable")
        self.elements, self.levels = place[order], level[is_active][order]
        unique = sites[["chrom", "start"]].drop_duplicates()
        is_active = strongest(promoters(unique), elements, level) > ACTIVE_PROMOTER
        active = unique[is_active]
        self.genes = np.sort(self.place(active["chrom"], active["start"].to_numpy(np.int64)))

    def place(self, chrom: pd.Series, position: np.ndarray) -> np.ndarray:
        """Positions on one axis, on which chromosomes are far from each other."""
        return (self.chroms.get_indexer(pd.Index(chrom)).astype(np.int64) << 40) + position

    def features(
        self, elements: pd.DataFrame, level: np.ndarray, sites: pd.DataFrame, pair: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Features of pairs, each (n_pairs,).

        Parameters
        ----------
        elements, level
            Elements that may regulate genes, and their levels, (n_elements,).
        sites
            Transcription start sites of the genes: columns ``chrom``, ``start``.
        pair
            Rows of `elements` and `sites`, (n_pairs, 2), on the same chromosome.

        Returns
        -------
        - ``distance``: log of the bases from the centre of the element to the site;
        - ``activity``: level of the element;
        - ``competition``: log of the activity of all elements around the gene, each divided by its
          distance to the power of 0.9, as in the denominator of the activity-by-contact score
          (Fulco et al. 2019);
        - ``genes_between``: log of 1 + the number of active genes between element and gene;
        - ``nearer_genes``: log of 1 + the number of active genes nearer to the element.
        """
        middle = self.place(elements["chrom"], _centre(elements))[pair[:, 0]]
        site = self.place(sites["chrom"], sites["start"].to_numpy(np.int64))
        at = site[pair[:, 1]]
        distance = np.abs(middle - at)
        low, high = np.minimum(middle, at) + PROMOTER, np.maximum(middle, at) - PROMOTER
        within = np.maximum(distance - PROMOTER, 0)
        return {
            "distance": np.log(distance + SHORTEST),
            "activity": level[pair[:, 0]],
            "competition": np.log(self._competition(site) + 1e-6)[pair[:, 1]],
            "genes_between": np.log1p(self._n_genes(low, high)),
            "nearer_genes": np.log1p(self._n_genes(middle - within, middle + within)),
        }

    def _n_genes(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        first = np.searchsorted(self.genes, low, side="right")
        return np.maximum(np.searchsorted(self.genes, high, side="left") - first, 0)

    def _competition(self, sites: np.ndarray) -> np.ndarray:
        begin = np.searchsorted(self.elements, sites - REACH)
        end = np.searchsorted(self.elements, sites + REACH)
        total = np.zeros(len(sites))
        for i, (first, last) in enumerate(zip(begin, end, strict=True)):
            bases = np.maximum(np.abs(self.elements[first:last] - sites[i]), SHORTEST)
            total[i] = (self.levels[first:last] / bases**DECAY).sum()
        return total


def promoters(sites: pd.DataFrame) -> pd.DataFrame:
    """Intervals around transcription start sites."""
    at = sites["start"].to_numpy(np.int64)
    start = np.maximum(at - PROMOTER, 0)
    return pd.DataFrame({"chrom": sites["chrom"].to_numpy(), "start": start, "end": at + PROMOTER})


def strongest(intervals: pd.DataFrame, elements: pd.DataFrame, level: np.ndarray) -> np.ndarray:
    """The highest level of the elements that overlap each interval, (n_intervals,); 0 if none."""
    pairs = overlaps(intervals, elements)
    highest = np.zeros(len(intervals))
    np.maximum.at(highest, pairs[:, 0], level[pairs[:, 1]])
    return highest


def _centre(intervals: pd.DataFrame) -> np.ndarray:
    return (intervals["start"].to_numpy(np.int64) + intervals["end"].to_numpy(np.int64)) // 2
