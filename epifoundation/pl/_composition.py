"""``ep.pl.composition``: cell-type composition of batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from .._docs import documented
from .._keys import UNKNOWN_LABEL, Keys
from .._validate import Data, get_atac, obs_column
from ._palette import label_colors


@documented
def composition(
    data: Data,
    *,
    batch_key: str,
    color: str | None = None,
    modality: str = "atac",
    key_added: str | None = None,
    ax: Any = None,
) -> Any:
    """Plot the cell-type composition of each batch as stacked bars.

    Parameters
    ----------
    data
        A MuData or AnnData.
    batch_key
        Column of ``obs`` with batches, donors or conditions: one bar each.
    color
        Column of ``obs`` with labels; if None, the annotation of :func:`epifoundation.tl.annotate`.
        Cells without a label are ignored.
    {modality}
    {results_key}
    {ax}

    Returns
    -------
    The axes.

    Raises
    ------
    ValueError
        A column does not exist, or no cell has both a batch and a label.

    Examples
    --------
    >>> import epifoundation as ep
    >>> mdata = ep.datasets.simulate_multiome(200, 300, 20)
    >>> axes = ep.pl.composition(mdata, batch_key="batch", color="cell_type")
    """
    import matplotlib.pyplot as plt

    atac, keys = get_atac(data, modality, peaks=False), Keys.of(key_added)
    if color is None and keys.cell_type not in atac.obs:
        msg = f"No {keys.cell_type!r} in `obs`: run `epifoundation.tl.annotate` first, "
        msg += "or choose labels with `color=`."
        raise ValueError(msg)
    color = keys.cell_type if color is None else color
    labels = obs_column(data, atac, color, "color")
    batch = obs_column(data, atac, batch_key, "batch_key")
    is_complete = (labels.notna() & batch.notna()).to_numpy()
    if not is_complete.any():
        msg = f"No cell has both a batch in {batch_key!r} and a label in {color!r}."
        raise ValueError(msg)
    labels, batch = (column[is_complete].astype(str) for column in (labels, batch))
    fractions = pd.crosstab(batch.to_numpy(), labels.to_numpy(), normalize="index")
    order = fractions.mean().sort_values(ascending=False).index
    unknown = [UNKNOWN_LABEL] if UNKNOWN_LABEL in order else []
    fractions = fractions[[*order.drop(UNKNOWN_LABEL, errors="ignore"), *unknown]]
    counts = batch.value_counts()
    if ax is None:
        height = 1.4 + 0.32 * max(len(fractions), 0.75 * fractions.shape[1])
        _, ax = plt.subplots(figsize=(6.5, height), layout="constrained")
    colors = label_colors(atac, keys, fractions.columns, color)
    left = np.zeros(len(fractions))
    positions = np.arange(len(fractions))[::-1]
    for name, values in fractions.items():
        ax.barh(positions, values, left=left, height=0.8, label=name, color=colors[name])
        left += values.to_numpy()
    ax.set_yticks(positions, [f"{name} ({counts[name]:,})" for name in fractions.index])
    ax.set(xlim=(0, 1), xlabel="fraction of cells")
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize="small")
    ax.spines[["top", "right", "left"]].set_visible(False)
    return ax
