"""Read the groups of cells in any form that people have."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from .._files import read_columns
from .._validate import check_unique, without_blanks
from ._read_barcodes import HEADERS, check_prefixes, listed_barcodes

COLUMN = "`groups=adata.obs['cell_type']`"


class CellGroups(NamedTuple):
    """Cells that are in a group: their names, the code of the group of each, names of groups."""

    cells: pd.Index
    codes: np.ndarray
    names: list[str]


def read_groups(groups: Any, prefixes: list[str]) -> CellGroups:
    """The group of each cell; cells without a group are left out.

    Parameters
    ----------
    groups
        A Series indexed by barcodes, a mapping from barcodes to groups or from groups to barcodes,
        or a file with barcodes and groups in the first two columns.
    prefixes
        What the names of cells of each sample begin with.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    TypeError, ValueError
        They are no groups of cells, no cell is in a group, or a cell occurs twice.
    """
    column = without_blanks(_column(groups), "groups", "groups")
    check_unique(column.index, "barcodes in `groups`", "drop the copies")
    known = column[column.notna().to_numpy()]
    if not len(known):
        fault = f"none of its {len(column):,} cells has a group" if len(column) else "it is empty"
        msg = f"`groups` names no cells: {fault}. Pass a column of `obs`, as in {COLUMN}."
        raise ValueError(msg)
    if isinstance(known.dtype, pd.CategoricalDtype):
        known = known.cat.remove_unused_categories()
        order, names = pd.factorize(known.cat.categories.astype(str))  # 1 and "1" are one
        codes = order[known.cat.codes.to_numpy(np.int64)]
    else:
        codes, names = pd.factorize(known.astype(str).astype(object), sort=True)
    cells = pd.Index(known.index.astype(str), dtype=object)
    check_prefixes(cells, prefixes)
    return CellGroups(cells, codes, [str(name) for name in names])


def _column(groups: Any) -> pd.Series:
    """The group of each barcode."""
    if isinstance(groups, pd.Series):
        return groups
    if isinstance(groups, Mapping):
        if all(isinstance(value, str) or not np.iterable(value) for value in groups.values()):
            return pd.Series(dict(groups), dtype=object)
        listed = {name: listed_barcodes(value) for name, value in groups.items()}
        cells = [cell for part in listed.values() for cell in part]
        labels = [str(name) for name, part in listed.items() for _ in part]
        return pd.Series(pd.Categorical(labels, [str(name) for name in listed]), index=cells)
    if isinstance(groups, str | Path):
        return _read_file(Path(groups))
    if isinstance(groups, AnnData | MuData | pd.DataFrame):
        msg = f"`groups` must be one column with the groups of cells, as in {COLUMN}, got "
        msg += f"{type(groups).__name__}."
        raise TypeError(msg)
    msg = f"`groups` must be a column of `obs`, as in {COLUMN}, a mapping from barcodes to groups "
    msg += f"or a file with both, got {type(groups).__name__}."
    raise TypeError(msg)


def _read_file(path: Path) -> pd.Series:
    if not path.is_file():
        msg = f"`groups` must be a column of `obs`, as in {COLUMN}, or a file with barcodes and "
        msg += f"groups; the file {str(path)!r} does not exist."
        raise FileNotFoundError(msg)
    rows = read_columns(path, 2)
    if rows and rows[0][0].lower() in HEADERS | {""}:
        del rows[0]
    return pd.Series([row[1] for row in rows], index=[row[0] for row in rows], dtype=object)
