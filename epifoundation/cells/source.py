"""Read cells by rows from an AnnData or MuData, or from a file without loading it whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, override

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData

from .._validate import get_matrix, get_modality, obs_column
from .matrix import read_rows, row_reader

Located: TypeAlias = AnnData | MuData | str | Path
# Input of tools that read cells: one of these, several, or a mapping from names
Inputs: TypeAlias = Located | Sequence[Located] | Mapping[str, Located]


class Source:
    """A matrix of cells x features that is read by rows.

    Parameters
    ----------
    name
        Name in errors: a path, or "the data".

    Attributes
    ----------
    modality
        Name of the modality in a MuData.
    axis
        Axis that the modalities of a MuData share: 0, cells.
    """

    name: str
    modality: str = "atac"
    axis: int = 0
    var: pd.DataFrame
    n_obs: int

    def __init__(self, name: str) -> None:
        self.name = name

    def names(self, start: int, stop: int) -> pd.Index:
        """Names of the cells in these rows."""
        raise NotImplementedError

    def column(self, key: str, option: str) -> pd.Series:
        """The column `key` of ``obs``, by row."""
        raise NotImplementedError

    def has_column(self, key: str) -> bool:
        """Whether ``obs`` of this modality has the column `key`."""
        raise NotImplementedError

    def matrix(self, layer: str | None) -> Any:
        """``X`` or a layer, for :func:`.matrix.read_rows`."""
        raise NotImplementedError

    def uns(self, key: str) -> Any:
        """An entry of ``uns``, or None."""
        raise NotImplementedError

    def other(self, modality: str) -> Source | None:
        """Another modality of the same MuData, or None."""
        raise NotImplementedError

    def read(self, start: int, stop: int, layer: str | None = None) -> sp.csr_matrix:
        """Rows as CSR with the stored values."""
        matrix = self.matrix(layer)
        try:
            return read_rows(matrix, start, stop)
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            raise self._unreadable("Rows", start, stop, error) from error

    def _unreadable(self, what: str, start: int, stop: int, error: Exception) -> Exception:
        return OSError(
            f"{what} {start:,} to {stop - 1:,} of {self.name} could not be read ({error}). "
            "Was it moved, truncated or overwritten?"
        )

    def stored_entries(self) -> np.ndarray:
        """Number of stored entries before each row, and of all, (n_obs + 1,)."""
        matrix = self.matrix(None)
        if hasattr(matrix, "indptr"):
            return np.asarray(matrix.indptr, dtype=np.int64)
        return np.arange(self.n_obs + 1, dtype=np.int64) * len(self.var)

    def bounds(self, max_cells: int, max_entries: int) -> np.ndarray:
        """Row offsets of blocks with at most `max_cells` cells and `max_entries` entries.

        A single cell with more entries is a block of one.
        """
        entries = self.stored_entries()
        offsets = [0]
        while offsets[-1] < self.n_obs:
            start = offsets[-1]
            limit = entries[start] + max_entries
            last = int(np.searchsorted(entries, limit, side="right")) - 1
            offsets.append(min(max(last, start + 1), start + max_cells, self.n_obs))
        return np.array(offsets)

    def close(self) -> None:
        """Close the file."""


class InMemory(Source):
    """An AnnData, or a modality of a MuData; backed or not."""

    def __init__(self, data: AnnData | MuData, modality: str, name: str) -> None:
        super().__init__(name)
        self.data, self.modality = data, modality
        is_mudata = isinstance(data, MuData)
        self.axis = data.axis if is_mudata else 0
        self.adata = get_modality(data, modality, option="modality") if is_mudata else data
        self.var, self.n_obs = self.adata.var, self.adata.n_obs
        self._matrices: dict[str | None, Any] = {}

    @override
    def names(self, start: int, stop: int) -> pd.Index:
        return self.adata.obs_names[start:stop]

    @override
    def column(self, key: str, option: str) -> pd.Series:
        values = obs_column(self.data, self.adata, key, option, name=self.name)
        return values.reset_index(drop=True)

    @override
    def has_column(self, key: str) -> bool:
        return key in self.adata.obs.columns

    @override
    def matrix(self, layer: str | None) -> Any:
        if layer not in self._matrices:
            what = f"{'`X`' if layer is None else f'layer {layer!r}'} of {self.name}"
            self._matrices[layer] = row_reader(get_matrix(self.adata, layer), what)
        return self._matrices[layer]

    @override
    def _unreadable(self, what: str, start: int, stop: int, error: Exception) -> Exception:
        if self.adata.isbacked:
            return super()._unreadable(what, start, stop, error)
        msg = f"{what} {start:,} to {stop - 1:,} of {self.name} are damaged ({error}). Build the "
        msg += "matrix again."
        return ValueError(msg)

    @override
    def uns(self, key: str) -> Any:
        return self.adata.uns.get(key)

    @override
    def other(self, modality: str) -> Source | None:
        if not isinstance(self.data, MuData) or modality not in self.data.mod:
            return None
        return InMemory(self.data, modality, self.name)


def as_sources(data: Any) -> dict[str, Located]:
    """Sources by name, from one object or path, several, or a mapping; names are kept."""
    if isinstance(data, Mapping) and not isinstance(data, AnnData | MuData):
        named = {str(name): each for name, each in data.items()}
    elif isinstance(data, Sequence) and not isinstance(data, str):
        named = {_name_of(each, f"data {i}"): each for i, each in enumerate(data)}
        if len(named) < len(data):
            msg = f"A file is named twice in {[str(each) for each in data]}."
            raise ValueError(msg)
    else:
        named = {_name_of(data, "the data"): data}
    kinds = AnnData | MuData | str | Path
    wrong = next((each for each in named.values() if not isinstance(each, kinds)), None)
    if not named or wrong is not None:
        found = "none" if wrong is None else type(wrong).__name__
        msg = f"Expected a path, several of them, or an AnnData or MuData object, got {found}."
        raise TypeError(msg)
    return named


def _name_of(data: Located, default: str) -> str:
    return str(data) if isinstance(data, str | Path) else default


def hash_names(names: Any) -> np.ndarray:
    """A 64-bit hash of each name, the same in every process."""
    values = np.asarray(names, dtype=object)
    try:
        return pd.util.hash_array(values, categorize=False)
    except UnicodeEncodeError:  # half of a surrogate pair
        encoded = [str(name).encode("utf-8", "surrogatepass") for name in values]
        return pd.util.hash_array(np.array(encoded, dtype=object), categorize=False)
