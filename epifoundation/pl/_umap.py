"""``ep.pl.umap``: UMAP of the ATAC modality."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from anndata import AnnData
from mudata import MuData

from .._docs import documented
from .._keys import Keys
from .._validate import Data, check_single, get_atac, names_of, obs_column
from ._palette import categories_of, label_colors
from ._panels import fit_panels


@documented
def umap(
    data: Data,
    *,
    color: str | Sequence[str] | None = None,
    basis: str = "umap",
    modality: str = "atac",
    key_added: str | None = None,
    **kwargs: Any,
) -> Any:
    """Plot the UMAP of the ATAC modality, by default coloured by cell type and confidence.

    Legends lie beside their panels, for which the figure is enlarged. A label has the same colour
    in all plots and in the report: that in ``uns["<column>_colors"]``, where scanpy keeps them,
    also of another column with the label, or of the reference of the annotation. Unknown and
    missing labels are grey. As in scanpy, the colours are written into ``uns``.

    Parameters
    ----------
    data
        A MuData or AnnData with a UMAP in ``obsm``, from ``scanpy.tl.umap`` on the ATAC modality.
    color
        Columns of ``obs``, or peaks; if None, the annotation and its confidence. ``"rna:leiden"``
        is column `leiden` of the modality `rna`.
    basis
        Key of the coordinates in ``obsm``, with or without ``"X_"``: ``"umap"`` finds ``"X_umap"``
        and ``"umap"``.
    {modality}
    {results_key}
    kwargs
        Passed to :func:`scanpy.pl.embedding`. With `palette`, colours are chosen from it; with
        `ax`, `wspace`, `hspace`, `save` or `projection`, the figure is not enlarged.

    Returns
    -------
    The value of :func:`scanpy.pl.embedding`: axes or figure with ``show=False`` or
    ``return_fig=True``, else None.

    Raises
    ------
    ValueError
        The UMAP, the annotation or a column does not exist.

    Examples
    --------
    >>> import epifoundation as ep
    >>> import scanpy as sc
    >>> mdata = ep.datasets.pbmc_multiome()[:300].copy()
    >>> ep.tl.embed(mdata)
    >>> sc.pp.neighbors(mdata["atac"], use_rep="X_epifoundation")
    >>> sc.tl.umap(mdata["atac"])
    >>> axes = ep.pl.umap(mdata, show=False)
    """
    import matplotlib.pyplot as plt
    import scanpy as sc

    atac, keys = get_atac(data, modality, peaks=False), Keys.of(key_added)
    key = find_basis(atac, basis)
    if key is None:
        msg = (
            f"No {basis!r} in `obsm` (available: {list(atac.obsm)}): run "
            f"`scanpy.pp.neighbors(adata, use_rep={keys.embedding!r})` and "
            "`scanpy.tl.umap(adata)` on the ATAC modality, or pass `basis=` for other coordinates."
        )
        raise ValueError(msg)
    if color is None:
        color = [keys.cell_type, keys.confidence]
        missing = [name for name in color if name not in atac.obs]
        if missing:
            msg = f"No {missing} in `obs`: run `epifoundation.tl.embed` with a model that has "
            msg += "labels, or choose `color=`."
            raise ValueError(msg)
    named = names_of(color, "color")
    for name in named:
        check_single(atac.obs.columns, name, "`obs`")
    elsewhere = [name for name in named if name not in atac.obs and name not in atac.var_names]
    if elsewhere:
        # Columns of the MuData or of another modality are added to a copy of `obs`
        columns = {name: obs_column(data, atac, name, "color") for name in elsewhere}
        obs, obsm = atac.obs.assign(**columns), {key: atac.obsm[key]}
        uns = dict(atac.uns) | _colors_of(data, elsewhere)
        atac = AnnData(atac.X, obs=obs, var=atac.var, obsm=obsm, uns=uns)
    elif atac.is_view:  # scanpy writes into `uns`
        atac = atac.copy()
    atac.strings_to_categoricals()
    for name in named:
        if name not in atac.obs or not isinstance(atac.obs[name].dtype, pd.CategoricalDtype):
            continue
        labels = categories_of(atac.obs[name])
        if "palette" not in kwargs:
            colors = label_colors(atac, keys, labels, name)
            atac.uns[f"{name}_colors"] = [colors[label] for label in labels]
        if "NA" in labels:  # scanpy calls missing labels so
            kwargs = {"na_in_legend": False} | kwargs
    is_free = not {"ax", "wspace", "hspace", "save", "projection"} & set(kwargs)
    if not is_free:
        return sc.pl.embedding(atac, basis=key, color=color, **kwargs)
    show, as_figure = kwargs.pop("show", None), kwargs.pop("return_fig", None)
    axes = sc.pl.embedding(atac, basis=key, color=color, show=False, **kwargs)
    panels = axes if isinstance(axes, list) else [axes]
    fit_panels(panels, min(kwargs.get("ncols", 4), len(panels)))
    if as_figure:
        return panels[0].figure
    if not (sc.settings.autoshow if show is None else show):
        return axes
    plt.show()
    return None


def _colors_of(data: Data, names: list[str]) -> dict[str, Any]:
    """Colours of columns of the MuData or of another modality, as entries of ``uns``."""
    found = {}
    for name in names if isinstance(data, MuData) else ():
        modality, _, column = name.partition(":")
        is_of_modality = modality in data.mod and column in data.mod[modality].obs
        uns, key = (data.mod[modality].uns, column) if is_of_modality else (data.uns, name)
        if f"{key}_colors" in uns:
            found[f"{name}_colors"] = uns[f"{key}_colors"]
    return found


def find_basis(adata: AnnData, basis: str) -> str | None:
    """The key of coordinates in ``obsm``, with or without ``"X_"``; None if there are none."""
    plain = basis.removeprefix("X_")
    return next((key for key in (basis, f"X_{plain}", plain) if key in adata.obsm), None)
