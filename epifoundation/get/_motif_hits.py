"""Which peaks have the motif of which transcription factor, from the tables of other packages."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from .._validate import check_unique
from .._warn import warn

LONG = (("source", "target"), ("tf", "peak"))  # columns of a table with one row per hit
NAMES = "motif_name"  # `uns`, written by pychromvar
JASPAR = re.compile(r"^[A-Z]+\d+\.\d+\.(?=.)")  # such as "MA0080.7."


def motif_hits(atac: AnnData, motifs: pd.DataFrame | str) -> pd.DataFrame:
    """Columns ``source``, a TF, and ``peak``, sorted, each pair once.

    Raises
    ------
    ValueError
        `motifs` is no such table, has no hits, or none in peaks of the data.
    """
    table = _stored(atac, motifs) if isinstance(motifs, str) else motifs
    if max(table.index.nlevels, table.columns.nlevels) > 1:
        msg = "`motifs` has an index of several levels: name peaks and TFs by one level."
        raise ValueError(msg)
    columns = next((pair for pair in LONG if set(pair) <= set(table.columns)), None)
    hits = _of_wide(table, atac) if columns is None else _of_long(table, *columns)
    if not len(hits):
        msg = f"`motifs` has no hits (a table of {len(table):,} x {table.shape[1]:,})."
        raise ValueError(msg)
    known = hits["peak"].isin(atac.var_names.astype(str))
    n_peaks, n_unknown = hits["peak"].nunique(), hits.loc[~known, "peak"].nunique()
    if not known.any():
        raise _other_peaks(hits["peak"], atac)
    if n_unknown:
        warn(
            f"{n_unknown:,} of {n_peaks:,} peaks with a motif are not peaks of the data, such as "
            f"{hits.loc[~known, 'peak'].iloc[0]!r}: they are left out."
        )
    hits = hits[known].drop_duplicates()
    return hits.sort_values(["source", "peak"], kind="stable", ignore_index=True)


def _stored(atac: AnnData, key: str) -> pd.DataFrame:
    """A table of `varm` as a DataFrame of peaks x TFs."""
    if key not in atac.varm:
        msg = f"`motifs={key!r}` is not in `varm`; available: {list(atac.varm)}. "
        msg += "Match motifs first (`pychromvar.match_motif`), or pass a table."
        raise ValueError(msg)
    table = atac.varm[key]
    if isinstance(table, pd.DataFrame):
        return table
    names = [str(name) for name in atac.uns.get(NAMES, ())]
    if len(names) != table.shape[1]:
        msg = f"`varm[{key!r}]` has {table.shape[1]:,} columns, but `uns[{NAMES!r}]` has "
        msg += f"{len(names):,} names: store a DataFrame whose columns are the TFs."
        raise ValueError(msg)
    names = [JASPAR.sub("", name) for name in names]
    if sp.issparse(table):
        return pd.DataFrame.sparse.from_spmatrix(sp.csc_matrix(table), atac.var_names, names)
    return pd.DataFrame(np.asarray(table), atac.var_names, names)


def _of_long(table: pd.DataFrame, source: str, target: str) -> pd.DataFrame:
    missing = table[[source, target]].isna().any(axis=1)
    if missing.any():
        msg = f"`motifs` has {int(missing.sum()):,} rows without {source!r} or {target!r}: "
        msg += "drop them."
        raise ValueError(msg)
    return pd.DataFrame(
        {
            "source": table[source].astype(str).to_numpy(),
            "peak": table[target].astype(str).to_numpy(),
        }
    )


def _of_wide(table: pd.DataFrame, atac: AnnData) -> pd.DataFrame:
    peaks = table.index.astype(str)
    if not peaks.isin(atac.var_names.astype(str)).any():
        raise _other_peaks(peaks, atac, table)
    check_unique(peaks, "peaks in the index of `motifs`", "drop or merge the copies")
    rows, columns = _positive(table)
    names = table.columns.astype(str).to_numpy()
    return pd.DataFrame({"source": names[columns], "peak": peaks.to_numpy()[rows]})


def _positive(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of positive values; ValueError if a value is negative or no number."""
    kinds = table.dtypes
    if all(isinstance(kind, pd.SparseDtype) for kind in kinds) and len(kinds):
        matrix = table.sparse.to_coo()
        values, rows, columns = matrix.data, matrix.row, matrix.col
    elif all(map(_is_number, kinds)):
        dense: Any = table.to_numpy(dtype=float, na_value=np.nan)
        rows, columns = np.nonzero(dense)
        values = dense[rows, columns]
    else:
        name = next(name for name, kind in kinds.items() if not _is_number(kind))
        msg = "`motifs` must have true or positive values where a motif occurs; the column "
        msg += f"{name!r} has other values. Tables of one row per hit need columns 'tf' and 'peak'."
        raise ValueError(msg)
    if np.isnan(values).any() or (values < 0).any():
        msg = "`motifs` must have true or positive values where a motif occurs, found "
        msg += f"{values[np.isnan(values) | (values < 0)][0]}: pass `scores > threshold`."
        raise ValueError(msg)
    is_hit = values > 0
    return rows[is_hit], columns[is_hit]


def _is_number(kind: Any) -> bool:
    """Whether it is the type of real numbers or booleans."""
    types = pd.api.types
    return types.is_numeric_dtype(kind) and not types.is_complex_dtype(kind)


def _other_peaks(peaks: Any, atac: AnnData, table: pd.DataFrame | None = None) -> ValueError:
    """The error for a table of other peaks."""
    first = next(iter(peaks), None)
    msg = f"No peak in `motifs` is a peak of the data: they are called {first!r}, "
    msg += f"those of the data {atac.var_names[0]!r}."
    if table is not None and table.columns.astype(str).isin(atac.var_names.astype(str)).any():
        msg += " Peaks must be its rows: pass `motifs.T`."
    else:
        msg += " Match motifs in the peaks of the data, and call them by its `var_names`."
    return ValueError(msg)
