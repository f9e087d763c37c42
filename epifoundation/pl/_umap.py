"""``ep.pl.umap``: UMAP of the ATAC modality."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from anndata import AnnData

from .._docs import documented
from .._keys import Keys
from .._validate import Data, check_single, get_atac, names_of, obs_column


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
        Passed to :func:`scanpy.pl.embedding`.

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
    import scanpy as sc

    atac, keys = get_atac(data, modality), Keys.of(key_added)
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
        atac = AnnData(atac.X, obs=obs, var=atac.var, obsm=obsm, uns=dict(atac.uns))
    return sc.pl.embedding(atac, basis=key, color=color, **kwargs)


def find_basis(adata: AnnData, basis: str) -> str | None:
    """The key of coordinates in ``obsm``, with or without ``"X_"``; None if there are none."""
    plain = basis.removeprefix("X_")
    return next((key for key in (basis, f"X_{plain}", plain) if key in adata.obsm), None)
