"""``ep.tl.write_links``: links for genome browsers."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pandas as pd

from .._docs import documented
from .._keys import Keys
from .._validate import Data, get_atac, one_of

LINK_FORMATS = ("bedpe", "longrange")


@documented
def write_links(
    data: Data,
    *,
    path: str | Path,
    format: Literal["bedpe", "longrange"] | None = None,  # noqa: A002 # as everywhere
    max_qvalue: float | None = 0.1,
    group: str | None = None,
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
    {modality}
    {results_key}

    Returns
    -------
    The path.

    Raises
    ------
    ValueError
        No links, or an unknown group or format.

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
        links = links[links["qvalue"] <= max_qvalue]
    tss = pd.DataFrame({"chrom": links["chrom"], "start": links["tss"], "end": links["tss"] + 1})
    peak = links[["chrom", "start", "end"]]
    score = links["effect"].map("{:.5g}".format)
    if kind == "bedpe":
        name = links["gene"].astype(str) + "|" + links["peak"].astype(str)
        table = pd.concat([peak, tss, name, score], axis=1).assign(
            a=".", b=".", group=links["group"], q=links["qvalue"]
        )
    else:
        ends = [
            pd.concat(
                [
                    one,
                    other["chrom"]
                    + ":"
                    + other["start"].astype(str)
                    + "-"
                    + other["end"].astype(str)
                    + ","
                    + score,
                ],
                axis=1,
            )
            for one, other in ((peak, tss), (tss, peak))
        ]
        table = pd.concat(ends).sort_values(["chrom", "start", "end"], kind="stable")
    table.to_csv(path, sep="\t", header=False, index=False)
    return path


def links_of(data: Data, modality: str, key_added: str | None) -> pd.DataFrame:
    """The table of links; ValueError if `link_peaks` was not run."""
    keys = Keys.of(key_added)
    links = get_atac(data, modality).uns.get(keys.links)
    if links is None:
        msg = f"No links in `uns[{keys.links!r}]`: run `epifoundation.tl.link_peaks` first."
        raise ValueError(msg)
    return links
