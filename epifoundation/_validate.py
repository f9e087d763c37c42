"""Checks at the public border. Each error names the value, what was expected and the cure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

Data: TypeAlias = AnnData | MuData
RNG: TypeAlias = int | np.random.Generator | None


def get_atac(data: Any, modality: str = "atac", *, peaks: bool = True) -> AnnData:
    """The ATAC modality: `data` itself when it is an AnnData. Without `peaks`, it may be a file of results, which has none."""
    if isinstance(data, AnnData):
        atac = data
    elif isinstance(data, MuData):
        atac = get_modality(data, modality, option="modality")
        check_unique(atac.obs_names, "cell names", "call `obs_names_make_unique()`")
    else:
        msg = f"Expected an AnnData or MuData object, got {type(data).__name__}."
        raise TypeError(msg)
    if peaks and not atac.n_vars:
        msg = "The ATAC modality has no peaks."
        raise ValueError(msg)
    check_unique(atac.var_names, "peak names", "drop or merge the copies")
    return atac


def get_modality(data: MuData, modality: str, *, option: str) -> AnnData:
    """The modality of that name, or an error that lists the names there are."""
    if modality not in data.mod:
        msg = f"No modality {modality!r} in the MuData; it has {list(data.mod)}. Name one with `{option}=`."
        raise ValueError(msg)
    return data.mod[modality]


def get_matrix(adata: AnnData, layer: str | None) -> Any:
    """``adata.X`` or the layer of that name."""
    if layer is None:
        if adata.X is None:
            msg = f"The object has no `X` (layers: {layer_names(adata)}); set `X` to the cells x peaks matrix or name a layer."
            raise ValueError(msg)
        return adata.X
    if layer not in layer_names(adata):
        msg = f"No layer {layer!r}; there are {layer_names(adata)}."
        raise ValueError(msg)
    return adata.layers[layer]


def layer_names(adata: AnnData) -> list[str]:
    """Names of the layers, without the None that anndata 0.13 lists for ``X``."""
    return [name for name in adata.layers if name is not None]


def check_unique(names: pd.Index, what: str, cure: str) -> None:
    """Raise when `names` repeat."""
    if not names.is_unique:
        copies = names[names.duplicated()]
        msg = f"Duplicate {what}: {len(copies):,} of {len(names):,}, first {copies[0]!r}; {cure}."
        raise ValueError(msg)


def check_paired(atac: AnnData, rna: AnnData) -> None:
    """Raise unless both modalities hold the same cells in the same order."""
    if atac.n_obs == rna.n_obs and (atac.obs_names == rna.obs_names).all():
        return
    shared = atac.obs_names.intersection(rna.obs_names)
    msg = (
        f"The modalities are not paired: {atac.n_obs:,} cells with ATAC, {rna.n_obs:,} with RNA, {len(shared):,} with both"
        f"{', in another order' if len(shared) == atac.n_obs == rna.n_obs else ''}. "
        "Keep the shared cells: `shared = atac.obs_names.intersection(rna.obs_names)`, then "
        "`MuData({'atac': atac[shared].copy(), 'rna': rna[shared].copy()})`."
    )
    raise ValueError(msg)


def check_values(values: np.ndarray, indptr: np.ndarray, names: pd.Index, what: str, *, signed: bool = False) -> None:
    """Raise on NaN and infinite values, and on negative ones unless `signed`.

    The cell ``names[i]`` has ``values[indptr[i] : indptr[i + 1]]``.
    """
    if not values.size:
        return
    # The minimum is NaN when any value is, so one pass over the data suffices.
    least, most = values.min(), values.max()
    if np.isfinite(least) and np.isfinite(most) and (signed or least >= 0):
        return
    finite = np.isfinite(values)
    bad = ~finite if not finite.all() else values < 0
    first = int(np.flatnonzero(bad)[0])
    cell = names[int(np.searchsorted(indptr, first, side="right")) - 1]
    expected = "finite numbers" if signed else "non-negative counts"
    msg = (
        f"{what} must hold {expected}: found {values[first]} in cell {cell!r} "
        f"({int(bad.sum()):,} such values where this was seen). Pass the raw counts."
    )
    raise ValueError(msg)


def obs_column(data: Data, atac: AnnData, key: str, option: str, *, name: str = "") -> pd.Series:
    """A column of ``obs``, one value a cell of the ATAC modality, indexed by its names.

    ``"modality:column"`` is that column of a modality of the MuData. Any other key is looked for in the ATAC modality, then in the MuData. Cells
    that the other table does not hold are NaN.
    """
    modalities = data.mod if isinstance(data, MuData) else {}
    modality, _, column = key.partition(":")
    if modality in modalities and column in modalities[modality].obs.columns:
        return modalities[modality].obs[column].reindex(atac.obs_names)
    if key in atac.obs.columns:
        return atac.obs[key]
    if data is not atac and key in data.obs.columns:
        return data.obs[key].reindex(atac.obs_names)
    there = [*atac.obs.columns, *([] if data is atac else data.obs.columns)]
    others = {each: adata.obs.columns for each, adata in modalities.items() if adata is not atac}
    raise no_column(key, option, there, others, name)


def no_column(
    key: str, option: str, there: Iterable[str], modalities: Mapping[str, Iterable[str]], name: str = ""
) -> ValueError:
    """The error for a column that is in no table, with those that are."""
    there = set(map(str, there))
    named = {f"{modality}:{column}" for modality, columns in modalities.items() for column in set(columns) - there}
    of = f" of {name}" if name else ""
    cure = next((f" Did you mean `{option}={each!r}`?" for each in sorted(named) if each.endswith(f":{key}")), "")
    return ValueError(f"`{option}={key!r}` is no column of `obs`{of}; there are {sorted(there | named)}.{cure}")


def one_of(value: Any, options: Iterable[Any], option: str) -> None:
    """Raise unless `value` is one of the options."""
    options = list(options)
    if value not in options:
        msg = f"`{option}` must be one of {options}, got {value!r}."
        raise ValueError(msg)


def integer(value: Any, option: str, *, least: int) -> int:
    """`value` as int, or an error."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        msg = f"`{option}` must be an integer of at least {least}, got {value!r}."
        raise ValueError(msg)
    return int(value)


def fraction(value: Any, option: str) -> None:
    """Raise unless `value` lies between 0 and 1."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0 <= value <= 1:
        msg = f"`{option}` must lie between 0 and 1, got {value!r}."
        raise ValueError(msg)


def check_writable(data: Data, atac: AnnData, *, copy: bool) -> None:
    """Raise before the work, rather than after it, where results cannot be written."""
    if copy and isinstance(data, MuData) and data.isbacked:
        msg = "A backed MuData cannot be copied: use `copy=False`, or read it without `backed`."
        raise ValueError(msg)
    if not copy and atac.is_view and atac.isbacked:
        msg = "Results cannot be written into a view of backed data: use `copy=True`, or call `.to_memory()` first."
        raise ValueError(msg)
