"""The interactive genome view of the report: links, peaks, genes and open cells of some loci."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData

from ..genome import BUILDS, detect_build, overlaps, read_genes, read_intervals
from ..genome._chromosome_lengths import chromosome_lengths
from ._signal import accessibility_of

IGV = Path(__file__).parent / "igv"  # igv.js, compressed, and its license
MAX_LOCI = 12
MAX_WINDOW = 1_000_000  # bases of a locus
MAX_ARCS = 1500
MAX_PEAKS = 3000
MAX_GROUPS = 15
MAX_GENES = 500
MIN_GROUP_CELLS = 10  # fractions of fewer cells are 0 or 1, and would set the scale
MARGIN = 0.08  # of a locus, on both sides
MAX_QVALUE = 0.1
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
    atac: AnnData, rna: AnnData | None, links: pd.DataFrame, groups: pd.Series
) -> GenomeView | None:
    """The view of the genes with the best links; None if no pair was tested.

    Parameters
    ----------
    links
        The table of :func:`epifoundation.tl.link_peaks`.
    groups
        Group of each cell; the largest ones have a track each.
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
    sizes = groups.value_counts().sort_index(kind="stable").sort_values(ascending=False)
    sizes = sizes[sizes >= min(MIN_GROUP_CELLS, sizes.max())]
    shown = sorted(sizes.index[:MAX_GROUPS])
    open_in = accessibility_of(atac, peaks, groups.where(groups.isin(shown)), regions)
    top = float(np.nanmax(open_in.to_numpy(), initial=0)) or 1.0
    data = {
        "genome": _genome(peaks, regions["chrom"].unique()),
        "loci": [
            (f"{row.gene}, links: {row.links}", f"{row.chrom}:{row.start + 1}-{row.end}")
            for row in loci.itertuples()
        ],
        "arcs": [*_arcs(arcs)],
        "arcs_name": "Links by score" if _has_score(arcs) else "Links by effect",
        "peaks": [[str(chrom), int(start), int(end)] for chrom, start, end in open_in.index],
        "genes": _genes(rna, arcs, regions),
        "groups": {str(name): open_in[name].round(3).tolist() for name in open_in.columns},
        "top": round(top, 3),
    }
    code = base64.b64encode((IGV / "igv.min.js.gz").read_bytes()).decode()
    return GenomeView(data, code, (IGV / "LICENSE").read_text(encoding="utf-8"))


def rank_links(links: pd.DataFrame) -> pd.DataFrame:
    """The best links first: by score if they have one, else by q- and p-value."""
    columns = ["qvalue", "pvalue"]
    if not _has_score(links):
        return links.sort_values(columns, kind="stable")
    ascending = [False, True, True]
    return links.sort_values(["score", *columns], ascending=ascending, kind="stable")


def _has_score(links: pd.DataFrame) -> bool:
    return "score" in links and links["score"].notna().any()


def _loci(ranked: pd.DataFrame, peaks: pd.DataFrame) -> pd.DataFrame:
    """Genes with the best links, and the region of each from its first to its last link."""
    rows: list[tuple[str, str, int, int, int]] = []
    n_peaks = 0
    for gene in ranked["gene"].astype(str).unique()[:MAX_LOCI]:
        table = ranked[ranked["gene"].astype(str) == gene]
        is_link = table["qvalue"] <= MAX_QVALUE
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
    heights = (links["score"] if _has_score(links) else links["effect"].abs()).fillna(0)
    signs = np.where(links["effect"] < 0, BLUE, RED)
    is_link = (links["qvalue"] <= MAX_QVALUE).to_numpy()
    colours = np.where(is_link, signs, GREY)
    columns = ("chrom", "start", "end", "tss", "gene", "group", "effect", "qvalue")
    values = zip(*(links[name] for name in columns), heights, colours, is_link, strict=True)
    return [
        [str(chrom), int(start), int(end), int(tss), round(float(height), 4), str(colour),
         f"{gene}, {group}: effect {effect:.3g}, q {q:.2g}", bool(linked)]
        for chrom, start, end, tss, gene, group, effect, q, height, colour, linked in values
    ]  # fmt: skip


def _genes(rna: AnnData | None, links: pd.DataFrame, regions: pd.DataFrame) -> list[list[Any]]:
    """Genes in the regions, if their positions are known; else the sites of the linked ones."""
    sites = links.drop_duplicates("gene")
    known = [
        [str(chrom), int(tss), int(tss) + 1, str(gene), "."]
        for chrom, tss, gene in zip(sites["chrom"], sites["tss"], sites["gene"], strict=True)
    ]
    if rna is None:
        return known
    try:
        genes = read_genes(rna.var)
    except ValueError:  # no positions
        return known
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
