"""Positions of the genes to link, on the build of the peaks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..genome import BUILDS
from ..genome._named import GENOME
from ..inference.expression import find_genes
from ..models import EpiFoundation
from ..peaks.mapping import genome_build, incompatible_builds


def place_genes(
    model: EpiFoundation, genes: str | Sequence[str] | None, table: pd.DataFrame
) -> tuple[list[str], np.ndarray, pd.DataFrame]:
    """Names of the genes that have a position, their positions in the model and on the genome."""
    names, positions = model.genes.names, np.arange(len(model.genes))
    if genes is not None:
        names, positions = find_genes(model, genes)
    candidates = [list(names), [model.genes.names[int(i)] for i in positions]]
    if model.genes.ids is not None:
        candidates.append([model.genes.ids[int(i)] for i in positions])
    rows = np.full(len(positions), -1)
    for each in candidates:  # by the requested name, else by symbol, else by identifier
        rows = np.where(rows >= 0, rows, table.index.get_indexer(pd.Index(each)))
    lost = [name for name, row in zip(names, rows, strict=True) if row < 0]
    if lost and (genes is not None or len(lost) == len(rows)):
        msg = (
            f"{len(lost):,} of {len(rows):,} genes have no position in the annotation: {lost[:5]}. "
            f"Its genes are named like {list(table.index[:3])}; pass another `annotation`, or "
            "leave these genes out."
        )
        raise ValueError(msg)
    kept = np.flatnonzero(rows >= 0)
    return [names[int(i)] for i in kept], positions[kept], table.iloc[rows[kept]]


def check_annotation(
    table: pd.DataFrame, build: str, model: EpiFoundation, *, lifted: bool
) -> None:
    """Raise ValueError if genes are not on the build of the peaks."""
    build = build if build in BUILDS or lifted else genome_build(model.peaks)
    if build not in BUILDS:
        return
    name = table.attrs.get(GENOME, build)
    if name != build:
        msg = f"`annotation={name!r}` is of {name}, the peaks are of {build}: pass that of {build}."
        raise ValueError(msg)
    found, wrong = incompatible_builds(table.reset_index(drop=True), build)
    if found:
        gene = table.index[np.flatnonzero(wrong)[0]]
        msg = (
            f"The annotation is of {' or '.join(found)}, the peaks are of {build}: "
            f"{int(wrong.sum()):,} of {len(table):,} genes lie outside of it, first {gene!r}. Pass "
            f"an annotation of {build}."
        )
        raise ValueError(msg)
