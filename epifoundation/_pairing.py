"""Cells of two tables, such as two modalities, matched by name."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ._renaming import advice, find_renaming
from ._warn import warn

ALL_CELLS = "mdata.obs.index"  # which follows the names of the modalities
UNIQUE = (
    "before samples are combined, add the sample to the names in both modalities. "
    "`obs_names_make_unique()` numbers copies by their order, which may differ between modalities"
)


@dataclass(frozen=True)
class CellNames:
    """Names of cells, and the Python code of the attribute that has them."""

    names: pd.Index
    code: str

    @classmethod
    def of(cls, names: pd.Index, modality: str) -> CellNames:
        """Names of the cells of a modality."""
        return cls(names, f'mdata["{modality}"].obs_names')


def match_cells(
    cells: CellNames, others: CellNames, consequence: str, *, name: str = "", needed: bool = False
) -> np.ndarray:
    """Row in `others` of each of `cells`, -1 for those that are not in it.

    Warns if fewer than half of the smaller one are in both, or if renaming would match more.

    Parameters
    ----------
    cells, others
        The names.
    consequence
        Last sentence of the message: what happens to the cells that are not in both.
    name
        Name of the data, such as a path.
    needed
        Raise ValueError if no cell is in both.
    """
    if not len(cells.names) or cells.names.equals(others.names):
        return np.arange(len(cells.names))
    for each in (cells, others):
        if not each.names.is_unique:
            copies = each.names[each.names.duplicated()]
            msg = f"Duplicate cell names in `{each.code}`: {len(copies):,} of {len(each.names):,}, "
            msg += f"first {copies[0]!r}; {UNIQUE}."
            raise ValueError(msg)
    rows = others.names.get_indexer(cells.names)
    n_both, smaller = int((rows >= 0).sum()), min(len(cells.names), len(others.names))
    if n_both == smaller > 0:
        return rows
    rest = cells.names[rows < 0], others.names.difference(cells.names, sort=False)
    cure = _cure(cells, others, *rest)
    if cure or not n_both or 2 * n_both < smaller:
        of = "" if name in ("", "the data") else f" of {name}"
        msg = f"{n_both:,} cells are in both `{cells.code}` ({len(cells.names):,}) and "
        msg += f"`{others.code}` ({len(others.names):,}){of}."
        if smaller:
            msg += f" Others are named {str(rest[0][0])!r} and {str(rest[1][0])!r}, for example. "
            msg += cure or advice(*rest)
        msg += f" {consequence}" if consequence else ""
        if needed and not n_both:
            raise ValueError(msg)
        warn(msg)
    return rows


def reindexed(column: pd.Series, table: str, cells: CellNames, *, name: str = "") -> pd.Series:
    """A column of another table, whose names have the code `table`, in the order of the cells.

    Cells that are not in the table are NaN. Arguments and messages as :func:`match_cells`.
    """
    consequence = f"The other cells have no value of {column.name!r}."
    names = CellNames(column.index, table)
    rows = match_cells(cells, names, consequence, name=name, needed=True)
    return column if np.array_equal(rows, np.arange(len(column))) else column.reindex(cells.names)


def check_axis(axis: int, name: str) -> None:
    """Raise ValueError if the modalities of a MuData have no cells in common by definition."""
    if axis == 1:
        msg = f"{name} is a MuData with `axis=1`: its modalities share variables, and cells of the "
        msg += "same name are different cells. If they are the same cells, combine them with "
        msg += "`mudata.MuData(dict(mdata.mod))`."
        raise ValueError(msg)


def _cure(cells: CellNames, others: CellNames, rest: pd.Index, other_rest: pd.Index) -> str:
    """Sentence with the code after which most of the `rest` are in both, or an empty string."""
    is_fixed = others.code == ALL_CELLS
    found = find_renaming(cells.names, others.names, rest, other_rest, fixed=is_fixed)
    if found is None:
        return ""
    lines = []
    for code, change in zip((cells.code, others.code), found.codes, strict=True):
        lines += [f"{code} = {code}{change}"] if change else []
        lines += ["mdata.update()"] if change and code.startswith("mdata") else []
    return f"{found.n_both:,} are in both after `{'; '.join(lines)}`."
