"""Validation of user input. Each error names the value, what is expected and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from ._pairing import ALL_CELLS, UNIQUE, CellNames, check_axis, reindexed
from ._warn import warn

Data: TypeAlias = AnnData | MuData
RNG: TypeAlias = int | np.random.Generator | None


def get_atac(data: Any, modality: str = "atac", *, peaks: bool = True) -> AnnData:
    """The ATAC modality, or `data` itself when it is an AnnData.

    Use ``peaks=False`` for result files, which have no peaks.
    """
    if isinstance(data, AnnData):
        atac = data
    elif isinstance(data, MuData):
        atac = get_modality(data, modality, option="modality")
        check_unique(atac.obs_names, "cell names", UNIQUE)
    else:
        msg = f"Expected an AnnData or MuData object, got {type(data).__name__}."
        raise TypeError(msg)
    if peaks and not atac.n_vars:
        msg = "The ATAC modality has no peaks."
        raise ValueError(msg)
    check_unique(atac.var_names, "peak names", "drop or merge the copies")
    return atac


def get_modality(data: MuData, modality: str, *, option: str) -> AnnData:
    """A modality by name; `option` is the argument named in the error."""
    if modality not in data.mod:
        msg = f"No modality {modality!r} in the MuData; it has {list(data.mod)}. "
        msg += f"Name one with `{option}=`."
        raise ValueError(msg)
    return data.mod[modality]


def get_matrix(adata: AnnData, layer: str | None) -> Any:
    """``adata.X``, or a layer by name."""
    if layer is None:
        if adata.X is None:
            msg = f"The object has no `X` (layers: {layer_names(adata)}): "
            msg += "set `X` to the cells x peaks matrix or name a layer."
            raise ValueError(msg)
        return adata.X
    if layer not in layer_names(adata):
        msg = f"No layer {layer!r}; available: {layer_names(adata)}."
        raise ValueError(msg)
    return adata.layers[layer]


def layer_names(adata: AnnData) -> list[str]:
    """Names of the layers; anndata 0.13 lists ``X`` among them as None."""
    return [name for name in adata.layers if name is not None]


def check_unique(names: pd.Index, what: str, cure: str) -> None:
    """Raise ValueError if names occur more than once."""
    if not names.is_unique:
        copies = names[names.duplicated()]
        msg = f"Duplicate {what}: {len(copies):,} of {len(names):,}, first {copies[0]!r}; {cure}."
        raise ValueError(msg)


def check_values(
    values: np.ndarray, indptr: np.ndarray, names: pd.Index, what: str, *, signed: bool = False
) -> None:
    """Raise ValueError on NaN and infinite values, and on negative ones unless `signed`.

    The cell ``names[i]`` has ``values[indptr[i] : indptr[i + 1]]``.
    """
    if not values.size:
        return
    # Both are NaN if any value is, so these two passes need no mask
    low, high = values.min(), values.max()
    if np.isfinite(low) and np.isfinite(high) and (signed or low >= 0):
        return
    finite = np.isfinite(values)
    bad = ~finite if not finite.all() else values < 0
    first = int(np.flatnonzero(bad)[0])
    cell = names[int(np.searchsorted(indptr, first, side="right")) - 1]
    expected = "finite numbers" if signed else "non-negative counts"
    msg = (
        f"{what} must contain {expected}: found {values[first]} in cell {cell!r} "
        f"({int(bad.sum()):,} such values in this block of cells). Pass the raw counts."
    )
    raise ValueError(msg)


def obs_column(data: Data, atac: AnnData, key: str, option: str, *, name: str = "") -> pd.Series:
    """A column of ``obs``, indexed by the cells of the ATAC modality.

    ``"modality:column"`` is a column of that modality of the MuData. Other keys are looked up in
    the ATAC modality, then in the MuData. Cells that are missing from the table, see
    :func:`._pairing.reindexed`, and values that are blank are NaN.
    """
    key = text(key, option)
    modalities = data.mod if isinstance(data, MuData) else {}
    modality, _, column = key.partition(":")
    atac_name = next((each for each, adata in modalities.items() if adata is atac), "atac")
    cells = CellNames.of(atac.obs_names, atac_name)
    where = f"`obs`{f' of {name}' if name else ''}"
    if modality in modalities and column in modalities[modality].obs.columns:
        if modality != atac_name:
            check_axis(data.axis, name or "the data")
        table = modalities[modality].obs
        check_single(table.columns, column, where)
        code = CellNames.of(table.index, modality).code
        values = reindexed(table[column], code, cells, name=name)
    elif key in atac.obs.columns:
        check_single(atac.obs.columns, key, where)
        values = atac.obs[key]
    elif data is not atac and key in data.obs.columns:
        check_single(data.obs.columns, key, where)
        values = reindexed(data.obs[key], ALL_CELLS, cells, name=name)
    else:
        columns = [*atac.obs.columns, *([] if data is atac else data.obs.columns)]
        others = {one: adata.obs.columns for one, adata in modalities.items() if adata is not atac}
        raise missing_column(key, option, columns, others, name)
    return without_blanks(values, key, option, name)


def check_single(columns: Iterable[Any], key: str, table: str) -> None:
    """Raise ValueError if a table has several columns of this name."""
    n_columns = list(columns).count(key)
    if n_columns > 1:
        msg = f"{table} has {n_columns} columns {key!r}: rename or drop the copies."
        raise ValueError(msg)


def without_blanks(values: pd.Series, key: str, option: str, name: str = "") -> pd.Series:
    """The column with NaN in place of text that is empty or blank, with a warning."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        names = values.cat.categories
    elif values.dtype.kind in "OTU" or pd.api.types.is_string_dtype(values.dtype):
        try:
            names = values.unique()
        except TypeError as error:
            kinds = sorted({type(value).__name__ for value in values})
            msg = f"`{option}={key!r}`: the column has values of the types {kinds}; expected text "
            msg += "or numbers."
            raise TypeError(msg) from error
    else:
        return values
    blank = [one for one in names if isinstance(one, str) and not one.strip()]
    if not blank:
        return values
    is_blank = values.isin(blank)
    if isinstance(values.dtype, pd.CategoricalDtype):
        values = values.cat.remove_categories(blank)
    else:
        values = values.mask(is_blank)
    if is_blank.any():
        msg = f"`{option}={key!r}` is blank for {int(is_blank.sum()):,} of {len(values):,} cells"
        warn(f"{msg}{f' of {name}' if name else ''}: they are treated as missing.")
    return values


def missing_column(
    key: str,
    option: str,
    columns: Iterable[Any],
    modalities: Mapping[str, Iterable[Any]],
    name: str = "",
) -> ValueError:
    """The error for a missing column; it lists the available ones."""
    known = set(columns)  # names may be numbers
    known |= {f"{each}:{column}" for each in modalities for column in set(modalities[each]) - known}
    available = sorted(known, key=str)
    similar = next((each for each in available if str(each).endswith(f":{key}")), None)
    hint = "" if similar is None else f" Did you mean `{option}={similar!r}`?"
    of = f" of {name}" if name else ""
    msg = f"`{option}={key!r}` is not a column of `obs`{of}; available: {available}.{hint}"
    return ValueError(msg)


def text(value: Any, option: str) -> str:
    """`value` if it is a non-empty string; else TypeError or ValueError."""
    if not isinstance(value, str):
        msg = f"`{option}` must be a string, got {value!r} ({type(value).__name__})."
        raise TypeError(msg)
    if not value:
        msg = f"`{option}` is an empty string; pass a name."
        raise ValueError(msg)
    return value


def names_of(value: Any, option: str) -> list[str]:
    """One name or several as a list; a set is sorted."""
    if isinstance(value, str):
        return [value]
    names = sorted(value, key=str) if isinstance(value, set | frozenset) else value
    is_scalar = isinstance(names, np.ndarray) and not names.ndim
    names = list(names) if isinstance(names, Iterable) and not is_scalar else None
    if names is None or not all(isinstance(name, str) for name in names):
        wrong = value if names is None else next(n for n in names if not isinstance(n, str))
        msg = f"`{option}` must be a name or a sequence of names, got {wrong!r} "
        msg += f"({type(wrong).__name__})."
        raise TypeError(msg)
    return [str(name) for name in names]


def one_of(value: Any, options: Iterable[Any], option: str) -> None:
    """Raise ValueError unless `value` is one of the options."""
    options = list(options)
    # Comparing other types, such as tables, may fail
    if not any(isinstance(value, type(each)) and value == each for each in options):
        msg = f"`{option}` must be one of {options}, got {value!r}."
        raise ValueError(msg)


def integer(value: Any, option: str, *, minimum: int) -> int:
    """`value` as int; ValueError unless it is an integer of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < minimum:
        msg = f"`{option}` must be an integer of at least {minimum}, got {value!r}."
        raise ValueError(msg)
    return int(value)


def fraction(value: Any, option: str) -> None:
    """Raise ValueError unless `value` lies between 0 and 1."""
    is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= 1:
        msg = f"`{option}` must lie between 0 and 1, got {value!r}."
        raise ValueError(msg)


def generator_of(rng: RNG) -> np.random.Generator:
    """The generator of a seed; TypeError if it is neither."""
    try:
        return np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        msg = f"`rng` must be a seed (a non-negative integer), a Generator or None, got {rng!r}."
        raise TypeError(msg) from error


def check_writable(data: Data, atac: AnnData, *, copy: bool) -> None:
    """Raise ValueError, before any work, if results cannot be written."""
    if copy and isinstance(data, MuData) and data.isbacked:
        msg = "A backed MuData cannot be copied: use `copy=False`, or read it without `backed`."
        raise ValueError(msg)
    if not copy and atac.is_view and atac.isbacked:
        msg = "Results cannot be written into a view of backed data: "
        msg += "use `copy=True`, or call `.to_memory()` first."
        raise ValueError(msg)
