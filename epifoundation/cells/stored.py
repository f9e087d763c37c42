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
from .._validate import Data, missing_column
from .groups import EXPECTED, check_encoding, close, open_group, read_element
from .matrix import row_reader
from .source import Source
from .zarr_csr import StoredCsr

MATRICES = ("array", "csr_matrix", "csc_matrix")  # anndata encodings with rows


class OnDisk(Source):
    """An AnnData in a group of an HDF5 file or zarr store; only ``var`` is read at once."""

    def __init__(self, path: Path, root: Any, group: Any) -> None:
        super().__init__(repr(str(path)))
        self.path, self.root, self.group = path, root, group
        self.modality = str(group.name).rpartition("/")[2]
        self.axis = int(root.attrs.get("axis", 0))
        self.var = self._table("var")
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
        return int(self._index.shape[0])

    @property
    def _index(self) -> Any:
        obs = self.group.get("obs")
        if obs is None:
            raise self._missing_table("obs")
        if "_index" not in obs.attrs:
            msg = f"`obs` of {self.name} has an old format: "
            msg += "read it with anndata and write it again."
            raise ValueError(msg)
        return _sliceable(obs[obs.attrs["_index"]])

    @override
    def names(self, start: int, stop: int) -> pd.Index:
        low, high, names = self._names
        if low <= start and stop <= high:
            return pd.Index(names[start - low : stop - low])
        index = self._index
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
        modalities = {} if self.root is self.group else self.root["mod"]
        modality, _, column = key.partition(":")
        if modality in modalities and column in modalities[modality]["obs"]:
            if modality != self.modality:
                check_axis(self.axis, self.name)
            return self._reindexed(
                modalities[modality]["obs"], column, f'mdata["{modality}"].obs_names'
            )
        if key in self.group["obs"]:
            return pd.Series(self._element(self.group["obs"], key))
        tables = [self.group["obs"]]
        if self.root is not self.group and "obs" in self.root:
            tables.append(self.root["obs"])
        if key in tables[-1]:
            return self._reindexed(tables[-1], key, ALL_CELLS)
        columns = [name for table in tables for name in table.attrs["column-order"]]
        rest = [name for name in modalities if modalities[name] != self.group]
        others = {name: modalities[name]["obs"].attrs["column-order"] for name in rest}
        raise missing_column(key, option, columns, others, self.name)

    @override
    def has_column(self, key: str) -> bool:
        return key in self.group["obs"]

    def _element(self, parent: Any, key: str) -> Any:
        return read_element(parent, key, self.name)

    def _table(self, part: str) -> pd.DataFrame:
        table = self._element(self.group, part) if part in self.group else None
        if not isinstance(table, pd.DataFrame):  # such as files of 10x
            raise self._missing_table(part)
        return table

    def _missing_table(self, part: str) -> ValueError:
        msg = f"{self.name} has no table `{part}`; expected {EXPECTED}, found {sorted(self.group)}."
        return ValueError(f"{msg} Read it into an AnnData and pass that.")

    def _reindexed(self, table: Any, key: str, names_code: str) -> pd.Series:
        """A column of another ``obs`` in the order of these cells; the code as in `CellNames`."""
        names = pd.Index(self._element(table, table.attrs["_index"]), dtype=object)
        values = pd.Series(self._element(table, key), index=names, name=key)
        cells = CellNames.of(self.names(0, self.n_obs), self.modality)
        return reindexed(values, names_code, cells, name=self.name).reset_index(drop=True)

    @override
    def matrix(self, layer: str | None) -> Any:
        if layer not in self._matrices:
            where = self.group if layer is None else self.group.get("layers", {})
            name = "X" if layer is None else layer
            if name not in where:
                missing = "`X`" if layer is None else f"layer {layer!r}"
                msg = f"{self.name} has no {missing}; available: {sorted(where)}."
                raise ValueError(msg)
            element = where[name]
            if check_encoding(element, MATRICES, self.name) in ("csr_matrix", "csc_matrix"):
                from anndata.io import sparse_dataset

                stored = sparse_dataset(element)
                is_zarr_csr = stored.format == "csr" and not hasattr(element, "file")
                element = (StoredCsr.of(element, stored.shape) if is_zarr_csr else None) or stored
            self._matrices[layer] = row_reader(element)
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
        return self._element(entries, key) if key in entries else None

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


def _sliceable(element: Any) -> Any:
    """An array of strings that can be sliced."""
    if element.attrs.get("encoding-type") == "nullable-string-array":
        element = element["values"]
    return element.asstr() if hasattr(element, "asstr") else element  # h5py has asstr


def _count_files(array: Any) -> tuple[int, int]:
    """Numbers of files (chunks or shards) of a zarr array: expected and stored; 0, 0 for HDF5."""
    if not hasattr(array, "nchunks_initialized"):
        return 0, 0
    if array.shards is None:
        return array.nchunks, array.nchunks_initialized
    n_files = -(-array.shape[0] // array.shards[0])
    return n_files, array.nchunks_initialized // (array.shards[0] // array.chunks[0])
