"""Pairs of genes and near peaks, and controls near other genes."""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

import numpy as np
import pandas as pd

from ..genome import overlaps, transcription_start

N_CONTROLS = 50_000  # pairs to compare with, which limit how small p-values can be
MAX_LOCI = 50  # of controls for one gene


class Pairs(NamedTuple):
    """Pairs of a gene and a peak, ordered by locus.

    `gene` and `peak`, (n_pairs,), are positions; pairs of one `locus` are near the same
    transcription start site, that of the gene itself if `is_control` is False. `distance`,
    (n_pairs,), is that of the site and the peak in bases.
    """

    gene: np.ndarray
    peak: np.ndarray
    locus: np.ndarray
    distance: np.ndarray
    is_control: np.ndarray


def near_sites(sites: pd.DataFrame, peaks: pd.DataFrame, max_distance: int) -> pd.DataFrame:
    """Pairs of a site and a peak within a distance: columns ``site``, ``peak``, ``distance``."""
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
    """Peaks near genes, and for each gene controls: peaks near other genes.

    Like candidates, controls are near a gene, so their distances are similar. This gene is on the
    same chromosome, far enough that no peak is near both; if there are too few, on any chromosome.

    Parameters
    ----------
    genes
        Requested genes: columns ``chrom``, ``start``, ``end``, ``strand``.
    annotation
        All genes, whose neighbourhoods may be controls.
    peaks
        Columns ``chrom``, ``start``, ``end``.
    known
        Peaks that the model knows, boolean.
    max_distance
        Maximal distance of a transcription start site to the nearest base of a peak.
    rng
        Draws the controls.

    Returns
    -------
    The pairs, and the number of control loci on another chromosome than their gene.
    """
    requested, others = sites_of(genes), sites_of(annotation).drop_duplicates()
    near = near_sites(requested, peaks, max_distance)
    near = near[known[near["peak"]]]
    around = near_sites(others, peaks, max_distance)
    around = around[known[around["peak"]]].sort_values("site", kind="stable")
    usable = around["site"].unique()
    bounds = (
        np.searchsorted(around["site"], usable),
        np.searchsorted(around["site"], usable, side="right"),
    )
    n_loci = int(np.clip(ceil(N_CONTROLS / max(len(near), 1)), 4, MAX_LOCI))
    parts = [near.rename(columns={"site": "gene"}).assign(locus=near["site"], is_control=False)]
    chrom, at = others["chrom"].to_numpy()[usable], others["start"].to_numpy()[usable]
    n_elsewhere, locus = 0, len(requested)
    for gene in near["site"].unique():
        same = chrom == requested["chrom"].iloc[gene]
        here = np.flatnonzero(
            same & (np.abs(at - requested["start"].iloc[gene]) > 2 * max_distance)
        )
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


def sites_of(genes: pd.DataFrame) -> pd.DataFrame:
    """Transcription start sites of genes: columns ``chrom``, ``start``."""
    at = transcription_start(genes)
    return pd.DataFrame({"chrom": genes["chrom"].to_numpy(), "start": at})
