"""The tables ``obs`` and ``var`` of a file, read by column, as any version of anndata wrote them.

anndata 0.7 wrote the codes of categories as a column and their names beside it; earlier versions
wrote the table as one array of records, and the names of categories into ``uns``.
"""

from __future__ import annotations

from typing import Any, override

import numpy as np
import pandas as pd

from .groups import read_element


class StoredTable:
    """A table that is a group of columns.

    Parameters
    ----------
    parent, part
        Group of an AnnData in an open file, and ``"obs"`` or ``"var"``.
    name
        Name of the file in errors.

    Attributes
    ----------
    columns
        Names of the columns, without the index.
    """

    columns: list[str]

    def __init__(self, parent: Any, part: str, name: str) -> None:
        self.parent, self.part, self.name, self.element = parent, part, name, parent[part]
        self.columns = self._columns()

    @staticmethod
    def of(parent: Any, part: str, name: str) -> StoredTable | None:
        """The table `part` of an AnnData; None if there is none."""
        element = parent.get(part)
        if hasattr(element, "keys"):
            return StoredTable(parent, part, name) if "_index" in element.attrs else None
        has_fields = getattr(element, "dtype", None) is not None and element.dtype.names
        return Records(parent, part, name) if has_fields else None

    @property
    def is_old(self) -> bool:
        """Whether anndata 0.7 or an earlier version wrote the table."""
        return self.element.attrs.get("encoding-version") == "0.1.0"

    def _columns(self) -> list[str]:
        return [_text(column) for column in self.element.attrs.get("column-order", ())]

    @property
    def index(self) -> Any:
        """The names of the rows, an array that can be sliced."""
        element = self.element[_text(self.element.attrs["_index"])]
        if element.attrs.get("encoding-type") == "nullable-string-array":
            element = element["values"]
        return element.asstr() if hasattr(element, "asstr") else element  # h5py has asstr

    def column(self, key: str) -> Any:
        """One of the columns."""
        element = self.element[key]
        if not self.is_old or hasattr(element, "keys"):
            return read_element(self.element, key, self.name)
        values, where = _array(element, self.name), element.attrs.get("categories")
        if where is None:
            return values
        names = self.element[where]  # a reference, or a path
        ordered = bool(names.attrs.get("ordered", False))
        return pd.Categorical.from_codes(values, _array(names, self.name), ordered=ordered)

    def read(self) -> pd.DataFrame:
        """The whole table."""
        if not self.is_old:
            return read_element(self.parent, self.part, self.name)
        return pd.DataFrame(
            {key: self.column(key) for key in self.columns}, index=pd.Index(_decoded(self.index[:]))
        )


class Records(StoredTable):
    """A table that is an array of records: the index is the first field."""

    is_old = True

    @override
    def _columns(self) -> list[str]:
        return list(self.element.dtype.names[1:])

    @property
    @override
    def index(self) -> Any:
        return _Field(self.element, self.element.dtype.names[0])

    @override
    def column(self, key: str) -> Any:
        values, where = _Field(self.element, key)[:], f"{key}_categories"
        uns = self.parent.get("uns", {})
        if where not in uns or values.dtype.kind not in "iu":
            return values
        categories = np.atleast_1d(_array(uns[where], self.name))
        # As anndata: they may be those of a column of this name in the other table
        if (values >= len(categories)).any():
            return values
        return pd.Categorical.from_codes(values, categories)


class _Field:
    """One field of an array of records."""

    def __init__(self, element: Any, field: str) -> None:
        self.element, self.field, self.shape = element, field, element.shape

    def __getitem__(self, rows: slice) -> np.ndarray:
        return _decoded(self.element[rows][self.field])


def _array(element: Any, name: str) -> np.ndarray:
    """An array of an older file, which has no description of its own."""
    try:
        return _decoded(np.asarray(element[()]))
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        msg = f"`{element.name.strip('/')}` of {name} cannot be read ({error}). "
        msg += "Is the file truncated?"
        raise OSError(msg) from error


def _decoded(values: np.ndarray) -> np.ndarray:
    """Text as str; other values as they are."""
    if values.dtype.kind not in "SOU":
        return values
    texts = [_text(value) for value in values.ravel()]
    return np.array(texts, dtype=object).reshape(values.shape)


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value
