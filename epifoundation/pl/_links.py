"""``ep.pl.links``: a locus with the links of genes, peaks, and the signal of groups of cells."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from .._docs import documented
from .._keys import Keys
from .._link_table import links_of, passes
from .._validate import Data, get_atac, obs_column, one_of
from ..genome import detect_build, parse_intervals, read_exons, read_genes, read_intervals
from ..genome._named import check_genome
from ._gene_models import draw_genes, draw_site, rows_of
from ._locus import draw_arcs, draw_peaks, draw_signal, finish
from ._palette import label_colors
from ._signal import Region, check_region, signal_of_fragments, signal_of_peaks, signal_of_tracks

# Inches
ARCS_HEIGHT, TRACK_HEIGHT, GENES_HEIGHT, GENE_HEIGHT, AXIS_HEIGHT = 1.9, 0.42, 0.2, 0.28, 0.5


@documented
def links(
    data: Data,
    *,
    gene: str | None = None,
    group: str | None = None,
    groupby: str | None = None,
    region: str | None = None,
    annotation: str | Path | pd.DataFrame | None = None,
    tracks: Mapping[str, str | Path] | None = None,
    fragments: str | Path | Mapping[str, str | Path] | None = None,
    max_qvalue: float | None = 0.1,
    min_score: float | None = None,
    modality: str = "atac",
    key_added: str | None = None,
    figure: Any = None,
) -> Any:
    """Plot a locus: peak-gene links, peaks, the signal of groups of cells, and genes.

    Arcs connect linked peaks and transcription start sites; other tested peaks have thin grey arcs.
    If the links have scores, these are the width and the colour of arcs; else arcs are coloured by
    effect, red if expression is higher with the peak open. Boxes below are the peaks, dark if
    linked. The tracks of all groups have the same scale, which is written above the first.

    Parameters
    ----------
    data
        A MuData or AnnData after :func:`epifoundation.tl.link_peaks`.
    gene
        Gene whose links are shown; if None, the links of all genes in `region`.
    group
        Group of cells whose links are shown; None if only one was tested.
    groupby
        Column of ``obs`` with groups of cells, one track each; if None, one track of all cells.
        With `tracks`, the column whose colours are used.
    region
        Region such as ``"chr1:1000-500000"``; if None, from the first to the last link of `gene`
        or, without links, tested peak.
    annotation
        Gene annotation: a file, a table, or a name such as ``"hg38"``
        (:func:`epifoundation.genome.read_genes`). Exons are drawn if it has them: GTF, GFF3, BED12
        or a name. They are the union over all transcripts, thick where coding. If None, only the
        transcription start sites are shown.
    tracks
        BigWig file of each group, as :func:`epifoundation.pp.group_coverage` returns them: their
        coverage is shown. Needs ``pip install 'epifoundation[tracks]'``.
    fragments
        A fragments file, or a mapping from samples to files: the cuts of each group are shown, per
        1,000 bases and 1,000 cells. With an index (``.tbi``) only the region is read, else the
        whole file. Without `tracks` and `fragments`, the fraction of the cells of each group in
        which a peak is open is shown.
    max_qvalue
        Maximum q-value of a link; if None, q-values do not matter.
    min_score
        Minimum ``score`` of a link, its probability; if None, scores do not matter. Where no pair
        has a small q-value, as in a single cell type, pass ``max_qvalue=None, min_score=0.3``.
    {modality}
    {results_key}
    {figure}

    Returns
    -------
    The axes from top to bottom: arcs, groups, genes.

    Raises
    ------
    FileNotFoundError
        A file does not exist.
    ValueError
        There are no links of the gene or group, or the column does not exist; the region is empty
        or past the end of its chromosome; or a file is not of the expected format, or of another
        genome build than the peaks.

    Examples
    --------
    >>> import epifoundation as ep
    >>> mdata = ep.datasets.simulate_multiome(300, 600, 20)
    >>> model = ep.tl.pretrain(mdata)
    >>> ep.tl.link_peaks(mdata, model, genes="gene4", max_distance=50_000)
    >>> axes = ep.pl.links(mdata, gene="gene4", groupby="cell_type")
    """
    import matplotlib.pyplot as plt

    if tracks is not None and fragments is not None:
        msg = "Pass `tracks` or `fragments`, not both."
        raise ValueError(msg)
    atac, keys = get_atac(data, modality), Keys.of(key_added)
    table = _table(links_of(data, modality, key_added), gene, group)
    is_link = passes(table, max_qvalue=max_qvalue, min_score=min_score)
    here = _region(table, gene, region, is_link)
    peaks = read_intervals(atac.var)
    builds = detect_build(peaks)
    check_region(here, builds)
    is_near = (peaks["chrom"] == here.chrom) & (peaks["end"] > here.start)
    peaks_here = peaks[is_near & (peaks["start"] < here.end)]
    groups = pd.Series("all cells", index=atac.obs_names)
    if groupby is not None:
        groups = obs_column(data, atac, groupby, "groupby")
        if not groups.notna().any():
            msg = f"`groupby={groupby!r}` has no values: no cell is in a group."
            raise ValueError(msg)
    genes, exons = _annotation(annotation, here, peaks)
    if tracks is not None:
        signal = signal_of_tracks(tracks, here, builds)
    elif fragments is not None:
        signal = signal_of_fragments(fragments, groups, here)
    else:
        signal = signal_of_peaks(atac, peaks, groups, here)
    if gene is None:
        table = _in_region(table, here)
    is_link = passes(table, max_qvalue=max_qvalue, min_score=min_score)
    shown = {gene} if gene else set(table.loc[is_link, "gene"].astype(str))
    rows = {} if genes is None else rows_of(genes, here, shown)

    heights = [ARCS_HEIGHT, *[TRACK_HEIGHT] * len(signal.values.columns)]
    heights.append(GENES_HEIGHT + GENE_HEIGHT * (1 + max(rows.values(), default=0)))
    if figure is None:
        figure = plt.figure(figsize=(8, sum(heights) + AXIS_HEIGHT), layout="constrained")
    options = {"sharex": True, "gridspec_kw": {"height_ratios": heights}}
    axes = figure.subplots(len(heights), 1, **options)
    linked = set(zip(table["start"][is_link], table["end"][is_link], strict=True))
    draw_arcs(axes[0], figure, table, is_link.to_numpy())
    draw_peaks(axes[0], peaks_here, linked, here)
    what = gene or f"{here.chrom}:{here.start:,}-{here.end:,}"
    title = f"{what}: {int(is_link.sum())} links of {len(table)} {'peaks' if gene else 'pairs'}"
    axes[0].set_title(title, fontsize="medium", loc="left")
    colors = label_colors(atac, keys, signal.values.columns, groupby)
    draw_signal(list(axes[1:-1]), signal, colors, here)
    if genes is not None:
        draw_genes(axes[-1], genes, exons, rows, here, shown)
    sites = dict(zip(table["gene"].astype(str), table["tss"], strict=True))
    for name in sorted(shown & sites.keys() - rows.keys()):
        if here.start <= sites[name] < here.end:
            draw_site(axes[-1], name, int(sites[name]), is_alone=not rows)
    finish(axes, here)
    return axes


def _table(links: pd.DataFrame, gene: str | None, group: str | None) -> pd.DataFrame:
    """The tested pairs in a group of cells, of a gene or of all."""
    table = links
    if gene is not None:
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


def _region(
    table: pd.DataFrame, gene: str | None, region: str | None, is_link: pd.Series
) -> Region:
    """The region to show."""
    if region is not None:
        try:
            found = Region(*parse_intervals([region]).iloc[0])
        except ValueError as error:
            msg = f"`region={region!r}` must be a region such as 'chr1:1000-500000', with a start "
            msg += "before its end."
            raise ValueError(msg) from error
        chrom = found.chrom if gene is None else table["chrom"].iloc[0]
        if found.chrom != chrom:
            msg = f"`region={region!r}` is on {found.chrom}, but the gene is on {chrom}."
            raise ValueError(msg)
        return Region(found.chrom, int(found.start), int(found.end))
    if gene is None:
        msg = "Pass `gene`, `region` such as 'chr1:1000-500000', or both."
        raise ValueError(msg)
    shown = table[is_link]
    shown, tss = shown if len(shown) else table, table["tss"].iloc[0]
    low, high = min(shown["start"].min(), tss), max(shown["end"].max(), tss)
    margin = max(int(0.08 * (high - low)), 2_000)
    return Region(table["chrom"].iloc[0], max(int(low) - margin, 0), int(high) + margin)


def _in_region(table: pd.DataFrame, region: Region) -> pd.DataFrame:
    """Pairs with the peak and the transcription start site in a region, or one of them."""
    is_peak = (table["end"] > region.start) & (table["start"] < region.end)
    is_site = (table["tss"] >= region.start) & (table["tss"] < region.end)
    return table[(table["chrom"] == region.chrom) & (is_peak | is_site)]


def _annotation(
    annotation: str | Path | pd.DataFrame | None, region: Region, peaks: pd.DataFrame
) -> tuple[pd.DataFrame | None, pd.DataFrame | None]:
    """Genes, and their exons in a region if the annotation has any."""
    if annotation is None:
        return None, None
    genes = read_genes(annotation)
    check_genome(genes, peaks)
    if isinstance(annotation, pd.DataFrame):
        return genes, None
    exons = read_exons(annotation, region="{}:{}-{}".format(*region))
    return genes, exons
