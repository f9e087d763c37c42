"""``ep.tl.write_links``: links for genome browsers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from .._docs import documented
from .._keys import Keys
from .._option_types import checked
from .._validate import Data, fraction, get_atac, one_of

LINK_FORMATS = ("bedpe", "longrange")
PLACE = ("chrom", "start", "end")
COLUMNS = (*PLACE, "gene", "peak", "group", "tss", "effect", "qvalue")  # that are read


@documented
@checked
def write_links(
    data: Data,
    *,
    path: str | Path,
    format: Literal["bedpe", "longrange"] | None = None,  # noqa: A002 # as everywhere
    max_qvalue: float | None = 0.1,
    group: str | None = None,
    overwrite: bool = False,
    modality: str = "atac",
    key_added: str | None = None,
) -> Path:
    """Write links of an object in memory to a file for genome browsers.

    Parameters
    ----------
    data
        A MuData or AnnData after :func:`epifoundation.tl.link_peaks`.
    path
        File to write.
    format
        ``"bedpe"``: the peak, the transcription start site, ``gene|peak`` as name, the effect as
        score, unknown strands, group and q-value. ``"longrange"``: for the WashU browser, each link
        from both ends, sorted; its score is the effect. If None, by the suffix of `path`.
    max_qvalue
        Leave out links with a larger q-value; if None, keep all, including untested ones.
    group
        Links of this group only; if None, of all.
    overwrite
        Replace an existing file.
    {modality}
    {results_key}

    Returns
    -------
    The path. In names, tabs, line breaks and other control characters are replaced by a blank.

    Raises
    ------
    ValueError
        No links, or an unknown group or format.
    FileExistsError
        `path` exists and `overwrite` is False.

    Examples
    --------
    >>> import epifoundation as ep
    >>> mdata = ep.datasets.simulate_multiome(400, 600, 20)
    >>> ep.tl.link_peaks(mdata, ep.tl.pretrain(mdata), genes="gene3", max_distance=50_000)
    >>> ep.tl.write_links(mdata, path="links.bedpe", max_qvalue=None).name
    'links.bedpe'
    """
    path = Path(path)
    kind = format or path.suffix.lstrip(".")
    one_of(kind, LINK_FORMATS, "format")
    links = links_of(data, modality, key_added)
    if group is not None:
        one_of(group, sorted(links["group"].astype(str).unique()), "group")
        links = links[links["group"].astype(str) == group]
    if max_qvalue is not None:
        fraction(max_qvalue, "max_qvalue")
        links = links[links["qvalue"] <= max_qvalue]
    if path.exists() and not overwrite:
        msg = f"{str(path)!r} exists: pass `overwrite=True` or another `path`."
        raise FileExistsError(msg)
    peaks = [_interval(*place) for place in zip(*(links[c] for c in PLACE), strict=True)]
    sites = [
        _interval(*place)
        for place in zip(links["chrom"], links["tss"], links["tss"] + 1, strict=True)
    ]
    rows = _bedpe(links, peaks, sites) if kind == "bedpe" else _longrange(links, peaks, sites)
    # Columns end at tabs: quotes are text for genome browsers
    content = "".join("\t".join(map(_plain, row)) + "\n" for row in rows)
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_text(content, encoding="utf-8", errors="replace")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _interval(chrom: Any, start: Any, end: Any) -> tuple[str, int, int]:
    return str(chrom), int(start), int(end)


def _bedpe(links: pd.DataFrame, peaks: list, sites: list) -> Iterator[tuple]:
    names = zip(links["gene"], links["peak"], strict=True)
    values = zip(links["effect"], links["group"], links["qvalue"], strict=True)
    for peak, site, (gene, name), (effect, group, q) in zip(
        peaks, sites, names, values, strict=True
    ):
        yield *peak, *site, f"{gene}|{name}", f"{effect:.5g}", ".", ".", group, q


def _longrange(links: pd.DataFrame, peaks: list, sites: list) -> list[tuple]:
    rows = []
    for ends in ((peaks, sites), (sites, peaks)):
        for one, (chrom, start, end), effect in zip(*ends, links["effect"], strict=True):
            rows.append((*one, f"{chrom}:{start}-{end},{effect:.5g}"))
    return sorted(rows, key=lambda row: row[:3])


def _plain(value: Any) -> str:
    """Text without characters that would end a column or a line."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", " ", str(value))


def links_of(data: Data, modality: str, key_added: str | None) -> pd.DataFrame:
    """The table of links; ValueError if `link_peaks` was not run."""
    keys = Keys.of(key_added)
    links = get_atac(data, modality).uns.get(keys.links)
    if not isinstance(links, pd.DataFrame) or not set(COLUMNS) <= set(links.columns):
        msg = f"No links in `uns[{keys.links!r}]`: run `epifoundation.tl.link_peaks` first."
        raise ValueError(msg)
    return links
