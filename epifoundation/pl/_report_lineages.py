"""Lineages of cells, and how far they are from what the model knows, for the report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from .._keys import UNKNOWN_LABEL, Keys
from ._report_page import Block, Paragraph, Picture, table

MAX_NOVELTY = 6.0  # deviations; cells beyond are in the last bin


def lineage_blocks(
    atac: AnnData, keys: Keys, plot: Callable[..., Picture | Paragraph]
) -> list[Block]:
    """Lineages, if the model has them, and the distance of the cells from what it knows."""
    found: list[Block] = []
    if keys.lineage in atac.obs:
        found.append(table(lineage_table(atac, keys), "Lineages"))
    if keys.novelty in atac.obs and atac.obs[keys.novelty].notna().any():
        alt = "Histogram of the novelty of the cells, with the threshold of unknown cells"
        caption = "How unlike a cell is to the cells or samples that the labels come from."
        found.append(plot(lambda: draw_novelty(atac, keys), alt, caption))
    return found


def lineage_table(atac: AnnData, keys: Keys) -> pd.DataFrame:
    """A row for each lineage, most cells first."""
    obs = atac.obs
    assigned = obs[keys.lineage].astype(object)
    is_labelled = assigned.notna()
    groups = obs[is_labelled].groupby(assigned[is_labelled].astype(str), sort=False)
    rows = pd.DataFrame({"lineage": list(groups.groups), "cells": groups.size().to_numpy()})
    rows["fraction"] = rows["cells"] / max(int(is_labelled.sum()), 1)
    rows["median confidence"] = groups[keys.lineage_confidence].median().to_numpy()
    if keys.resolved in obs:
        of_type = obs[keys.resolved].astype(str) == obs[keys.cell_type].astype(str)
        resolved = of_type[is_labelled].groupby(assigned[is_labelled].astype(str), sort=False)
        share = resolved.mean()
        rows["resolved to a cell type"] = share.where(share.index != UNKNOWN_LABEL).to_numpy()
    if keys.novelty in obs:
        rows["median novelty"] = groups[keys.novelty].median().to_numpy()
    return rows.sort_values("cells", ascending=False)


def draw_novelty(atac: AnnData, keys: Keys) -> Any:
    """Histogram of novelty, with the threshold above which cells are unknown."""
    import matplotlib.pyplot as plt

    novelty = atac.obs[keys.novelty].dropna().to_numpy()
    threshold = atac.uns.get(keys.annotation, {}).get("novelty_threshold")
    figure, axes = plt.subplots(figsize=(5, 2.8), layout="constrained")
    shown = np.minimum(novelty, MAX_NOVELTY)
    axes.hist(shown, bins=50, color="0.6")
    axes.set(xlabel="novelty, standard deviations of the calibration cells", ylabel="cells")
    if threshold is not None and np.isfinite(threshold):
        axes.axvline(threshold, color="C3", linewidth=1)
        share = (novelty > threshold).mean()
        axes.set_title(f"{share:.1%} of the cells above the threshold of unknown", fontsize=10)
    return figure
