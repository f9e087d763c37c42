"""``ep.pl.expression``: predicted against measured expression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData

from .._docs import documented
from .._keys import Keys
from .._memory import in_memory
from .._pairing import CellNames, check_axis, match_cells
from .._validate import Data, get_atac, get_matrix, get_modality, names_of, obs_column
from ..get._results import predicted_table
from ._palette import label_colors

TOTAL = 1e4  # normalized counts per cell
N_GENES = 5  # shown by default


@documented
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
    """Plot predicted against measured expression.

    The first panel is a histogram over genes of the correlation over cells. Its title also has the
    mean correlation over cells that the model did not learn from, if it learned from others of
    them: only that says how good predictions for new cells are. The other panels compare the
    means of groups of cells, one gene each.

    Parameters
    ----------
    data
        A MuData or AnnData after :func:`epifoundation.tl.embed` or
        :func:`epifoundation.tl.predict_expression`.
    groupby
        Column of ``obs`` with groups of cells, such as cell types.
    genes
        Genes to show; if None, those with the highest correlation over cells.
    measured
        Measured expression, if `data` has no RNA modality. Cells are matched by name.
    layer
        Layer of the measured expression; if None, ``X``. Counts are transformed to ``log1p`` of
        counts per 10,000 if this is the scale of the prediction.
    modality, rna_modality
        Names of the modalities in the MuData.
    {results_key}
    {figure}

    Returns
    -------
    The axes: the histogram, then one per gene.

    Raises
    ------
    ValueError
        Predicted or measured expression is missing, or lacks a gene.

    Examples
    --------
    >>> import epifoundation as ep
    >>> mdata = ep.datasets.pbmc_multiome()[:500].copy()
    >>> ep.tl.embed(mdata)
    >>> axes = ep.pl.expression(mdata, groupby="cell_type")
    """
    import matplotlib.pyplot as plt

    atac, keys = get_atac(data, modality, peaks=False), Keys.of(key_added)
    predicted, scale = predicted_table(data, modality, rna_modality, keys)
    true = _measured(data, measured, layer, rna_modality, scale, predicted.columns)
    names = list(true.columns)
    if not names:
        msg = "Predicted and measured expression have 0 genes in common; at least one is needed."
        raise ValueError(msg)
    rows = match_cells(
        CellNames.of(predicted.index, modality),
        CellNames.of(true.index, rna_modality)
        if measured is None
        else CellNames(true.index, "measured.obs_names"),
        "Only cells that are in both are compared.",
        needed=True,
    )
    predicted, true = predicted.loc[rows >= 0, names], true.iloc[rows[rows >= 0]]
    groups = obs_column(data, atac, groupby, "groupby").reindex(predicted.index)
    is_complete = predicted.notna().all(axis=1) & groups.notna()
    if not is_complete.any():
        msg = f"No cell has a predicted expression and a group in {groupby!r}."
        raise ValueError(msg)
    predicted, true = predicted[is_complete], true[is_complete]
    groups = groups[is_complete].astype(str)
    per_gene = pd.Series(np.nan, index=pd.Index(names))
    if len(predicted) > 1:
        per_gene = predicted.corrwith(true)
    note = ""
    if keys.in_training in atac.obs:
        is_new = ~atac.obs[keys.in_training].reindex(predicted.index).to_numpy(bool)
        if 1 < is_new.sum() < len(is_new):
            note = f"\n{is_new.sum():,} cells new to the model: "
            note += f"{predicted[is_new].corrwith(true[is_new]).mean():.2f}"
        elif not is_new.any():
            note = "\nthe model learned from all of these cells"
    if genes is None:
        genes = list(per_gene.sort_values(ascending=False).index[:N_GENES])
    shown = names_of(genes, "genes")
    missing = [name for name in shown if name not in names]
    if missing:
        msg = f"{missing[:5]} are not among the {len(names):,} genes that are both predicted and "
        msg += f"measured, such as {names[:3]}."
        raise ValueError(msg)
    n_panels = 1 + len(shown)
    n_columns = min(n_panels, 3)
    n_rows = -(-n_panels // n_columns)
    if figure is None:
        size = (3.1 * n_columns + 1.4, 2.9 * n_rows)
        figure = plt.figure(figsize=size, layout="constrained")
    grid = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for ax in grid[n_panels:]:
        ax.remove()
    axes = grid[:n_panels]
    found = per_gene.dropna()
    axes[0].hist(found, bins=30, color="0.4")
    axes[0].axvline(found.mean(), color="C3")
    axes[0].set(xlabel="correlation over cells", ylabel="genes")
    axes[0].set_title(f"{len(found):,} genes, mean {found.mean():.2f}{note}", fontsize="small")
    kinds = sorted(groups.unique())
    colours = list(label_colors(atac, keys, kinds, groupby).values())
    means = [frame[shown].groupby(groups).mean().loc[kinds] for frame in (true, predicted)]
    for ax, name in zip(axes[1:], shown, strict=True):
        x, y = (frame[name].to_numpy() for frame in means)
        ax.scatter(x, y, c=colours, s=34, edgecolor="k", linewidth=0.4)
        low, high = min(x.min(), y.min()), max(x.max(), y.max())
        ax.plot([low, high], [low, high], color="0.7", lw=1, zorder=0)
        varies = len(x) > 1 and x.std() > 0 and y.std() > 0
        across = np.corrcoef(x, y)[0, 1] if varies else np.nan
        title = f"{name}: r {across:.2f} of groups, {per_gene[name]:.2f} of cells"
        ax.set_title(title, fontsize="small")
        ax.set(xlabel="measured", ylabel="predicted")
    handles = [
        plt.Line2D([], [], marker="o", ls="", color=colour, label=kind)
        for kind, colour in zip(kinds, colours, strict=True)
    ]
    style = {"fontsize": "x-small", "frameon": False, "title": groupby}
    figure.legend(handles=handles, loc="outside right upper", **style)
    if scale:
        figure.supxlabel(f"means of groups; {scale}", fontsize="small")
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    return axes


def _measured(
    data: Data,
    measured: AnnData | None,
    layer: str | None,
    rna_modality: str,
    scale: str,
    predicted: pd.Index,
) -> pd.DataFrame:
    """Measured expression of the predicted genes, on the scale of the prediction."""
    if measured is None:
        if not isinstance(data, MuData):
            msg = "The data have no measured expression: pass `measured=`, an AnnData of cells x "
            msg += "genes, or a MuData with an RNA modality."
            raise ValueError(msg)
        check_axis(data.axis, "the data")
        measured = get_modality(data, rna_modality, option="rna_modality")
    values = in_memory(get_matrix(measured, layer))
    stored = values.data if sp.issparse(values) else values
    totals = np.asarray(values.sum(axis=1), dtype=np.float64).reshape(-1, 1)
    names = predicted.intersection(measured.var_names, sort=False)
    values = values[:, measured.var_names.get_indexer(names)]  # subset before densifying
    values = values.todense() if sp.issparse(values) else values
    values = np.asarray(values, dtype=np.float64)
    if "log1p of counts" in scale and (stored % 1 == 0).all():
        values = np.log1p(TOTAL * values / np.maximum(totals, 1))
    elif scale.startswith("probability"):
        values = (values > 0).astype(np.float64)
    return pd.DataFrame(values, index=measured.obs_names, columns=names)
