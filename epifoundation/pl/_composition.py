"""``ep.pl.composition``: of which labels each batch is made."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from .._keys import UNKNOWN, Keys
from .._validate import Data, get_atac, obs_column


def composition(
    data: Data,
    *,
    batch_key: str,
    color: str | None = None,
    modality: str = "atac",
    key_added: str | None = None,
    ax: Any = None,
) -> Any:
    """Draw the share of each label in each batch.

    Parameters
    ----------
    data
        A MuData or AnnData.
    batch_key
        Column of ``obs`` with batches, donors or conditions: one bar each.
    color
        Column of ``obs`` with labels; None is that of :func:`epifoundation.tl.annotate`. Cells with a missing one are left out.
    modality
        Name of the ATAC modality.
    key_added
        What :func:`epifoundation.tl.annotate` was given.
    ax
        Matplotlib axes to draw into; None makes a figure.

    Returns
    -------
    The axes.

    Raises
    ------
    ValueError
        No such column, or no cell with both.

    Examples
    --------
    >>> import epifoundation as ep
    >>> mdata = ep.datasets.simulate_multiome(200, 300, 20)
    >>> axes = ep.pl.composition(mdata, batch_key="batch", color="cell_type")
    """
    import matplotlib.pyplot as plt

    atac, keys = get_atac(data, modality, peaks=False), Keys.of(key_added)
    if color is None and keys.cell_type not in atac.obs:
        msg = f"No {keys.cell_type!r} in `obs`: run `epifoundation.tl.annotate` first, or name labels with `color=`."
        raise ValueError(msg)
    labels = atac.obs[keys.cell_type] if color is None else obs_column(data, atac, color, "color")
    batch = obs_column(data, atac, batch_key, "batch_key")
    there = (labels.notna() & batch.notna()).to_numpy()
    if not there.any():
        msg = f"No cell has both a batch in {batch_key!r} and a label in {color or keys.cell_type!r}."
        raise ValueError(msg)
    shares = pd.crosstab(batch[there].astype(str).to_numpy(), labels[there].astype(str).to_numpy(), normalize="index")
    order = shares.mean().sort_values(ascending=False).index
    shares = shares[[*order.drop(UNKNOWN, errors="ignore"), *([UNKNOWN] if UNKNOWN in order else [])]]
    counts = batch[there].astype(str).value_counts()
    if ax is None:
        _, ax = plt.subplots(figsize=(6.5, 1.4 + 0.32 * max(len(shares), 0.75 * shares.shape[1])), layout="constrained")
    palette = [*plt.get_cmap("tab20")(np.r_[0:20:2, 1:20:2]), *plt.get_cmap("tab20b")(np.arange(20))]
    left = np.zeros(len(shares))
    places = np.arange(len(shares))[::-1]
    for i, (name, values) in enumerate(shares.items()):
        ax.barh(
            places,
            values,
            left=left,
            height=0.8,
            label=name,
            color="0.85" if name == UNKNOWN else palette[i % len(palette)],
        )
        left += values.to_numpy()
    ax.set_yticks(places, [f"{name} ({counts[name]:,})" for name in shares.index])
    ax.set(xlim=(0, 1), xlabel="share of cells")
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize="small")
    ax.spines[["top", "right", "left"]].set_visible(False)
    return ax
