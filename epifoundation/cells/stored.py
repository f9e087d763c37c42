"""Read cells by rows from an h5ad, h5mu or zarr, without loading it whole."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, override

import mudata
import numpy as np
import pandas as pd
import scipy.sparse as sp

from .._pairing import ALL_CELLS, CellNames, check_axis, reindexed
from .._validate import Data, check_single, missing_column, text, without_blanks
from .groups import EXPECTED, check_encoding, close, open_group, read_element
from .matrix import row_reader
from .source import Source
from .table import StoredTable

MATRICES = ("array", "csr_matrix", "csc_matrix")  # anndata encodings with rows


class OnDisk(Source):
    """An AnnData in a group of an HDF5 file or zarr store; only ``var`` is read at once."""

    def __init__(self, path: Path, root: Any, group: Any) -> None:
        super().__init__(repr(str(path)))
        self.path, self.root, self.group = path, root, group
        self.modality = str(group.name).rpartition("/")[2]
        self.axis = int(root.attrs.get("axis", 0))
        self.var = self._table(group, "var").read()
        self._names = (0, 0, np.zeros(0, dtype=object))  # first and last row, names read last
        self._matrices: dict[str | None, Any] = {}

    @classmethod
    def open(cls, path: Path, modality: str) -> OnDisk:
        """Open a file or store of an AnnData, or a modality of a MuData."""
        root = open_group(path)
        try:
            if "mod" not in root:
                return cls(path, root, root)
            if modality not in root["mod"]:
                msg = f"No modality {modality!r} in {str(path)!r}; it has {sorted(root['mod'])}. "
                msg += "Name one with `modality=`."
                raise ValueError(msg)
            return cls(path, root, root["mod"][modality])
        except BaseException:
            close(root)
            raise

    @cached_property
    @override
    def n_obs(self) -> int:  # type: ignore[override]
        return int(self._obs.index.shape[0])

    @cached_property
    def _obs(self) -> StoredTable:
        return self._table(self.group, "obs")

    @property
    def takes_columns(self) -> bool:
        """Whether columns can be added to ``obs``; anndata before 0.7 wrote it as one array."""
        return hasattr(self.group["obs"], "keys")

    def _table(self, group: Any, part: str) -> StoredTable:
        table = StoredTable.of(group, part, self.name)
        if table is None:  # such as files of 10x
            msg = f"{self.name} has no table `{part}`; expected {EXPECTED}, found {sorted(group)}."
            msg += " Read it into an AnnData and pass that."
            raise ValueError(msg)
        return table

    @override
    def names(self, start: int, stop: int) -> pd.Index:
        low, high, names = self._names
        if low <= start and stop <= high:
            return pd.Index(names[start - low : stop - low])
        index = self._obs.index
        size = getattr(index, "chunks", (1,))[0]  # zarr decodes whole chunks: keep them
        low, high = start // size * size, min(-(-stop // size) * size, self.n_obs)
        try:
            names = np.asarray(index[low:high]).astype(object)
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            raise self._unreadable("Names of cells", start, stop, error) from error
        self._names = (low, high, names)
        return pd.Index(names[start - low : stop - low])

    @override
    def column(self, key: str, option: str) -> pd.Series:
        return without_blanks(self._find_column(key, option), key, option, self.name)

    def _find_column(self, key: str, option: str) -> pd.Series:
        key = text(key, option)
        is_mudata = self.root is not self.group
        groups = dict(self.root["mod"]) if is_mudata else {}
        modality, _, column = key.partition(":")
        if modality in groups:
            table = self._table(groups[modality], "obs")
            if column in table.columns:
                if modality != self.modality:
                    check_axis(self.axis, self.name)
                return self._reindexed(table, column, f'mdata["{modality}"].obs_names')
        if key in self._obs.columns:
            return pd.Series(self._column(self._obs, key))
        shared = self._table(self.root, "obs") if is_mudata and "obs" in self.root else None
        if shared is not None and key in shared.columns:
            return self._reindexed(shared, key, ALL_CELLS)
        columns = [*self._obs.columns, *(shared.columns if shared is not None else [])]
        others = {
            name: self._table(group, "obs").columns
            for name, group in groups.items()
            if group != self.group
        }
        raise missing_column(key, option, columns, others, self.name)

    @override
    def has_column(self, key: str) -> bool:
        return key in self._obs.columns

    def _column(self, table: StoredTable, key: str) -> Any:
        check_single(table.columns, key, f"`obs` of {self.name}")
        return table.column(key)

    def _reindexed(self, table: StoredTable, key: str, names_code: str) -> pd.Series:
        """A column of another ``obs`` in the order of these cells; the code as in `CellNames`."""
        names = pd.Index(table.index[:], dtype=object)
        values = pd.Series(self._column(table, key), index=names, name=key)
        cells = CellNames.of(self.names(0, self.n_obs), self.modality)
        return reindexed(values, names_code, cells, name=self.name).reset_index(drop=True)

    @override
    def matrix(self, layer: str | None) -> Any:
        if layer not in self._matrices:
            where = self.group if layer is None else self.group.get("layers", {})
            name = "`X`" if layer is None else f"layer {layer!r}"
            key = "X" if layer is None else layer
            if key not in where:
                msg = f"{self.name} has no {name}; available: {sorted(where)}."
                raise ValueError(msg)
            element = where[key]
            encoding = check_encoding(element, MATRICES, self.name)
            if encoding.endswith("_matrix") or "h5sparse_format" in element.attrs:  # anndata 0.6
                from anndata.io import sparse_dataset

                element = sparse_dataset(element)
            found = row_reader(element, f"{name} of {self.name}")
            if tuple(found.shape) != (self.n_obs, len(self.var)):
                msg = f"{name} of {self.name} has {found.shape[0]:,} x {found.shape[1]:,} values, "
                msg += f"but there are {self.n_obs:,} cells and {len(self.var):,} columns. Copy it "
                msg += "again."
                raise OSError(msg)
            self._matrices[layer] = found
            self.check_whole(0, self.n_obs)
        return self._matrices[layer]

    @override
    def read(self, start: int, stop: int, layer: str | None = None) -> sp.csr_matrix:
        rows = super().read(start, stop, layer)
        if rows.nnz and not rows.data.all():
            self.check_whole(start, stop)
        return rows

    def check_whole(self, start: int, stop: int) -> None:
        """Raise OSError if chunks of the file are missing, which would be read as zeros."""
        for matrix in self._matrices.values():
            if not hasattr(matrix, "group"):
                continue
            for part in ("data", "indices"):
                array = matrix.group[part]
                n_files, n_stored = _count_files(array)
                # Missing chunks read as zeros. zarr does not store chunks of zeros, but count
                # matrices have none
                if n_stored < n_files:
                    msg = (
                        f"{self.name} is not whole: {n_files - n_stored:,} of the {n_files:,} "
                        f"chunks of `{array.path}` are missing (seen at rows {start:,} to "
                        f"{stop - 1:,}). Copy it again."
                    )
                    raise OSError(msg)

    @override
    def uns(self, key: str) -> Any:
        entries = self.group.get("uns", {})
        return read_element(entries, key, self.name) if key in entries else None

    @override
    def other(self, modality: str) -> Source | None:
        if self.root is self.group or modality not in self.root["mod"]:
            return None
        return OnDisk(self.path, self.root, self.root["mod"][modality])

    @override
    def close(self) -> None:
        close(self.root)


def read_hdf5(path: Path) -> Data:
    """Read an h5ad or h5mu file into memory."""
    root = open_group(path)  # its errors name the cure
    is_mudata = "mod" in root
    root.close()
    return mudata.read_h5mu(path) if is_mudata else mudata.read_anndata(path, mod=None)


def read_zarr(path: Path) -> Data:
    """Read a zarr store into memory."""
    open_group(path)
    return mudata.read_zarr(path)


def _count_files(array: Any) -> tuple[int, int]:
    """Numbers of files (chunks or shards) of a zarr array: expected and stored; 0, 0 for HDF5."""
    if not hasattr(array, "nchunks_initialized"):
        return 0, 0
    if array.shards is None:
        return array.nchunks, array.nchunks_initialized
    n_files = -(-array.shape[0] // array.shards[0])
    return n_files, array.nchunks_initialized // (array.shards[0] // array.chunks[0])
