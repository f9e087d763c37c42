"""``ep.pl.links``: a gene, the peaks around it, and which of them are linked to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .._keys import Keys
from .._memory import in_memory
from .._validate import Data, get_atac, get_matrix, obs_column, one_of
from ..genome import overlaps, parse_intervals, read_genes, read_intervals

ROW = 0.42  # inches a group
MOST_ARCS = 200


def links(
    data: Data,
    *,
    gene: str,
    group: str | None = None,
    groupby: str | None = None,
    region: str | None = None,
    annotation: str | Path | pd.DataFrame | None = None,
    max_qvalue: float = 0.1,
    modality: str = "atac",
    key_added: str | None = None,
    figure: Any = None,
) -> Any:
    """Draw a genome track: arcs from peaks to the transcription start site, accessibility by group of cells, and genes.

    Arcs of links are coloured by their effect, red where the gene is expressed more with the peak open; other peaks that were tested have thin
    grey ones. Bars are the fraction of the cells of a group in which a peak is open.

    Parameters
    ----------
    data
        A MuData or AnnData after :func:`epifoundation.tl.link_peaks`.
    gene
        Whose links to draw.
    group
        Group of cells that links were sought in; None where there was one.
    groupby
        Column of ``obs`` whose groups have a track each; None: one track of all cells.
    region
        What to draw, such as ``"chr1:1000-500000"``; None: from the first to the last link, or to the last peak that was tested where there is none.
    annotation
        Genes to draw: see :func:`epifoundation.genome.read_genes`. None: the transcription start site alone.
    max_qvalue
        Up to which a pair is a link.
    modality
        Name of the ATAC modality.
    key_added
        What ``link_peaks`` was given.
    figure
        Matplotlib figure or subfigure to draw into; None makes one.

    Returns
    -------
    The axes, from above: arcs, groups, genes.

    Raises
    ------
    ValueError
        There are no links yet, none of this gene or group, or no such column.

    Examples
    --------
    >>> import epifoundation as ep
    >>> mdata = ep.datasets.simulate_multiome(300, 600, 20)
    >>> model = ep.tl.pretrain(mdata)
    >>> ep.tl.link_peaks(mdata, model, genes="gene4", max_distance=50_000)
    >>> axes = ep.pl.links(mdata, gene="gene4", groupby="cell_type")
    """
    import matplotlib.pyplot as plt

    atac, keys = get_atac(data, modality), Keys.of(key_added)
    table = _table(atac.uns.get(keys.links), keys.links, gene, group)
    chrom, tss = table["chrom"].iloc[0], int(table["tss"].iloc[0])
    start, end = _window(table, chrom, tss, region, max_qvalue)
    groups = (
        pd.Series("all cells", index=atac.obs_names) if groupby is None else obs_column(data, atac, groupby, "groupby")
    )
    tracks = _accessibility(atac, groups, chrom, start, end)
    if figure is None:
        height = 1.9 + ROW * len(tracks.columns) + 0.75
        figure = plt.figure(figsize=(8, height), layout="constrained")
    ratios = [1.9, *[ROW] * len(tracks.columns), 0.6]
    axes = figure.subplots(len(ratios), 1, sharex=True, gridspec_kw={"height_ratios": ratios})

    _draw_arcs(axes[0], figure, table, tss, max_qvalue)
    axes[0].set_title(
        f"{gene}: {int((table['qvalue'] <= max_qvalue).sum())} links of {len(table)} peaks",
        fontsize="medium",
        loc="left",
    )
    top = max(float(np.nanmax(tracks.to_numpy(), initial=0)), 1e-3)
    colours = plt.get_cmap("tab20")(np.arange(len(tracks.columns)) % 20)
    for ax, name, colour in zip(axes[1:-1], tracks.columns, colours, strict=True):
        left, right = tracks.index.get_level_values("start"), tracks.index.get_level_values("end")
        width = np.maximum(right - left, (end - start) / 400)
        ax.bar((left + right) / 2, tracks[name], width=width, color=colour)
        ax.set(ylim=(0, top), yticks=[])
        ax.tick_params(length=0)
        ax.set_ylabel(name, rotation=0, ha="right", va="center", fontsize="small")
        ax.spines[["top", "right", "left"]].set_visible(False)
    axes[1].text(
        1, 1, f"0-{top:.2g} of the cells", transform=axes[1].transAxes, ha="right", va="bottom", fontsize="x-small"
    )
    _draw_genes(axes[-1], annotation, gene, chrom, tss, start, end)
    axes[-1].set(xlim=(start, end), xlabel=f"{chrom} (kb)")
    axes[-1].xaxis.set_major_formatter(lambda value, _: f"{value / 1000:,.0f}")
    return axes


def _table(links: pd.DataFrame | None, key: str, gene: str, group: str | None) -> pd.DataFrame:
    """The pairs of one gene in one group."""
    if links is None:
        msg = f"No links in `uns[{key!r}]`: run `epifoundation.tl.link_peaks` first."
        raise ValueError(msg)
    one_of(gene, sorted(links["gene"].astype(str).unique()), "gene")
    table = links[links["gene"].astype(str) == gene]
    groups = sorted(table["group"].astype(str).unique())
    if group is None and len(groups) > 1:
        msg = f"Links were sought in several groups: pass `group`, one of {groups}."
        raise ValueError(msg)
    if group is not None:
        one_of(group, groups, "group")
        table = table[table["group"].astype(str) == group]
    return table


def _window(table: pd.DataFrame, chrom: str, tss: int, region: str | None, max_qvalue: float) -> tuple[int, int]:
    if region is not None:
        asked = parse_intervals([region]).iloc[0]
        if asked["chrom"] != chrom:
            msg = f"`region={region!r}` is on {asked['chrom']}, the gene is on {chrom}."
            raise ValueError(msg)
        return int(asked["start"]), int(asked["end"])
    shown = table[table["qvalue"] <= max_qvalue]
    shown = shown if len(shown) else table
    low, high = min(shown["start"].min(), tss), max(shown["end"].max(), tss)
    room = max(int(0.08 * (high - low)), 2_000)
    return max(int(low) - room, 0), int(high) + room


def _accessibility(atac: Any, groups: pd.Series, chrom: str, start: int, end: int) -> pd.DataFrame:
    """Fraction of the cells of each group in which the peaks of a region are open: peaks x groups."""
    peaks = read_intervals(atac.var)
    here = overlaps(pd.DataFrame({"chrom": [chrom], "start": [start], "end": [end]}), peaks)[:, 1]
    is_open = in_memory(get_matrix(atac, None))[:, here] > 0
    codes, names = pd.factorize(groups.astype(str).where(groups.notna()), sort=True)
    shares = {
        str(name): np.asarray(is_open[np.flatnonzero(codes == i)].mean(axis=0), dtype=float).ravel()
        for i, name in enumerate(names)
    }
    return pd.DataFrame(shares, index=pd.MultiIndex.from_frame(peaks.iloc[here]))


def _draw_arcs(ax: Any, figure: Any, table: pd.DataFrame, tss: int, max_qvalue: float) -> None:
    import matplotlib.pyplot as plt
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Curve

    is_link = (table["qvalue"] <= max_qvalue).to_numpy()
    reach = max(float(table.loc[is_link, "effect"].abs().max()) if is_link.any() else 0, 1e-9)
    colours = plt.cm.ScalarMappable(plt.Normalize(-reach, reach), "RdBu_r")
    order = np.concatenate([np.flatnonzero(~is_link)[:MOST_ARCS], np.flatnonzero(is_link)])
    middle = ((table["start"] + table["end"]) / 2).to_numpy()
    farthest = max(float(np.abs(middle - tss).max(initial=0)), 1.0)
    for i in order:
        height = 0.25 + 1.5 * abs(middle[i] - tss) / farthest  # of the control points: the curve reaches three quarters
        curve = Curve([(middle[i], 0), (middle[i], height), (tss, height), (tss, 0)], [1, 4, 4, 4])
        colour = colours.to_rgba(table["effect"].iloc[i]) if is_link[i] else "0.85"
        ax.add_patch(PathPatch(curve, fill=False, edgecolor=colour, lw=2 if is_link[i] else 0.5, zorder=2 + is_link[i]))
    ax.set(ylim=(0, 1.4), yticks=[])
    ax.tick_params(length=0)
    ax.spines[["top", "right", "left"]].set_visible(False)
    if is_link.any():
        bar = figure.colorbar(colours, ax=ax, shrink=0.8, pad=0.01)
        bar.set_label("effect", fontsize="small")
        bar.ax.tick_params(labelsize="x-small")


def _draw_genes(ax: Any, annotation: Any, gene: str, chrom: str, tss: int, start: int, end: int) -> None:
    """Bodies with arrows along the strand; or the transcription start site."""
    ax.set(yticks=[])
    ax.spines[["top", "right", "left"]].set_visible(False)
    table = None if annotation is None else read_genes(annotation)
    here = None if table is None else table[(table["chrom"] == chrom) & (table["end"] > start) & (table["start"] < end)]
    if here is None or not len(here):
        ax.plot([tss], [0], marker="v", color="k", clip_on=False)
        ax.annotate(gene, (tss, 0), xytext=(6, 0), textcoords="offset points", va="center", fontsize="small")
        ax.set_ylim(-1, 1)
        return
    ends: list[float] = []  # of what was drawn in each row
    for name, row in here.sort_values("start").iterrows():
        left, right = max(row["start"], start), min(row["end"], end)
        space = (end - start) * 0.013 * (len(str(name)) + 2)
        to_left = right + space > end  # the name goes where there is room
        level = next((i for i, taken in enumerate(ends) if taken < left - space * to_left), len(ends))
        ends[level : level + 1] = [right + space]
        colour = "k" if name == gene else "0.5"
        ax.plot([left, right], [-level, -level], color=colour, lw=3, solid_capstyle="butt")
        arrow = {"+": ">", "-": "<"}.get(row["strand"])
        if arrow:
            ax.plot([right if arrow == ">" else left], [-level], marker=arrow, color=colour, ms=6, clip_on=False)
        x, offset, side = (left, -7, "right") if to_left else (right, 7, "left")
        ax.annotate(
            str(name), (x, -level), xytext=(offset, 0), textcoords="offset points", va="center", ha=side, fontsize="x-small",
            color=colour, fontweight="bold" if name == gene else "normal", clip_on=True,
        )  # fmt: skip
    ax.set_ylim(-len(ends) + 0.3, 0.7)
