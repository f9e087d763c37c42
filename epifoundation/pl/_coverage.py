"""``ep.pl.coverage``: peak coverage of cells."""

from __future__ import annotations

from typing import Any

from .._docs import documented
from .._keys import Keys
from .._validate import Data, get_atac


@documented
def coverage(
    data: Data, *, modality: str = "atac", key_added: str | None = None, ax: Any = None
) -> Any:
    """Plot a histogram over cells of the fraction of open peaks known to the model.

    The title gives the numbers of mapped peaks.

    Parameters
    ----------
    data
        A MuData or AnnData after :func:`epifoundation.tl.embed` or
        :func:`epifoundation.pp.map_peaks`.
    {modality}
    {results_key}
    {ax}

    Returns
    -------
    The axes.

    Raises
    ------
    ValueError
        The peaks were not mapped.

    Examples
    --------
    >>> import epifoundation as ep
    >>> mdata = ep.datasets.pbmc_multiome()[:300].copy()
    >>> ep.pp.map_peaks(mdata)
    >>> axes = ep.pl.coverage(mdata)
    """
    import matplotlib.pyplot as plt

    atac, keys = get_atac(data, modality, peaks=False), Keys.of(key_added)
    report = atac.uns.get(keys.uns, {}).get("peaks")
    if report is None or keys.coverage not in atac.obs:
        msg = f"No coverage in `obs[{keys.coverage!r}]`: run `epifoundation.tl.embed` or "
        msg += "`epifoundation.pp.map_peaks` first."
        raise ValueError(msg)
    if ax is None:
        _, ax = plt.subplots(figsize=(5, 3.2), layout="constrained")
    known = atac.obs[keys.coverage].dropna()
    if len(known) and (known == 1).all():
        text = "all open peaks of all cells\nare known to the model"
        ax.text(0.5, 0.5, text, ha="center", va="center", transform=ax.transAxes)
    ax.hist(known, bins=40, range=(0, 1), color="0.4")
    ax.set(xlabel="fraction of open peaks known to the model", ylabel="cells", xlim=(0, 1))
    ax.set_title(
        f"{report['matched']:,} of {report['data']:,} peaks matched, "
        f"{report['vocabulary_matched']:,} of {report['vocabulary']:,} model peaks covered",
        fontsize="small",
    )
    ax.spines[["top", "right"]].set_visible(False)
    return ax
