"""``ep.get``: predictions as objects that other packages take, with their names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from .._columns import with_names
from .._docs import documented
from .._keys import Keys
from .._validate import Data, check_unique, get_atac, layer_names
from .._warn import warn
from ..cells.formats import read_cells

DataOrFile: TypeAlias = Data | str | Path


@documented
def expression(
    data: DataOrFile,
    *,
    modality: str = "atac",
    rna_modality: str = "rna",
    key_added: str | None = None,
) -> AnnData:
    """Predicted expression as an AnnData of cells x genes, for scanpy.

    Predictions are where :func:`epifoundation.tl.embed` or
    :func:`epifoundation.tl.predict_expression` wrote them: in ``obsm`` of the ATAC modality, in a
    layer of the RNA modality, or in a file of results.

    Parameters
    ----------
    {results_or_file}
    {modalities}
    {results_key}

    Returns
    -------
    A new AnnData: ``X``, float32, the predicted expression; ``obs`` with the columns of the ATAC
    modality and of the MuData; ``var`` with the names of the genes and, if there is an RNA
    modality, its columns; ``obsm`` with the embedding and coordinates; ``uns["scale"]``, the unit
    of ``X``. Genes that the model does not know are left out. Of a MuData with RNA, it has the
    cells that are in both modalities. Cells without a known open peak are NaN, with a warning.

    Raises
    ------
    ValueError
        No expression was predicted.

    See Also
    --------
    epifoundation.pl.expression : Predicted against measured expression.

    Notes
    -----
    Labels and expression of the same model are predicted from the same peaks. A test for
    differences in predicted expression between predicted labels is therefore circular, and its
    p-values have no meaning: see the guide.

    Examples
    --------
    >>> import epifoundation as ep
    >>> import scanpy as sc
    >>> atac = ep.datasets.pbmc_multiome()["atac"][:300].copy()
    >>> ep.tl.embed(atac, "pbmc-51loci")
    >>> predicted = ep.get.expression(atac)
    >>> predicted.shape
    (300, 51)
    >>> sc.get.obs_df(predicted, ["CD79A", "epifoundation_cell_type"]).shape
    (300, 2)
    """
    data = read_results(data)
    table, scale = predicted_table(data, modality, rna_modality, Keys.of(key_added))
    atac, values = get_atac(data, modality, peaks=False), np.array(table, np.float32)
    rna = data.mod.get(rna_modality) if isinstance(data, MuData) else None
    var = next(
        (
            each.var
            for each in (rna, atac)
            if each is not None
            and each.var_names.is_unique
            and table.columns.isin(each.var_names).all()
        ),
        pd.DataFrame(index=table.columns),
    )
    rows = atac.obs_names.get_indexer(table.index)
    obs = _obs(data, atac, modality).iloc[rows].copy()
    found = AnnData(values, obs=obs, var=var.loc[table.columns].copy())
    for key, each in atac.obsm.items():
        if isinstance(each, np.ndarray):
            found.obsm[key] = each[rows]
    for key, each in atac.uns.items():
        if key.endswith("_colors"):
            found.uns[key] = list(each)
    found.uns["scale"] = scale
    n_missing = int(np.isnan(values).any(axis=1).sum())
    if n_missing:
        msg = (
            f"{n_missing:,} of {len(table):,} cells have no predicted expression (NaN): the model "
            "knows none of their open peaks, or they are unlike all populations whose expression "
            "an atlas has. Leave them out before tests and means: "
            "`adata = adata[~np.isnan(adata.X).any(axis=1)].copy()`."
        )
        warn(msg)
    return found


@documented
def probabilities(
    data: DataOrFile, *, modality: str = "atac", key_added: str | None = None
) -> pd.DataFrame:
    """Probabilities of the labels, cells x labels.

    The table ``obsm["epifoundation_probabilities"]`` with the names of the labels as its columns.
    The columns of the stored table differ from them where a file could not contain the name, such
    as ``"L2_3 IT"`` for ``"L2/3 IT"``.

    Parameters
    ----------
    {results_or_file}
    {modality}
    {results_key}

    Returns
    -------
    A new table. Cells without a known open peak are NaN.

    Raises
    ------
    ValueError
        The cells have no probabilities.

    Examples
    --------
    >>> import epifoundation as ep
    >>> atac = ep.datasets.pbmc_multiome()["atac"][:300].copy()
    >>> ep.tl.embed(atac, "pbmc-51loci")
    >>> ep.get.probabilities(atac).shape
    (300, 13)
    """
    atac, keys = get_atac(read_results(data), modality, peaks=False), Keys.of(key_added)
    if keys.probabilities not in atac.obsm:
        msg = f"No {keys.probabilities!r} in `obsm` (available: {list(atac.obsm)}): run "
        msg += "`epifoundation.tl.annotate` first, or pass the `key_added=` of its results."
        raise ValueError(msg)
    labels = _names(_report(atac, keys.annotation) or _report(atac, keys.uns), "labels")
    return with_names(atac.obsm[keys.probabilities], labels)


@documented
def accessibility(
    data: DataOrFile, *, modality: str = "atac", key_added: str | None = None
) -> pd.DataFrame:
    """Probabilities that peaks are open, from :func:`epifoundation.tl.impute_accessibility`.

    The table ``varm["epifoundation_accessibility"]`` or ``obsm["epifoundation_accessibility"]``
    with the names of groups or peaks as its columns.

    Parameters
    ----------
    {results_or_file}
    {modality}
    {results_key}

    Returns
    -------
    A new table: peaks x groups, or cells x peaks if no groups were computed.

    Raises
    ------
    ValueError
        No accessibility was computed.

    Examples
    --------
    >>> import epifoundation as ep
    >>> mdata = ep.datasets.pbmc_multiome()[:200].copy()
    >>> ep.tl.impute_accessibility(mdata, "pbmc-51loci", groupby="cell_type")
    >>> ep.get.accessibility(mdata).shape
    (5724, 13)
    """
    atac, keys = get_atac(read_results(data), modality, peaks=False), Keys.of(key_added)
    report = _report(atac, keys.accessibility)
    for tables, names in ((atac.varm, "groups"), (atac.obsm, "peaks")):
        if keys.accessibility in tables:
            return with_names(tables[keys.accessibility], _names(report, names))
    msg = f"No {keys.accessibility!r} in `varm` or `obsm`: run "
    msg += "`epifoundation.tl.impute_accessibility` first, or pass its `key_added=`."
    raise ValueError(msg)


def predicted_table(
    data: Data, modality: str, rna_modality: str, keys: Keys
) -> tuple[pd.DataFrame, str]:
    """Predicted expression of cells with ATAC, cells x genes, and the name of its scale."""
    atac = get_atac(data, modality, peaks=False)
    of_embedding = _report(atac, keys.uns)
    report = _report(atac, keys.expression) or of_embedding
    scale = str(report.get("scale") or of_embedding.get("expression_scale", ""))
    if keys.expression in atac.obsm:
        return with_names(atac.obsm[keys.expression], _names(report, "genes")), scale
    rna = data.mod.get(rna_modality) if isinstance(data, MuData) else None
    for part in (rna, atac):  # a file of results has genes as `var`
        if part is None or keys.layer not in layer_names(part):
            continue
        cells = atac.obs_names[atac.obs_names.isin(part.obs_names)]
        rows = part.obs_names.get_indexer(cells)
        table = pd.DataFrame(part.layers[keys.layer][rows], cells, part.var_names)
        return table.loc[:, table.notna().any(axis=0).to_numpy()], scale
    msg = (
        f"No predicted expression in `obsm[{keys.expression!r}]` or `layers[{keys.layer!r}]`: "
        "run `epifoundation.tl.embed` or `epifoundation.tl.predict_expression` first, or pass the "
        "`key_added=` of its results."
    )
    raise ValueError(msg)


def read_results(data: DataOrFile) -> Data:
    """The object, or that of the file."""
    return read_cells(data) if isinstance(data, str | Path) else data


def _report(atac: AnnData, key: str) -> dict[str, Any]:
    report = atac.uns.get(key)
    return dict(report) if isinstance(report, Mapping) else {}


def _names(report: Mapping[str, Any], key: str) -> list[str]:
    """The names of columns; none in files of version 0.1, where columns are called by them."""
    names = report.get(key, ())
    return [] if isinstance(names, str) else [str(name) for name in names]


def _obs(data: Data, atac: AnnData, modality: str) -> pd.DataFrame:
    """Columns of the ATAC modality, and of the MuData."""
    obs = atac.obs
    if data is atac:
        return obs
    check_unique(data.obs_names, "cell names", "call `obs_names_make_unique()`")
    others = data.obs.reindex(obs.index)
    new = [name for name in others if name not in obs and not str(name).startswith(f"{modality}:")]
    return obs.join(others[new])
