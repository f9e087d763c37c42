"""``ep.tl.write_links``: links for genome browsers and for tools of gene regulation."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from .._docs import documented
from .._link_table import LinkValue, filter_links, links_of
from .._option_types import checked
from .._validate import Data, one_of
from .._warn import warn
from ._link_formats import FORMATS


@documented
@checked
def write_links(
    data: Data,
    *,
    path: str | Path,
    format: Literal["bedpe", "longrange", "interact", "scenicplus", "celloracle"] | None = None,  # noqa: A002 # as everywhere
    value: LinkValue = "effect",
    max_qvalue: float | None = 0.1,
    min_score: float | None = None,
    group: str | None = None,
    overwrite: bool = False,
    modality: str = "atac",
    key_added: str | None = None,
) -> Path:
    """Write links of an object in memory to a file for genome browsers or other tools.

    Parameters
    ----------
    data
        A MuData or AnnData after :func:`epifoundation.tl.link_peaks`.
    path
        File to write.
    format
        If None, by the suffix of `path`. ``"bedpe"``: the peak, the transcription start site,
        ``gene|peak`` as name, the value as score, unknown strands, group and q-value.
        ``"longrange"``: for the WashU browser, each link from both ends, sorted; its score is the
        value. ``"interact"``: a custom track of the UCSC browser, from the peak to the gene, red
        if activating and blue if repressing. Its score is 1000 times a probability, or 1000 times
        the size of the effect relative to the largest effect.

        Tables with a header, separated by tabs, with one row for each gene and peak (of several
        groups, the mean effect or the largest probability): ``"scenicplus"``, the region-to-gene
        adjacencies of SCENIC+, with the size of the value as ``importance`` and the sign of the
        effect, 1 or -1, as ``rho``; ``"celloracle"``, ``peak_id`` and ``gene_short_name`` for
        ``TFinfo`` of CellOracle, and a probability as ``coaccess``.
    value
        Column of the links: ``"effect"``, or a probability: ``"score"`` or ``"pip"``. Links without
        a value are left out.
    {link_filters}
    group
        Links of this group only; if None, of all.
    overwrite
        Replace an existing file.
    {modality}
    {results_key}

    Returns
    -------
    The path. In names, tabs, line breaks and other control characters are replaced by a blank; in
    ``"interact"``, all white space by an underscore. If no link is left, a file without links and a
    warning.

    Raises
    ------
    ValueError
        No links, an unknown group or format, or links without the column that an option needs.
    FileExistsError
        `path` exists and `overwrite` is False.

    See Also
    --------
    epifoundation.get.network : Transcription factors, peaks and genes, for decoupler.

    Examples
    --------
    >>> import epifoundation as ep
    >>> mdata = ep.datasets.simulate_multiome(400, 600, 20)
    >>> ep.tl.link_peaks(mdata, ep.tl.pretrain(mdata), genes="gene3", max_distance=50_000)
    >>> ep.tl.write_links(mdata, path="links.bedpe", max_qvalue=None).name
    'links.bedpe'
    >>> ep.tl.write_links(mdata, path="r2g.tsv", format="scenicplus", max_qvalue=None).name
    'r2g.tsv'
    """
    path = Path(path)
    kind = format or path.suffix.lstrip(".")
    one_of(kind, FORMATS, "format")
    links, problem = filter_links(
        links_of(data, modality, key_added),
        value=value,
        max_qvalue=max_qvalue,
        min_score=min_score,
        group=group,
    )
    if path.exists() and not overwrite:
        msg = f"{str(path)!r} exists: pass `overwrite=True` or another `path`."
        raise FileExistsError(msg)
    # Columns end at tabs: quotes are text for genome browsers
    rows = FORMATS[kind](links, value)
    content = "".join("\t".join(map(_plain, row)) + "\n" for row in rows)
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_text(content, encoding="utf-8", errors="replace")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    if problem:
        warn(f"{str(path)!r} has no links. {problem}")
    return path


def _plain(value: Any) -> str:
    """Text without characters that would end a column or a line."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", " ", str(value))
