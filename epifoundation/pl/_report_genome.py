"""The interactive genome view of the report: links, peaks, genes and open cells of some loci."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData

from ..genome import BUILDS, detect_build, overlaps, read_genes, read_intervals
from ..genome._chromosome_lengths import chromosome_lengths
from ._signal import Region, accessibility_of, signal_of_tracks

IGV = Path(__file__).parent / "igv"  # igv.js, compressed, and its license
MAX_LOCI = 12
MAX_WINDOW = 1_000_000  # bases of a locus
MAX_ARCS = 1500
MAX_PEAKS = 3000
MAX_GROUPS = 15
MAX_GENES = 500
MIN_GROUP_CELLS = 10  # fractions of fewer cells are 0 or 1, and would set the scale
MARGIN = 0.08  # of a locus, on both sides
MAX_QVALUE, MIN_SCORE = 0.1, 0.5  # of pairs that are shown as links: one is enough
RED, BLUE, GREY = "#b2182b", "#2166ac", "#bbbbbb"  # activating, repressing, not significant


class GenomeView(NamedTuple):
    """Data of the view, and the code of igv.js as gzip in base64."""

    data: dict[str, Any]
    code: str
    license: str
    kind: str = "genome"

    @property
    def loci(self) -> list[tuple[str, str]]:
        """Names of the loci and their places."""
        return self.data["loci"]


def genome_view(
    atac: AnnData,
    links: pd.DataFrame,
    groups: pd.Series,
    annotation: Any,
    tracks: Mapping[str, Any] | None,
) -> GenomeView | None:
    """The view of the genes with the best links; None if no pair was tested.

    Parameters
    ----------
    links
        The table of :func:`epifoundation.tl.link_peaks`.
    groups
        Group of each cell; the largest ones have a track each.
    annotation
        Gene annotation, or None.
    tracks
        BigWig file of each group, which are then shown instead of open peaks.
    """
    ranked = rank_links(links)
    ranked = ranked[ranked["pvalue"].notna()].drop_duplicates(["gene", "peak"])
    if not len(ranked):
        return None
    peaks = read_intervals(atac.var)
    loci = _loci(ranked, peaks)
    regions = loci[["chrom", "start", "end"]]
    is_here = ranked["gene"].isin(loci["gene"]).to_numpy()
    arcs = ranked[is_here].head(MAX_ARCS)
    signal = _open_peaks(atac, peaks, groups, regions)
    shown_peaks = _places(signal)
    if tracks is not None:
        signal = _coverage(tracks, regions, detect_build(peaks))
    top = float(np.nanmax(signal.to_numpy(), initial=0)) or 1.0
    data = {
        "genome": _genome(peaks, regions["chrom"].unique()),
        "loci": [
            (f"{row.gene}, links: {row.links}", f"{row.chrom}:{row.start + 1}-{row.end}")
            for row in loci.itertuples()
        ],
        "arcs": [*_arcs(arcs)],
        "arcs_name": "Links by score" if has_score(arcs) else "Links by effect",
        "peaks": shown_peaks,
        "genes": _genes(annotation, arcs, regions),
        "places": _places(signal),
        "groups": {str(name): signal[name].round(3).tolist() for name in signal.columns},
        "unit": "fraction of the cells with an open peak" if tracks is None else "coverage",
        "top": round(top, 3),
    }
    code = base64.b64encode((IGV / "igv.min.js.gz").read_bytes()).decode()
    return GenomeView(data, code, (IGV / "LICENSE").read_text(encoding="utf-8"))


def _open_peaks(
    atac: AnnData, peaks: pd.DataFrame, groups: pd.Series, regions: pd.DataFrame
) -> pd.DataFrame:
    """Fraction of cells with an open peak, peaks x largest groups."""
    sizes = groups.value_counts().sort_index(kind="stable").sort_values(ascending=False)
    sizes = sizes[sizes >= min(MIN_GROUP_CELLS, sizes.max())]
    shown = groups.where(groups.isin(sizes.index[:MAX_GROUPS]))
    return accessibility_of(atac, peaks, shown, regions)


def _coverage(tracks: Mapping[str, Any], regions: pd.DataFrame, builds: list[str]) -> pd.DataFrame:
    """Mean coverage of bigWig files, bins x first groups; regions that overlap are joined."""
    shown = dict(list(tracks.items())[:MAX_GROUPS])
    parts = []
    for chrom, here in regions.sort_values("start").groupby("chrom"):
        reach = here["end"].cummax().shift(fill_value=0)
        for _, each in here.groupby((here["start"] > reach).cumsum()):
            region = Region(str(chrom), int(each["start"].min()), int(each["end"].max()))
            found = signal_of_tracks(shown, region, builds)
            place = pd.DataFrame({"chrom": chrom, "start": found.start, "end": found.end})
            parts.append(found.values.set_axis(pd.MultiIndex.from_frame(place)))
    return pd.concat(parts)


def _places(table: pd.DataFrame) -> list[list[Any]]:
    return [[str(chrom), int(start), int(end)] for chrom, start, end in table.index]


def rank_links(links: pd.DataFrame) -> pd.DataFrame:
    """The best links first: by score if they have one, else by q- and p-value."""
    columns = ["qvalue", "pvalue"]
    if not has_score(links):
        return links.sort_values(columns, kind="stable")
    ascending = [False, True, True]
    return links.sort_values(["score", *columns], ascending=ascending, kind="stable")


def has_score(links: pd.DataFrame) -> bool:
    """Whether a table of links has scores."""
    return "score" in links and links["score"].notna().any()


def is_shown(links: pd.DataFrame) -> pd.Series:
    """Whether pairs are shown as links: by their q-value or their score."""
    found = links["qvalue"] <= MAX_QVALUE
    return found | (links["score"] >= MIN_SCORE) if has_score(links) else found


def _loci(ranked: pd.DataFrame, peaks: pd.DataFrame) -> pd.DataFrame:
    """Genes with the best links, and the region of each from its first to its last link."""
    rows: list[tuple[str, str, int, int, int]] = []
    n_peaks = 0
    for gene in ranked["gene"].astype(str).unique()[:MAX_LOCI]:
        table = ranked[ranked["gene"].astype(str) == gene]
        is_link = is_shown(table)
        table = table[is_link] if is_link.any() else table
        chrom, tss = str(table["chrom"].iloc[0]), int(table["tss"].iloc[0])
        low, high = min(int(table["start"].min()), tss), max(int(table["end"].max()), tss)
        margin = max(int(MARGIN * (high - low)), 2_000)
        low = max(low - margin, tss - MAX_WINDOW // 2, 0)
        high = min(high + margin, tss + MAX_WINDOW // 2)
        region = pd.DataFrame({"chrom": [chrom], "start": [low], "end": [high]})
        n_peaks += len(overlaps(region, peaks))
        if rows and n_peaks > MAX_PEAKS:
            break
        rows.append((gene, chrom, low, high, int(is_link.sum())))
    return pd.DataFrame(rows, columns=["gene", "chrom", "start", "end", "links"])


def _arcs(links: pd.DataFrame) -> list[list[Any]]:
    """Chromosome, peak, start site, height, colour, text of each, and whether it is a link."""
    heights = (links["score"] if has_score(links) else links["effect"].abs()).fillna(0)
    name = "score" if has_score(links) else "size"
    signs = np.where(links["effect"] < 0, BLUE, RED)
    is_link = is_shown(links).to_numpy()
    colours = np.where(is_link, signs, GREY)
    columns = ("chrom", "start", "end", "tss", "gene", "group", "effect", "qvalue")
    values = zip(*(links[name] for name in columns), heights, colours, is_link, strict=True)
    return [
        [str(chrom), int(start), int(end), int(tss), round(float(height), 4), str(colour),
         f"{gene}, {group}: {name} {height:.3g}, effect {effect:.3g}, q {q:.2g}", bool(linked)]
        for chrom, start, end, tss, gene, group, effect, q, height, colour, linked in values
    ]  # fmt: skip


def has_positions(var: pd.DataFrame) -> bool:
    """Whether a table of genes has their positions."""
    try:
        read_genes(var)
    except ValueError:
        return False
    return True


def _genes(annotation: Any, links: pd.DataFrame, regions: pd.DataFrame) -> list[list[Any]]:
    """Genes in the regions, if their positions are known; else the sites of the linked ones."""
    sites = links.drop_duplicates("gene")
    known = [
        [str(chrom), int(tss), int(tss) + 1, str(gene), "."]
        for chrom, tss, gene in zip(sites["chrom"], sites["tss"], sites["gene"], strict=True)
    ]
    if annotation is None:
        return known
    genes = read_genes(annotation)
    here = np.unique(overlaps(genes.reset_index(drop=True), regions)[:, 0])[:MAX_GENES]
    genes = genes.iloc[here]
    columns = (genes["chrom"], genes["start"], genes["end"], genes.index, genes["strand"])
    found = [
        [str(chrom), int(start), int(end), str(name), str(strand)]
        for chrom, start, end, name, strand in zip(*columns, strict=True)
    ]
    names = {row[3] for row in found}
    return [*found, *(row for row in known if row[3] not in names)]


def _genome(peaks: pd.DataFrame, chroms: np.ndarray) -> dict[str, Any]:
    """Name of the build, if it is known, and lengths of chromosomes."""
    builds = detect_build(peaks)
    name = builds[0] if len(builds) == 1 else "genome"
    known = chromosome_lengths(name) if name in BUILDS else {}
    ends = peaks.groupby("chrom")["end"].max()
    return {
        "name": name,
        "lengths": {str(one): int(known.get(one, ends.get(one, 0) + 10_000)) for one in chroms},
    }
