"""``ep.pl.umap``: the embedding, coloured by what was written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .._keys import Keys
from .._validate import Data, get_atac


def umap(
    data: Data,
    *,
    color: str | Sequence[str] | None = None,
    modality: str = "atac",
    key_added: str | None = None,
    **kwargs: Any,
) -> Any:
    """Draw the UMAP of the ATAC modality, by default coloured by cell type and confidence.

    Parameters
    ----------
    data
        A MuData or AnnData with ``obsm["X_umap"]``, from ``scanpy.tl.umap`` on the ATAC modality.
    color
        Columns of ``obs`` or peaks; default the annotation and its confidence.
    modality
        Name of the ATAC modality.
    key_added
        What :func:`epifoundation.tl.embed` was given.
    kwargs
        Passed to :func:`scanpy.pl.umap`.

    Returns
    -------
    What :func:`scanpy.pl.umap` returns: axes or figure with ``show=False`` or ``return_fig=True``, else None.

    Raises
    ------
    ValueError
        There is no UMAP or no annotation yet.

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
    if "X_umap" not in atac.obsm:
        msg = (
            f"No UMAP in `obsm` (there is {list(atac.obsm)}): run `scanpy.pp.neighbors(adata, use_rep={keys.embedding!r})` "
            "and `scanpy.tl.umap(adata)` on the ATAC modality."
        )
        raise ValueError(msg)
    if color is None:
        color = [keys.cell_type, keys.confidence]
        missing = [name for name in color if name not in atac.obs]
        if missing:
            msg = (
                f"No {missing} in `obs`: run `epifoundation.tl.embed` with a model that has labels, or choose `color`."
            )
            raise ValueError(msg)
    return sc.pl.umap(atac, color=color, **kwargs)
