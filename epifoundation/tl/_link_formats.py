"""Rows of a file with links, in each format; values are those of `value`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from .._link_table import PLACE, one_per_pair

type Row = tuple[Any, ...]
type Place = tuple[str, int, int]

TRACK = 'track type=interact name="Links" description="Peak-gene links" interactDirectional=true'
COLOURS = {1: "214,39,40", -1: "31,119,180", 0: "127,127,127"}  # as `ep.pl.links`: red, blue
MAX_SCORE = 1000  # of UCSC
SCENICPLUS = (
    "target",
    "region",
    "importance",
    "rho",
    "importance_x_rho",
    "importance_x_abs_rho",
    "Distance",
)


def bedpe(links: pd.DataFrame, value: str) -> Iterator[Row]:
    """BEDPE with the columns group and q-value."""
    columns = ("gene", "peak", value, "group", "qvalue")
    rows = zip(*_ends(links), *(links[name] for name in columns), strict=True)
    for peak, site, gene, name, number, group, q in rows:
        yield *peak, *site, f"{gene}|{name}", f"{number:.5g}", ".", ".", group, q


def longrange(links: pd.DataFrame, value: str) -> list[Row]:
    """Each link from both ends, sorted."""
    peaks, sites = _ends(links)
    rows = []
    for ends in ((peaks, sites), (sites, peaks)):
        for one, (chrom, start, end), number in zip(*ends, links[value], strict=True):
            rows.append((*one, f"{chrom}:{start}-{end},{number:.5g}"))
    return sorted(rows, key=lambda row: row[:3])


def interact(links: pd.DataFrame, value: str) -> Iterator[Row]:
    """Track of UCSC from the peak to the gene, sorted, with a line that names the track."""
    yield (TRACK,)
    size = links[value].abs()
    # Effects have no upper limit, probabilities have one
    scale = MAX_SCORE / (size.max() or 1) if value == "effect" else MAX_SCORE
    shown_as = (size * scale).clip(upper=MAX_SCORE).round().astype(int)
    columns = ("gene", "peak", value, "group")
    parts = (links[name] for name in columns)
    rows = []
    for peak, site, gene, name, number, group, score, sign in zip(
        *_ends(links), *parts, shown_as, _signs(links), strict=True
    ):
        (chrom, start, end), (_, tss, after) = peak, site
        source, target = _word(name), _word(gene)
        whole = (chrom, min(start, tss), max(end, after), f"{source}/{target}")
        shown = (score, f"{number:.5g}", _word(group), COLOURS[sign])
        rows.append((*whole, *shown, *peak, source, ".", *site, target, "."))
    yield from sorted(rows, key=lambda row: row[:3])


def scenicplus(links: pd.DataFrame, value: str) -> Iterator[Row]:
    """Region-to-gene adjacencies of SCENIC+, whose `rho` is the sign of the effect here."""
    yield SCENICPLUS
    links = one_per_pair(links)
    distance = _distances(links)
    importance, signs = links[value].abs(), _signs(links)
    for gene, (chrom, start, end), size, sign, bases in zip(
        links["gene"], _ends(links)[0], importance, signs, distance, strict=True
    ):
        product = f"{size * sign:.5g}"
        region = f"{chrom}:{start}-{end}"
        yield gene, region, f"{size:.5g}", sign, product, f"{size * abs(sign):.5g}", bases


def celloracle(links: pd.DataFrame, value: str) -> Iterator[Row]:
    """Peaks and genes of CellOracle; a probability is its ``coaccess``, which is at most 1."""
    links = one_per_pair(links)
    with_values = value != "effect"
    yield "peak_id", "gene_short_name", *(["coaccess"] if with_values else [])
    for (chrom, start, end), gene, number in zip(
        _ends(links)[0], links["gene"], links[value], strict=True
    ):
        peak = f"{chrom}_{start}_{end}"
        yield peak, gene, *([f"{number:.5g}"] if with_values else [])


def _ends(links: pd.DataFrame) -> tuple[list[Place], list[Place]]:
    """Intervals of the peaks and of the transcription start sites."""
    peaks = [_interval(*place) for place in zip(*(links[c] for c in PLACE), strict=True)]
    sites = zip(links["chrom"], links["tss"], links["tss"] + 1, strict=True)
    return peaks, [_interval(*place) for place in sites]


def _interval(chrom: Any, start: Any, end: Any) -> Place:
    return str(chrom), int(start), int(end)


def _signs(links: pd.DataFrame) -> list[int]:
    """1 of activating, -1 of repressing links."""
    return np.sign(links["effect"].fillna(0).to_numpy()).astype(int).tolist()


def _distances(links: pd.DataFrame) -> pd.Series:
    """Bases between the transcription start site and the nearest base of the peak."""
    before, after = links["start"] - links["tss"], links["tss"] - (links["end"] - 1)
    return before.where(before > after, after).clip(lower=0).astype(int)


def _word(name: Any) -> str:
    """A name without white space, at which UCSC also separates columns."""
    return re.sub(r"\s", "_", str(name)) or "."


FORMATS: dict[str, Callable[[pd.DataFrame, str], Iterator[Row] | list[Row]]] = {
    "bedpe": bedpe,
    "longrange": longrange,
    "interact": interact,
    "scenicplus": scenicplus,
    "celloracle": celloracle,
}
