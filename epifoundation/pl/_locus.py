"""Draw a locus: arcs of links, peaks, and the signal of groups of cells."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ._signal import Region, Signal

MAX_GREY_ARCS = 200
PEAK_ROW = -0.09  # of the boxes of peaks, below the arcs


def draw_arcs(ax: Any, figure: Any, table: pd.DataFrame, is_link: np.ndarray) -> None:
    """Arcs from peaks to transcription start sites; links have colours, other pairs are grey.

    With a column `score`, width and colour of links show it, else colours show the effect.
    """
    import matplotlib.pyplot as plt
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Curve

    effect, score = table["effect"].to_numpy(float), score_of(table)
    has_score = bool(np.isfinite(score[is_link]).any())
    if has_score:
        shade, scale = np.clip(np.nan_to_num(score), 0, 1), plt.Normalize(0, 1)
        colors = plt.cm.ScalarMappable(scale, "YlOrRd")
    else:
        limit = max(float(np.nanmax(np.abs(effect[is_link]), initial=0)), 1e-9)
        shade, colors = effect, plt.cm.ScalarMappable(plt.Normalize(-limit, limit), "RdBu_r")
    order = np.flatnonzero(is_link)
    order = order[np.argsort(np.abs(shade[order]), kind="stable")] if has_score else order
    middle = ((table["start"] + table["end"]) / 2).to_numpy()
    site = table["tss"].to_numpy(float)
    farthest = max(float(np.abs(middle - site).max(initial=0)), 1.0)
    for i in [*np.flatnonzero(~is_link)[:MAX_GREY_ARCS], *order]:
        # Height of the control points; the curve peaks at three quarters of it
        height = 0.25 + 1.5 * abs(middle[i] - site[i]) / farthest
        ends = [(middle[i], 0), (middle[i], height), (site[i], height), (site[i], 0)]
        width = (0.8 + 2 * shade[i] if has_score else 1.6) if is_link[i] else 0.5
        color = colors.to_rgba(shade[i]) if is_link[i] else "0.85"
        arc = PathPatch(Curve(ends, [1, 4, 4, 4]), fill=False, edgecolor=color, lw=width)
        arc.set_zorder(2 + is_link[i])
        ax.add_patch(arc)
    ax.set(ylim=(-0.16, 1.4), yticks=[])
    if is_link.any():
        bar = figure.colorbar(colors, ax=ax, shrink=0.8, pad=0.01)
        bar.set_label("score" if has_score else "effect", fontsize="small")
        bar.ax.tick_params(labelsize="x-small")


def score_of(table: pd.DataFrame) -> np.ndarray:
    """The column `score`, NaN in tables without it."""
    if "score" not in table.columns:
        return np.full(len(table), np.nan)
    return pd.to_numeric(table["score"], errors="coerce").to_numpy(float)


def draw_peaks(ax: Any, peaks: pd.DataFrame, linked: set[tuple[int, int]], region: Region) -> None:
    """Boxes of peaks below the arcs, dark where linked."""
    width = np.maximum(peaks["end"] - peaks["start"], (region.end - region.start) / 500)
    is_linked = [span in linked for span in zip(peaks["start"], peaks["end"], strict=True)]
    spans = list(zip(peaks["start"], width, strict=True))
    colors = ["0.15" if each else "0.7" for each in is_linked]
    ax.broken_barh(spans, (PEAK_ROW - 0.04, 0.08), facecolors=colors, linewidth=0)


def draw_signal(axes: list[Any], signal: Signal, colors: dict[str, str], region: Region) -> None:
    """One track for each group, all with the same limit, which is written once."""
    top = max(float(np.nanmax(signal.values.to_numpy(), initial=0)), 1e-3)
    width = np.maximum(signal.end - signal.start, (region.end - region.start) / 400)
    for ax, name in zip(axes, signal.values.columns, strict=True):
        values = signal.values[name].to_numpy()
        if signal.unit == "of cells":
            middle = (signal.start + signal.end) / 2
            ax.bar(middle, values, width=width, color=colors[name])
        else:
            edges = np.append(signal.start, signal.end[-1])
            ax.stairs(values, edges, fill=True, color=colors[name], lw=0)
        ax.set(ylim=(0, top), yticks=[])
        ax.set_ylabel(name, rotation=0, ha="right", va="center", fontsize="small")
    style = {"ha": "right", "va": "bottom", "fontsize": "x-small", "color": "0.3"}
    shown = f"{top:,.0f}" if top >= 100 else f"{top:.2g}"
    text = f"0–{shown} {signal.unit}"
    axes[0].annotate(text, (1, 1), xycoords="axes fraction", **style)


def finish(axes: Any, region: Region) -> None:
    """Axis of positions, and no frames."""
    for ax in axes:
        ax.spines[["top", "right", "left"]].set_visible(False)
        ax.tick_params(length=0)
        ax.spines["bottom"].set(color="0.7", linewidth=0.6)
    last = axes[-1]
    last.spines["bottom"].set(color="black", linewidth=0.8)
    last.tick_params(axis="x", length=3, labelsize="small")
    last.set(yticks=[], xlim=(region.start, region.end), xlabel=f"{region.chrom} (kb)")
    last.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:,.10g}")
