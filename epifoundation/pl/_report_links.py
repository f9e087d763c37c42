"""Links in the report: a table, a picture of the best gene, and the interactive genome view."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd
from anndata import AnnData

from .._validate import Data, obs_column
from ._links import links as draw_links
from ._report_genome import MAX_QVALUE, MIN_SCORE, genome_view, has_positions, has_score, rank_links
from ._report_page import Block, Paragraph, Picture, table

MAX_LINKS = 300
NEEDED = ("chrom", "start", "end", "tss", "gene", "group", "effect", "pvalue", "qvalue")


def link_blocks(
    data: Data,
    atac: AnnData,
    rna: AnnData | None,
    groupby: str | None,
    links: pd.DataFrame,
    options: dict[str, Any],
    plot: Callable[..., Picture | Paragraph],
) -> list[Block]:
    """The links, and if cells have peaks, a picture and the view of the best ones."""
    summary, top = link_tables(links)
    found: list[Block] = [summary]
    has_places = set(NEEDED) <= set(links.columns) and atac.X is not None and atac.n_vars > 0
    tested = rank_links(links[links["pvalue"].notna()])
    if not has_places or not len(tested):
        return [summary, top]
    best = tested.iloc[0]
    gene, group = str(best["gene"]), str(best["group"])
    by_score = not (tested["qvalue"] <= MAX_QVALUE).any() and has_score(tested)
    limits: dict[str, Any] = {"max_qvalue": None, "min_score": MIN_SCORE} if by_score else {}
    draw = partial(draw_links, data, gene=gene, group=group, groupby=groupby, **limits, **options)
    alt = f"Arcs of the links of {gene} above tracks of groups of cells"
    caption = (
        "The gene with the best link. Colour and width of arcs are the score, if there is one."
    )
    found.append(plot(lambda: draw()[0].figure, alt, caption))
    groups = pd.Series("all cells", index=atac.obs_names)
    if groupby is not None:
        groups = obs_column(data, atac, groupby, "groupby")
        groups = groups.astype(str).where(groups.notna())
    try:
        genes = options["annotation"]
        if genes is None and rna is not None and has_positions(rna.var):
            genes = rna.var
        view = genome_view(atac, links, groups, genes, options["tracks"])
    except ValueError as error:
        return [*found, Paragraph(f"No genome view: {error}", is_note=True), top]
    return [*found, *([] if view is None else [view]), top]


def link_tables(links: pd.DataFrame) -> list[Block]:
    """How many pairs were tested, and the best of them."""
    ranked = rank_links(links)
    columns = ("gene", "peak", "group", "distance", "score", "pip", "effect", "pvalue", "qvalue")
    ranked = ranked[[name for name in columns if name in ranked]]
    n_tested, n_links = links["qvalue"].notna().sum(), (links["qvalue"] <= 0.1).sum()
    n_groups = links["group"].nunique()
    within = f" in {n_groups} groups of cells" if n_groups > 1 else ""
    summary = f"{n_tested:,} peak-gene pairs were tested{within}; {n_links:,} have q ≤ 0.1."
    top = table(ranked.head(MAX_LINKS), f"Top {min(MAX_LINKS, len(ranked)):,} pairs")
    return [Paragraph(summary), top]
