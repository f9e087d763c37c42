"""``ep.pl.links``: genome track of the links of a gene."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .._docs import documented
from .._keys import Keys
from .._memory import in_memory
from .._validate import Data, get_atac, get_matrix, obs_column, one_of
from ..genome import overlaps, parse_intervals, read_genes, read_intervals
from ..genome._named import check_genome

TRACK_HEIGHT = 0.42  # inches
MAX_GREY_ARCS = 200


@documented
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
    """Plot the peak-gene links of a gene as a genome track.

    Arcs connect linked peaks and the transcription start site. They are coloured by effect, red if
    expression is higher with the peak open; other tested peaks have thin grey arcs. Bars below show
    the fraction of the cells of each group in which a peak is open.

    Parameters
    ----------
    data
        A MuData or AnnData after :func:`epifoundation.tl.link_peaks`.
    gene
        Gene whose links are shown.
    group
        Group of cells whose links are shown; None if only one was tested.
    groupby
        Column of ``obs`` with groups of cells, one track each; if None, one track of all cells.
    region
        Region such as ``"chr1:1000-500000"``; if None, from the first to the last link or, without
        links, tested peak.
    annotation
        Gene annotation: a file, a table, or a name such as ``"hg38"``
        (:func:`epifoundation.genome.read_genes`). If None, only the transcription start site is
        shown.
    max_qvalue
        Maximum q-value of a link.
    {modality}
    {results_key}
    {figure}

    Returns
    -------
    The axes from top to bottom: arcs, groups, genes.

    Raises
    ------
    ValueError
        There are no links of the gene or group, or the column does not exist.

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
    groups = pd.Series("all cells", index=atac.obs_names)
    if groupby is not None:
        groups = obs_column(data, atac, groupby, "groupby")
    genes = None if annotation is None else read_genes(annotation)
    if genes is not None:
        check_genome(genes, read_intervals(atac.var))
    shown = pd.DataFrame({"chrom": [chrom], "start": [start], "end": [end]})
    tracks = accessibility_of(atac, groups, shown)
    if figure is None:
        height = 1.9 + TRACK_HEIGHT * len(tracks.columns) + 0.75
        figure = plt.figure(figsize=(8, height), layout="constrained")
    heights = [1.9, *[TRACK_HEIGHT] * len(tracks.columns), 0.6]
    options = {"sharex": True, "gridspec_kw": {"height_ratios": heights}}
    axes = figure.subplots(len(heights), 1, **options)

    _draw_arcs(axes[0], figure, table, tss, max_qvalue)
    n_links = int((table["qvalue"] <= max_qvalue).sum())
    title = f"{gene}: {n_links} links of {len(table)} peaks"
    axes[0].set_title(title, fontsize="medium", loc="left")
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
    style = {"ha": "right", "va": "bottom", "fontsize": "x-small"}
    axes[1].text(1, 1, f"0-{top:.2g} of cells", transform=axes[1].transAxes, **style)
    _draw_genes(axes[-1], genes, gene, chrom, tss, start, end)
    axes[-1].set(xlim=(start, end), xlabel=f"{chrom} (kb)")
    axes[-1].xaxis.set_major_formatter(lambda value, _: f"{value / 1000:,.0f}")
    return axes


def _table(links: pd.DataFrame | None, key: str, gene: str, group: str | None) -> pd.DataFrame:
    """The tested pairs of a gene in a group of cells."""
    if links is None:
        msg = f"No links in `uns[{key!r}]`: run `epifoundation.tl.link_peaks` first."
        raise ValueError(msg)
    one_of(gene, sorted(links["gene"].astype(str).unique()), "gene")
    table = links[links["gene"].astype(str) == gene]
    groups = sorted(table["group"].astype(str).unique())
    if group is None and len(groups) > 1:
        msg = f"Links were tested in several groups: pass `group=`, one of {groups}."
        raise ValueError(msg)
    if group is not None:
        one_of(group, groups, "group")
        table = table[table["group"].astype(str) == group]
    return table


def _window(
    table: pd.DataFrame, chrom: str, tss: int, region: str | None, max_qvalue: float
) -> tuple[int, int]:
    """Start and end of the region to show."""
    if region is not None:
        shown_chrom, start, end = parse_intervals([region]).iloc[0]
        if shown_chrom != chrom:
            msg = f"`region={region!r}` is on {shown_chrom}, but the gene is on {chrom}."
            raise ValueError(msg)
        return int(start), int(end)
    shown = table[table["qvalue"] <= max_qvalue]
    shown = shown if len(shown) else table
    low, high = min(shown["start"].min(), tss), max(shown["end"].max(), tss)
    margin = max(int(0.08 * (high - low)), 2_000)
    return max(int(low) - margin, 0), int(high) + margin


def accessibility_of(atac: Any, groups: pd.Series, regions: pd.DataFrame) -> pd.DataFrame:
    """Fraction of cells with an open peak, peaks in the regions x groups of cells."""
    peaks = read_intervals(atac.var)
    here = np.unique(overlaps(regions, peaks)[:, 1])
    matrix = get_matrix(atac, None)
    is_open = (in_memory(matrix) if atac.isbacked else matrix)[:, here] > 0
    codes, names = pd.factorize(groups.astype(str).where(groups.notna()), sort=True)
    tracks = {}
    for i, name in enumerate(names):
        fraction = is_open[np.flatnonzero(codes == i)].mean(axis=0)
        tracks[str(name)] = np.asarray(fraction, dtype=float).ravel()
    return pd.DataFrame(tracks, index=pd.MultiIndex.from_frame(peaks.iloc[here]))


def _draw_arcs(ax: Any, figure: Any, table: pd.DataFrame, tss: int, max_qvalue: float) -> None:
    import matplotlib.pyplot as plt
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Curve

    is_link = (table["qvalue"] <= max_qvalue).to_numpy()
    largest = float(table.loc[is_link, "effect"].abs().max()) if is_link.any() else 0
    limit = max(largest, 1e-9)
    colours = plt.cm.ScalarMappable(plt.Normalize(-limit, limit), "RdBu_r")
    order = np.concatenate([np.flatnonzero(~is_link)[:MAX_GREY_ARCS], np.flatnonzero(is_link)])
    middle = ((table["start"] + table["end"]) / 2).to_numpy()
    farthest = max(float(np.abs(middle - tss).max(initial=0)), 1.0)
    for i in order:
        # Height of the control points; the curve peaks at three quarters of it
        height = 0.25 + 1.5 * abs(middle[i] - tss) / farthest
        curve = Curve([(middle[i], 0), (middle[i], height), (tss, height), (tss, 0)], [1, 4, 4, 4])
        colour = colours.to_rgba(table["effect"].iloc[i]) if is_link[i] else "0.85"
        style = {"lw": 2 if is_link[i] else 0.5, "zorder": 2 + is_link[i]}
        ax.add_patch(PathPatch(curve, fill=False, edgecolor=colour, **style))
    ax.set(ylim=(0, 1.4), yticks=[])
    ax.tick_params(length=0)
    ax.spines[["top", "right", "left"]].set_visible(False)
    if is_link.any():
        bar = figure.colorbar(colours, ax=ax, shrink=0.8, pad=0.01)
        bar.set_label("effect", fontsize="small")
        bar.ax.tick_params(labelsize="x-small")


def _draw_genes(
    ax: Any, table: pd.DataFrame | None, gene: str, chrom: str, tss: int, start: int, end: int
) -> None:
    """Genes with arrows along the strand, or only the transcription start site."""
    ax.set(yticks=[])
    ax.spines[["top", "right", "left"]].set_visible(False)
    if table is not None:
        is_here = (table["chrom"] == chrom) & (table["end"] > start) & (table["start"] < end)
        table = table[is_here]
    label = {"textcoords": "offset points", "va": "center"}
    if table is None or not len(table):
        ax.plot([tss], [0], marker="v", color="k", clip_on=False)
        ax.annotate(gene, (tss, 0), xytext=(6, 0), fontsize="small", **label)
        ax.set_ylim(-1, 1)
        return
    ends: list[float] = []  # where the last gene of each row ends
    for name, row in table.sort_values("start").iterrows():
        left, right = max(row["start"], start), min(row["end"], end)
        space = (end - start) * 0.013 * (len(str(name)) + 2)
        to_left = right + space > end  # name on the left of the gene
        first = left - space * to_left
        level = next((i for i, taken in enumerate(ends) if taken < first), len(ends))
        ends[level : level + 1] = [right + space]
        colour = "k" if name == gene else "0.5"
        ax.plot([left, right], [-level, -level], color=colour, lw=3, solid_capstyle="butt")
        arrow = {"+": ">", "-": "<"}.get(row["strand"])
        if arrow:
            tip = right if arrow == ">" else left
            ax.plot([tip], [-level], marker=arrow, color=colour, ms=6, clip_on=False)
        x, offset, side = (left, -7, "right") if to_left else (right, 7, "left")
        ax.annotate(
            str(name),
            (x, -level),
            xytext=(offset, 0),
            ha=side,
            fontsize="x-small",
            color=colour,
            fontweight="bold" if name == gene else "normal",
            clip_on=True,
            **label,
        )
    ax.set_ylim(-len(ends) + 0.3, 0.7)
