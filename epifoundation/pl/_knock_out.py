"""``ep.pl.knock_out``: predicted changes by group of cells if peaks are closed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd

from .._docs import documented
from .._validate import one_of

N_NAMES = 4  # shown by default
NORMAL_95 = 1.96  # standard errors on each side of a mean


class Summarized(Protocol):
    """Result of :func:`epifoundation.tl.knock_out` with `groupby`."""

    scale: str
    summary: pd.DataFrame | None


@documented
def knock_out(
    change: Summarized, *, names: str | Sequence[str] | None = None, figure: Any = None
) -> Any:
    """Plot the change of genes or of probabilities of labels in each group, if peaks are closed.

    A dot is the mean over the cells of a group in which one of the peaks is open, a thick line its
    95 % confidence interval, a thin line the middle half of the cells.

    Parameters
    ----------
    change
        Result of :func:`epifoundation.tl.knock_out` with `groupby`.
    names
        Genes and labels, one panel each; if None, the four genes (without genes, labels) that
        change most over all cells of a group.
    {figure}

    Returns
    -------
    The axes, one per gene or label.

    Raises
    ------
    ValueError
        `change` has no summary, an unknown name, or no cell in which a peak is open.

    Examples
    --------
    >>> import epifoundation as ep
    >>> atac = ep.datasets.pbmc_multiome()["atac"][:300].copy()
    >>> peaks = "chr11:60450000-60460000"
    >>> change = ep.tl.knock_out(atac, peaks=peaks, groupby="cell_type")
    >>> axes = ep.pl.knock_out(change, names="MS4A1")
    """
    import matplotlib.pyplot as plt

    table = change.summary
    if table is None:
        msg = "The result has no summary: call `epifoundation.tl.knock_out` with `groupby=`."
        raise ValueError(msg)
    if not (table["n_open"] > 0).any():
        msg = "None of the peaks is open in a cell of a group, so nothing changes."
        raise ValueError(msg)
    shown = [names] if isinstance(names, str) else names
    if shown is None:
        kind = "expression" if (table["kind"] == "expression").any() else "probability"
        rows = table[table["kind"] == kind]
        of_all_cells = (rows["mean"] * rows["n_open"] / rows["n_cells"]).abs()
        shown = list(of_all_cells.groupby(rows["name"]).max().nlargest(N_NAMES).index)
    for name in shown:
        one_of(name, sorted(table["name"].unique()), "names")
    groups = table.drop_duplicates("group").sort_values("n_open", kind="stable")
    if figure is None:
        size = (2.2 + 2.3 * len(shown), 1.3 + 0.28 * len(groups))
        figure = plt.figure(figsize=size, layout="constrained")
    axes = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    at = np.arange(len(groups))
    for ax, name in zip(axes, shown, strict=True):
        rows = table[table["name"] == name]
        kind = rows["kind"].iloc[0]
        rows = rows[rows["kind"] == kind].set_index("group").loc[groups["group"]]
        error = NORMAL_95 * rows["sem"]
        ax.axvline(0, color="0.8", lw=1, zorder=0)
        ax.hlines(at, rows["q25"], rows["q75"], color="0.6", lw=1)
        ax.hlines(at, rows["mean"] - error, rows["mean"] + error, color="C0", lw=3)
        ax.plot(rows["mean"], at, "o", color="C0", ms=5)
        unit = change.scale if kind == "expression" else "probability"
        ax.set_title(name, fontsize="medium")
        ax.set_xlabel(f"change\n({unit})", fontsize="small")
        ax.tick_params(axis="y", length=0)
        ax.locator_params(axis="x", nbins=4)  # labels of more ticks would overlap
        ax.spines[["top", "right", "left"]].set_visible(False)
    labels = [f"{row.group} ({row.n_open:,} of {row.n_cells:,})" for row in groups.itertuples()]
    axes[0].set_yticks(at, labels, fontsize="small")
    return axes
