"""Links in one group of cells: effects, p-values, and the table of both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from tqdm import tqdm

from ..genome import transcription_start
from ..models import EpiFoundation
from ..nn import ExpressionHead, QueryHead
from .cells import LinkCells
from .effects import gene_directions, inclusion, measured_cells, measured_effects, model_effects
from .pairs import Pairs, sites_of
from .pvalues import bonferroni_min, embedding_pvalues, measured_pvalues
from .scoring import Scorer

MIN_GROUP_CELLS = 10  # of a group that is tested


@dataclass(frozen=True)
class Candidates:
    """Genes and peaks that may be linked.

    Parameters
    ----------
    names, positions, places
        Genes: names, positions in the model, and positions on the genome (DataFrame).
    peaks, peak_names
        Intervals of the peaks of the data, and their names.
    pairs
        Pairs of a gene and a peak, and controls.
    max_distance
        Bases between transcription start site and peak.
    scorer
        Probabilities of the pairs that are no controls.
    """

    names: list[str]
    positions: np.ndarray
    places: pd.DataFrame
    peaks: pd.DataFrame
    peak_names: pd.Index
    pairs: Pairs
    max_distance: int
    scorer: Scorer


def uses_rna(cells: LinkCells) -> bool:
    """Whether enough cells have measured expression."""
    return int(cells.has_rna.sum()) >= MIN_GROUP_CELLS


def link_group(
    model: EpiFoundation,
    head: ExpressionHead | QueryHead,
    cells: LinkCells,
    candidates: Candidates,
    *,
    group: str,
    max_cells: int,
    min_cells: int,
    rng: np.random.Generator,
    bar: tqdm,
) -> pd.DataFrame:
    """Effects, p-values and scores of pairs, NaN in groups of fewer than `MIN_GROUP_CELLS` cells.

    `bar` advances by :func:`n_steps`.
    """
    pairs, positions = candidates.pairs, candidates.positions
    n_cells, sample = len(cells.names), cells
    if n_cells > max_cells:
        sample = cells.take(np.sort(rng.choice(n_cells, max_cells, replace=False)))
    by_embedding, moved = model_effects(model, head, sample, positions, pairs, bar)
    by_measurement, pvalue = np.zeros(len(by_embedding)), np.full(len(by_embedding), np.nan)
    pip, credible_set = pvalue.copy(), np.zeros(len(pvalue), dtype=np.int64)
    in_cells = cells.n_open()
    n_open = in_cells[pairs.peak]
    tested = np.flatnonzero(~pairs.is_control)
    if n_cells >= MIN_GROUP_CELLS:
        places, peaks = candidates.places, candidates.peaks
        sites = sites_of(places)
        near = np.zeros(len(peaks), dtype=bool)
        near[pairs.peak] = True
        pvalue[tested] = embedding_pvalues(
            moved,
            gene_directions(model, head, sample)[positions],
            (pairs.gene[tested], pairs.peak[tested]),
            sites,
            peaks,
            near,
            in_cells,
            candidates.max_distance,
            min_cells,
            rng,
        )
        if uses_rna(cells):
            measured = measured_cells(model, head, cells, positions)
            by_measurement = measured_effects(measured, pairs, bar)
            pip, credible_set = inclusion(measured, pairs, min_cells)
            n_measured = cells.take(np.flatnonzero(cells.has_rna)).n_open()[pairs.peak]
            second = measured_pvalues(
                by_measurement, pairs.gene, n_measured, pairs.is_control, min_cells
            )
            pvalue = bonferroni_min(pvalue, second)
    effects = pd.DataFrame(
        {
            "by_embedding": by_embedding,
            "by_measurement": by_measurement,
            "n_cells": n_open,
            "pvalue": pvalue,
            "pip": pip,
            "credible_set": credible_set,
        }
    ).iloc[tested]
    effects["score"] = np.nan
    if n_cells >= MIN_GROUP_CELLS:
        effects["score"] = candidates.scorer.score(group, in_cells, effects["pvalue"].to_numpy())
    return _links(candidates, tested, group, effects)


def _links(
    candidates: Candidates, tested: np.ndarray, group: str, effects: pd.DataFrame
) -> pd.DataFrame:
    gene, peak = candidates.pairs.gene[tested], candidates.pairs.peak[tested]
    distance = candidates.pairs.distance[tested]
    columns = {name: effects[name].to_numpy() for name in effects}
    effect = columns["by_embedding"] + columns["by_measurement"]
    intervals = {
        name: candidates.peaks[name].to_numpy()[peak] for name in ("chrom", "start", "end")
    }
    table = pd.DataFrame(
        {
            "gene": np.asarray(candidates.names, dtype=object)[gene],
            "peak": candidates.peak_names.to_numpy()[peak],
            **intervals,
            "tss": transcription_start(candidates.places)[gene],
            "distance": distance,
            "group": group,
            "effect": effect,
            "by_embedding": columns["by_embedding"],
            "by_measurement": columns["by_measurement"],
            "direction": np.select([effect > 0, effect < 0], ["activating", "repressing"], "none"),
            "n_cells": columns["n_cells"],
            "pvalue": columns["pvalue"],
            "score": columns["score"],
            "pip": columns["pip"],
            "credible_set": columns["credible_set"],
        }
    )
    return table.sort_values(["gene", "pvalue"], kind="stable")


def n_steps(n_cells: int, n_loci: int, max_cells: int) -> int:
    """Cells of a group in which peaks are removed, and loci that are fitted."""
    return min(n_cells, max_cells) + n_loci * (n_cells >= MIN_GROUP_CELLS)
