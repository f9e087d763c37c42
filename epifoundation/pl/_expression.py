"""``ep.pl.expression``: predicted expression against measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData

from .._keys import Keys
from .._memory import in_memory
from .._validate import Data, get_atac, get_matrix, get_modality, obs_column

PER_CELL = 1e4
SHOWN = 5  # genes, where none are named


def expression(
    data: Data,
    *,
    groupby: str,
    genes: str | Sequence[str] | None = None,
    measured: AnnData | None = None,
    layer: str | None = None,
    modality: str = "atac",
    rna_modality: str = "rna",
    key_added: str | None = None,
    figure: Any = None,
) -> Any:
    """Draw predicted against measured expression: how well each gene correlates over cells, and the means of groups for some genes.

    Parameters
    ----------
    data
        A MuData or AnnData after :func:`epifoundation.tl.embed` or :func:`epifoundation.tl.predict_expression`.
    groupby
        Column of ``obs`` with groups of cells, such as cell types.
    genes
        Genes to draw the groups of; None: those with the highest correlation over cells.
    measured
        Cells x genes that were measured, where `data` has no RNA modality. Cells are matched by name.
    layer
        Layer of the measured expression; None: ``X``. Counts are shown as ``log1p`` per 10,000 where that is what was predicted.
    modality, rna_modality
        Names in the MuData.
    key_added
        What ``embed`` was given.
    figure
        Matplotlib figure or subfigure to draw into; None makes one.

    Returns
    -------
    The axes: the histogram, then one for each gene.

    Raises
    ------
    ValueError
        Nothing was predicted, nothing measured, or a gene is not among both.

    Examples
    --------
    >>> import epifoundation as ep
    >>> mdata = ep.datasets.pbmc_multiome()[:500].copy()
    >>> ep.tl.embed(mdata)
    >>> axes = ep.pl.expression(mdata, groupby="cell_type")
    """
    import matplotlib.pyplot as plt

    atac, keys = get_atac(data, modality), Keys.of(key_added)
    predicted, scale = _predicted(data, atac, keys, rna_modality)
    true = _measured(data, measured, layer, rna_modality, scale, predicted.columns)
    names = list(true.columns)
    cells = predicted.index.intersection(true.index)
    if not names or not len(cells):
        msg = f"Predicted and measured expression share {len(names):,} genes and {len(cells):,} cells; there is nothing to compare."
        raise ValueError(msg)
    predicted, true = predicted.loc[cells, names], true.loc[cells, names]
    known = predicted.notna().all(axis=1)
    groups = obs_column(data, atac, groupby, "groupby").reindex(predicted.index)
    known &= groups.notna()
    if not known.any():
        msg = f"No cell has a predicted expression and a group in {groupby!r}."
        raise ValueError(msg)
    predicted, true, groups = predicted[known], true[known], groups[known].astype(str)
    per_gene = predicted.corrwith(true) if len(predicted) > 1 else pd.Series(np.nan, index=pd.Index(names))
    if genes is None:
        genes = list(per_gene.sort_values(ascending=False).index[:SHOWN])
    shown = [genes] if isinstance(genes, str) else [str(name) for name in genes]
    missing = [name for name in shown if name not in names]
    if missing:
        msg = f"{missing[:5]} are not among the {len(names):,} genes that are both predicted and measured, such as {names[:3]}."
        raise ValueError(msg)
    n_panels = 1 + len(shown)
    n_columns = min(n_panels, 3)
    n_rows = -(-n_panels // n_columns)
    if figure is None:
        figure = plt.figure(figsize=(3.1 * n_columns + 1.4, 2.9 * n_rows), layout="constrained")
    grid = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for ax in grid[n_panels:]:
        ax.remove()
    axes = grid[:n_panels]
    found = per_gene.dropna()
    axes[0].hist(found, bins=30, color="0.4")
    axes[0].axvline(found.mean(), color="C3")
    axes[0].set(xlabel="correlation over cells", ylabel="genes")
    axes[0].set_title(f"{len(found):,} genes, mean {found.mean():.2f}", fontsize="small")
    kinds = sorted(groups.unique())
    colours = plt.get_cmap("tab20")(np.arange(len(kinds)) % 20)
    means = [frame[shown].groupby(groups).mean().loc[kinds] for frame in (true, predicted)]
    for ax, name in zip(axes[1:], shown, strict=True):
        x, y = (frame[name].to_numpy() for frame in means)
        ax.scatter(x, y, c=colours, s=34, edgecolor="k", linewidth=0.4)
        low, high = min(x.min(), y.min()), max(x.max(), y.max())
        ax.plot([low, high], [low, high], color="0.7", lw=1, zorder=0)
        across = np.corrcoef(x, y)[0, 1] if len(x) > 1 and x.std() > 0 and y.std() > 0 else np.nan
        ax.set_title(f"{name}: r {across:.2f} of groups, {per_gene[name]:.2f} of cells", fontsize="small")
        ax.set(xlabel="measured", ylabel="predicted")
    handles = [
        plt.Line2D([], [], marker="o", ls="", color=colour, label=kind)
        for kind, colour in zip(kinds, colours, strict=True)
    ]
    figure.legend(handles=handles, loc="outside right upper", fontsize="x-small", frameon=False, title=groupby)
    figure.supxlabel(f"means of groups; {scale}", fontsize="small") if scale else None
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    return axes


def _predicted(data: Data, atac: AnnData, keys: Keys, rna_modality: str) -> tuple[pd.DataFrame, str]:
    """Cells x genes, and what a number means."""
    told = atac.uns.get(keys.expression, {}).get("scale") or atac.uns.get(keys.uns, {}).get("expression_scale", "")
    if keys.expression in atac.obsm:
        return atac.obsm[keys.expression], told
    if isinstance(data, MuData) and rna_modality in data.mod and keys.layer in data.mod[rna_modality].layers:
        rna = data.mod[rna_modality]
        frame = pd.DataFrame(rna.layers[keys.layer], index=rna.obs_names, columns=rna.var_names)
        return frame.dropna(axis=1, how="all"), told
    msg = (
        f"No predicted expression in `obsm[{keys.expression!r}]` or `layers[{keys.layer!r}]`: run `epifoundation.tl.embed` or "
        "`epifoundation.tl.predict_expression` first."
    )
    raise ValueError(msg)


def _measured(
    data: Data, measured: AnnData | None, layer: str | None, rna_modality: str, scale: str, predicted: pd.Index
) -> pd.DataFrame:
    """Cells x those genes that were predicted, on the scale of that."""
    if measured is None:
        if not isinstance(data, MuData):
            msg = "Nothing was measured: pass `measured`, cells x genes, or a MuData with an RNA modality."
            raise ValueError(msg)
        measured = get_modality(data, rna_modality, option="rna_modality")
    values = in_memory(get_matrix(measured, layer))
    stored = values.data if sp.issparse(values) else values
    totals = np.asarray(values.sum(axis=1), dtype=np.float64).reshape(-1, 1)
    names = predicted.intersection(measured.var_names, sort=False)
    values = values[:, measured.var_names.get_indexer(names)]  # before it is dense: few genes may be asked of many
    values = np.asarray(values.todense() if sp.issparse(values) else values, dtype=np.float64)
    if "log1p of counts" in scale and (stored % 1 == 0).all():
        values = np.log1p(PER_CELL * values / np.maximum(totals, 1))
    elif scale.startswith("probability"):
        values = (values > 0).astype(np.float64)
    return pd.DataFrame(values, index=measured.obs_names, columns=names)
