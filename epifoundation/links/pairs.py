"""Which peaks lie near which genes, and which like them lie near other genes."""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

import numpy as np
import pandas as pd

from ..genome import overlaps, transcription_start

CONTROLS = 50_000  # pairs to compare with, so that small p-values can be told
MOST_LOCI = 50  # of controls for one gene


class Pairs(NamedTuple):
    """Pairs of a gene and a peak, those of one locus one after the other.

    `gene` and `peak`, (n_pairs,), are positions; pairs of one `locus` are near the same transcription start site: that of the gene itself where
    `is_control` is False. `distance`, (n_pairs,): bases between that site and the peak.
    """

    gene: np.ndarray
    peak: np.ndarray
    locus: np.ndarray
    distance: np.ndarray
    is_control: np.ndarray


def near_sites(sites: pd.DataFrame, peaks: pd.DataFrame, max_distance: int) -> pd.DataFrame:
    """All pairs of a transcription start site and a peak that are at most so far apart: columns ``site``, ``peak``, ``distance``."""
    at = sites["start"].to_numpy(np.int64)
    window = pd.DataFrame(
        {
            "chrom": sites["chrom"].to_numpy(),
            "start": np.maximum(at - max_distance, 0),
            "end": at + max_distance + 1,
        }
    )
    site, peak = overlaps(window, peaks).T
    start, last = peaks["start"].to_numpy(np.int64)[peak], peaks["end"].to_numpy(np.int64)[peak] - 1
    distance = np.maximum(np.maximum(start - at[site], at[site] - last), 0)
    return pd.DataFrame({"site": site, "peak": peak, "distance": distance})


def find_pairs(
    genes: pd.DataFrame,
    annotation: pd.DataFrame,
    peaks: pd.DataFrame,
    known: np.ndarray,
    max_distance: int,
    rng: np.random.Generator,
) -> tuple[Pairs, int]:
    """Peaks near genes, and for each gene the peaks near some other ones.

    Controls are near genes as the candidates are, so at like distances; these genes are on the same chromosome, so far off that no peak is near both.
    Where a chromosome has too few of them, those of others are taken.

    Parameters
    ----------
    genes
        Those that are asked for: columns ``chrom``, ``start``, ``end``, ``strand``.
    annotation
        All genes whose neighbourhoods may serve as controls.
    peaks
        Columns ``chrom``, ``start``, ``end``.
    known
        Which of them the model knows, boolean.
    max_distance
        Bases between a transcription start site and the nearest base of a peak.
    rng
        Draws the controls.

    Returns
    -------
    The pairs, and how many loci of controls are on another chromosome than their gene.
    """
    own, others = _sites(genes), _sites(annotation).drop_duplicates()
    near = near_sites(own, peaks, max_distance)
    near = near[known[near["peak"]]]
    around = near_sites(others, peaks, max_distance)
    around = around[known[around["peak"]]].sort_values("site", kind="stable")
    usable = around["site"].unique()
    bounds = (
        np.searchsorted(around["site"], usable),
        np.searchsorted(around["site"], usable, side="right"),
    )
    n_loci = int(np.clip(ceil(CONTROLS / max(len(near), 1)), 4, MOST_LOCI))
    parts = [near.rename(columns={"site": "gene"}).assign(locus=near["site"], is_control=False)]
    chrom, at = others["chrom"].to_numpy()[usable], others["start"].to_numpy()[usable]
    n_elsewhere, locus = 0, len(own)
    for gene in near["site"].unique():
        same = chrom == own["chrom"].iloc[gene]
        here = np.flatnonzero(same & (np.abs(at - own["start"].iloc[gene]) > 2 * max_distance))
        chosen = rng.permutation(here)[:n_loci]
        elsewhere = rng.permutation(np.flatnonzero(~same))[: n_loci - len(chosen)]
        n_elsewhere += len(elsewhere)
        for i in [*chosen, *elsewhere]:
            part = around.iloc[bounds[0][i] : bounds[1][i]]
            parts.append(
                pd.DataFrame(
                    {
                        "gene": gene,
                        "peak": part["peak"],
                        "distance": part["distance"],
                        "locus": locus,
                        "is_control": True,
                    }
                )
            )
            locus += 1
    table = pd.concat(parts, ignore_index=True).sort_values(["gene", "locus"], kind="stable")
    return Pairs(*(table[name].to_numpy() for name in Pairs._fields)), n_elsewhere


def _sites(genes: pd.DataFrame) -> pd.DataFrame:
    at = transcription_start(genes)
    return pd.DataFrame({"chrom": genes["chrom"].to_numpy(), "start": at})
