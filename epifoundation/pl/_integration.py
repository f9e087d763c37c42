"""``ep.pl.integration``: integration scores of embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._docs import documented
from .._keys import Keys
from .._validate import Data, get_atac

SUMMARIES = ("Bio conservation", "Batch correction", "Total")


@documented
def integration(
    data: Data, *, modality: str = "atac", key_added: str | None = None, ax: Any = None
) -> Any:
    """Plot integration scores as a table: one row per embedding, one column per metric.

    Embeddings are sorted by their total score. The best score of each metric is bold.

    Parameters
    ----------
    data
        A MuData or AnnData after :func:`epifoundation.tl.score_integration`.
    {modality}
    {results_key}
    {ax}

    Returns
    -------
    The axes.

    Raises
    ------
    ValueError
        The embeddings were not scored.

    Examples
    --------
    >>> import epifoundation as ep
    >>> import pandas as pd
    >>> adata = ep.datasets.simulate_multiome(50, 100, 10)["atac"]
    >>> scores = {
    ...     "Bio conservation": [0.7, 0.5],
    ...     "Batch correction": [0.6, 0.6],
    ...     "Total": [0.66, 0.54],
    ... }
    >>> index = ["X_epifoundation", "LSI"]
    >>> adata.uns["epifoundation_integration"] = pd.DataFrame(scores, index=index)
    >>> axes = ep.pl.integration(adata)
    """
    import matplotlib.pyplot as plt

    atac, keys = get_atac(data, modality), Keys.of(key_added)
    if keys.integration not in atac.uns:
        msg = f"No scores in `uns[{keys.integration!r}]`: "
        msg += "run `epifoundation.tl.score_integration` first."
        raise ValueError(msg)
    table = atac.uns[keys.integration].sort_values("Total", ascending=False)
    n_rows, n_columns = table.shape
    n_metrics = n_columns - sum(name in SUMMARIES for name in table.columns)
    if ax is None:
        size = (2 + 0.62 * n_columns, 1.8 + 0.42 * n_rows)
        _, ax = plt.subplots(figsize=size, layout="constrained")
    values = table.to_numpy(dtype=float)
    ax.imshow(values, cmap="Blues", vmin=0, vmax=1.15, aspect="auto")
    best = values >= values.max(axis=0) - 5e-4
    for (i, j), value in np.ndenumerate(values):
        colour, weight = "w" if value > 0.7 else "k", "bold" if best[i, j] else "normal"
        style = {"ha": "center", "va": "center", "fontsize": "small"}
        ax.text(j, i, f"{value:.2f}", color=colour, fontweight=weight, **style)
    ax.axvline(n_metrics - 0.5, color="w", lw=4)
    ax.set_yticks(range(n_rows), table.index)
    ax.set_xticks(range(n_columns), table.columns, rotation=40, ha="left", fontsize="small")
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax
