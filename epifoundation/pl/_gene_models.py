"""Draw genes of a region: exons, coding parts, strands and names."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ._signal import Region

EXON, CODING, BODY = 0.26, 0.52, 0.3  # heights; of a gene without exons
ARROW_SPACE = 0.016  # of the region, between two arrows on an intron
LETTER = 0.0095  # width of a letter of a name, of the region
MAX_ROWS = 8


def rows_of(genes: pd.DataFrame, region: Region, shown: set[str]) -> dict[str, int]:
    """Row of each gene of a region, so that genes and their names do not overlap.

    Genes that need more than `MAX_ROWS` rows are left out, those in `shown` last.
    """
    size = region.end - region.start
    is_here = (genes["chrom"] == region.chrom) & (genes["end"] > region.start)
    here = genes[is_here & (genes["start"] < region.end)]
    is_first = np.array([name in shown for name in here.index], bool)
    length = (here["end"] - here["start"]).to_numpy()
    rows: dict[str, int] = {}
    taken: list[list[tuple[float, float]]] = []
    for i in np.lexsort([here["start"], -length, ~is_first]):
        name, gene = str(here.index[i]), here.iloc[i]
        left, right = _span(name, gene, region)
        left, right = left - 0.01 * size, right + 0.01 * size
        free = (
            row
            for row, spans in enumerate(taken)
            if all(right < low or left > high for low, high in spans)
        )
        row = next(free, len(taken))
        if row == MAX_ROWS:
            continue
        if row == len(taken):
            taken.append([])
        taken[row].append((left, right))
        rows[name] = row
    return rows


def _span(name: str, gene: pd.Series, region: Region) -> tuple[float, float]:
    """From where to where a gene and the name above it reach."""
    size = region.end - region.start
    left, right = max(gene["start"], region.start), min(gene["end"], region.end)
    half = LETTER * size * len(name) / 2
    middle = min(max((left + right) / 2, region.start + half), region.end - half)
    return min(left, middle - half), max(right, middle + half)


def draw_genes(
    ax: Any,
    genes: pd.DataFrame,
    exons: pd.DataFrame | None,
    rows: dict[str, int],
    region: Region,
    shown: set[str],
) -> None:
    """Draw genes in their rows; thick boxes are coding parts, thin ones other exons."""
    size = region.end - region.start
    for name, row in rows.items():
        gene = genes.loc[name]
        color = "black" if name in shown else "0.4"
        left, right = max(gene["start"], region.start), min(gene["end"], region.end)
        parts = None if exons is None else exons[exons.index == name]
        has_exons = parts is not None and len(parts) > 0
        if parts is not None and has_exons:
            ax.plot([left, right], [-row, -row], color=color, lw=0.8, solid_capstyle="butt")
            for feature, height in (("exon", EXON), ("CDS", CODING)):
                _boxes(ax, parts[parts["feature"] == feature], row, height, color, size)
        else:
            _boxes(ax, gene.to_frame().T, row, BODY, color, size)
        is_box = not has_exons and right - left > ARROW_SPACE * size
        _draw_arrows(ax, gene["strand"], left, right, row, "white" if is_box else color, size)
        low, high = _span(name, gene, region)
        half = LETTER * size * len(name) / 2
        middle = min(max((left + right) / 2, low + half), high - half)
        weight = "bold" if name in shown else "normal"
        style = {"ha": "center", "va": "bottom", "fontsize": "x-small", "fontstyle": "italic"}
        text = ax.text(middle, -row + 0.3, name, color=color, fontweight=weight, **style)
        text.set_clip_on(False)
    ax.set_ylim(-max(rows.values(), default=0) - 0.5, 0.9)


def _boxes(ax: Any, table: pd.DataFrame, row: int, height: float, color: str, size: int) -> None:
    """Boxes that can be seen at any scale."""
    width = np.maximum((table["end"] - table["start"]).to_numpy(float), size / 1000)
    spans = list(zip(table["start"].to_numpy(float), width, strict=True))
    ax.broken_barh(spans, (-row - height / 2, height), facecolors=color, linewidth=0)


def _draw_arrows(
    ax: Any, strand: str, left: float, right: float, row: int, color: str, size: int
) -> None:
    """Small arrows along a gene, or beside it."""
    if strand not in "+-":
        return
    space = ARROW_SPACE * size
    n = max(int((right - left) / space), 1)
    places = left + (np.arange(n) + 0.5) * (right - left) / n
    if right - left < space:  # beside a gene that is as small as an arrow
        places = np.array([right + space / 2 if strand == "+" else left - space / 2])
    marker = "$›$" if strand == "+" else "$‹$"
    ax.plot(places, np.full(n, -row), ls="", marker=marker, ms=4, color=color, mec=color, mew=0.3)


def draw_site(ax: Any, gene: str, position: int, *, is_alone: bool) -> None:
    """A mark at the transcription start site of a gene that the annotation lacks."""
    ax.plot([position], [0], marker="v", color="k", clip_on=False)
    label = {"textcoords": "offset points", "va": "center", "fontsize": "small"}
    ax.annotate(gene, (position, 0), xytext=(6, 0), **label)
    if is_alone:
        ax.set_ylim(-1, 1)
