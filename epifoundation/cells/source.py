"""Read cells by rows from an AnnData or MuData, or from a file without loading it whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData

from .._validate import check_unique, get_atac, get_matrix, get_modality, missing_column, obs_column
from .formats import FORMATS, check_encoding, open_group, read_element
from .matrix import read_rows, row_reader
from .zarr_csr import StoredCsr

Located: TypeAlias = AnnData | MuData | str | Path
# What tools that read cells take: an object, a path, several of either, or a mapping from names
Inputs: TypeAlias = Located | Sequence[Located] | Mapping[str, Located]
MATRICES = ("array", "csr_matrix", "csc_matrix")  # anndata encodings with rows


class Source:
    """A matrix of cells x features that is read by rows.

    Parameters
    ----------
    name
        Name in errors: a path, or "the data".
    """

    name: str
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

    def matrix(self, layer: str | None) -> Any:
        """``X`` or a layer, for :func:`.matrix.read_rows`."""
        raise NotImplementedError

    def uns(self, key: str) -> Any:
        """An entry of ``uns``, or None."""
        raise NotImplementedError

    def other(self, modality: str) -> Source | None:
        """Another modality of the same MuData, or None."""
        raise NotImplementedError

    @property
    def identity(self) -> dict[str, Any]:
        """Identifies the data, so that an interrupted run can be resumed on the same cells."""
        raise NotImplementedError

    def read(self, start: int, stop: int, layer: str | None = None) -> sp.csr_matrix:
        """Rows as CSR with the stored values."""
        matrix = self.matrix(layer)
        try:
            rows = read_rows(matrix, start, stop)
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            raise self._unreadable("Rows", start, stop, error) from error
        if rows.nnz and not rows.data.all():
            self.check_whole(start, stop)
        return rows

    def check_whole(self, start: int, stop: int) -> None:
        """Raise OSError if parts of the file are missing, which read as zeros."""

    def _unreadable(self, what: str, start: int, stop: int, error: Exception) -> OSError:
        return OSError(
            f"{what} {start:,} to {stop - 1:,} of {self.name} could not be read ({error}). "
            "Was it moved, cut off or written over?"
        )

    def bounds(self, most_cells: int, most_entries: int) -> np.ndarray:
        """Row offsets of blocks with at most `most_cells` cells and `most_entries` entries.

        A single cell with more entries is a block of one.
        """
        matrix = self.matrix(None)
        if _is_sparse(matrix):
            entries = matrix.indptr if sp.issparse(matrix) else matrix.group["indptr"][:]
            entries = np.asarray(entries, dtype=np.int64)
        else:
            entries = np.arange(self.n_obs + 1, dtype=np.int64) * len(self.var)
        offsets = [0]
        while offsets[-1] < self.n_obs:
            start = offsets[-1]
            limit = entries[start] + most_entries
            last = int(np.searchsorted(entries, limit, side="right")) - 1
            offsets.append(min(max(last, start + 1), start + most_cells, self.n_obs))
        return np.array(offsets)

    def close(self) -> None:
        """Close the file."""


class InMemory(Source):
    """An AnnData, or a modality of a MuData; backed or not."""

    def __init__(self, data: AnnData | MuData, modality: str, name: str) -> None:
        super().__init__(name)
        self.data = data
        is_mudata = isinstance(data, MuData)
        self.adata = get_modality(data, modality, option="modality") if is_mudata else data
        self.var, self.n_obs = self.adata.var, self.adata.n_obs
        self._matrices: dict[str | None, Any] = {}

    def names(self, start: int, stop: int) -> pd.Index:
        """See :class:`Source`."""
        return self.adata.obs_names[start:stop]

    def column(self, key: str, option: str) -> pd.Series:
        """See :class:`Source`."""
        values = obs_column(self.data, self.adata, key, option, name=self.name)
        return values.reset_index(drop=True)

    def matrix(self, layer: str | None) -> Any:
        """See :class:`Source`."""
        if layer not in self._matrices:
            self._matrices[layer] = row_reader(get_matrix(self.adata, layer))
        return self._matrices[layer]

    def uns(self, key: str) -> Any:
        """See :class:`Source`."""
        return self.adata.uns.get(key)

    def other(self, modality: str) -> Source | None:
        """See :class:`Source`."""
        if not isinstance(self.data, MuData) or modality not in self.data.mod:
            return None
        return InMemory(self.data, modality, self.name)

    @property
    def identity(self) -> dict[str, Any]:
        """See :class:`Source`."""
        names = int(hash_names(self.adata.obs_names).sum(dtype=np.uint64))
        return {"cells": self.n_obs, "names": names}


class OnDisk(Source):
    """An AnnData in a group of an HDF5 file or zarr store; only ``var`` is read at once."""

    def __init__(self, path: Path, root: Any, group: Any) -> None:
        super().__init__(repr(str(path)))
        self.path, self.root, self.group = path, root, group
        for part in ("obs", "var"):
            if part not in group:
                msg = f"{self.name} holds no `{part}`, only {sorted(group)}: expected {FORMATS}."
                raise ValueError(msg)
        self.var = self._element(group, "var")
        self.n_obs = int(self._index.shape[0])
        self._names = (0, 0, np.zeros(0, dtype=object))  # first and last row, names read last
        self._matrices: dict[str | None, Any] = {}

    @property
    def _index(self) -> Any:
        obs = self.group["obs"]
        if "_index" not in obs.attrs:
            msg = f"`obs` of {self.name} is of an old format: "
            msg += "read it with anndata and write it again."
            raise ValueError(msg)
        return _sliceable(obs[obs.attrs["_index"]])

    def names(self, start: int, stop: int) -> pd.Index:
        """See :class:`Source`."""
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

    def column(self, key: str, option: str) -> pd.Series:
        """See :class:`Source`."""
        modalities = {} if self.root is self.group else self.root["mod"]
        modality, _, column = key.partition(":")
        if modality in modalities and column in modalities[modality]["obs"]:
            return self._reindexed(modalities[modality]["obs"], column)
        if key in self.group["obs"]:
            return pd.Series(self._element(self.group["obs"], key))
        tables = [self.group["obs"]]
        if self.root is not self.group and "obs" in self.root:
            tables.append(self.root["obs"])
        if key in tables[-1]:
            return self._reindexed(tables[-1], key)
        columns = [name for table in tables for name in table.attrs["column-order"]]
        rest = [name for name in modalities if modalities[name] != self.group]
        others = {name: modalities[name]["obs"].attrs["column-order"] for name in rest}
        raise missing_column(key, option, columns, others, self.name)

    def _element(self, parent: Any, key: str) -> Any:
        return read_element(parent, key, self.name)

    def _reindexed(self, table: Any, key: str) -> pd.Series:
        """A column of another ``obs`` in the order of these cells."""
        names = self._element(table, table.attrs["_index"])
        values = pd.Series(self._element(table, key), index=names)
        return values.reindex(self.names(0, self.n_obs)).reset_index(drop=True)

    def matrix(self, layer: str | None) -> Any:
        """See :class:`Source`."""
        if layer not in self._matrices:
            where = self.group if layer is None else self.group.get("layers", {})
            name = "X" if layer is None else layer
            if name not in where:
                missing = "`X`" if layer is None else f"layer {layer!r}"
                msg = f"{self.name} has no {missing}; it holds {sorted(where)}."
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

    def check_whole(self, start: int, stop: int) -> None:
        """See :class:`Source`."""
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
                        f"chunks of `{array.path}` are gone (seen at rows {start:,} to "
                        f"{stop - 1:,}). Copy it again."
                    )
                    raise OSError(msg)

    def uns(self, key: str) -> Any:
        """See :class:`Source`."""
        there = self.group.get("uns", {})
        return self._element(there, key) if key in there else None

    def other(self, modality: str) -> Source | None:
        """See :class:`Source`."""
        if self.root is self.group or modality not in self.root["mod"]:
            return None
        return OnDisk(self.path, self.root, self.root["mod"][modality])

    @property
    def identity(self) -> dict[str, Any]:
        """See :class:`Source`."""
        file = self.path if self.path.is_file() else _newest(self.path)
        status = file.stat()
        return {
            "path": str(self.path.resolve()),
            "cells": self.n_obs,
            "bytes": status.st_size,
            "changed": status.st_mtime_ns,
        }

    def close(self) -> None:
        """See :class:`Source`."""
        if hasattr(self.root, "close"):
            self.root.close()


def open_source(data: Located, modality: str, *, name: str = "the data") -> Source:
    """Open the cells of an AnnData, or of a modality of a MuData, in memory or on disk.

    Raises
    ------
    FileNotFoundError
        The file does not exist.
    OSError, ValueError
        The file cannot be read, holds no AnnData or MuData, or lacks the modality.
    """
    if isinstance(data, AnnData | MuData):
        get_atac(data, modality)
        return InMemory(data, modality, name)
    path = Path(data)
    root = open_group(path)
    group = root
    if "mod" in root:
        if modality not in root["mod"]:
            msg = f"No modality {modality!r} in {str(path)!r}; it has {sorted(root['mod'])}. "
            msg += "Name one with `modality=`."
            raise ValueError(msg)
        group = root["mod"][modality]
    source = OnDisk(path, root, group)
    if not len(source.var):
        msg = f"{source.name} has no peaks."
        raise ValueError(msg)
    check_unique(source.var.index, f"peak names in {source.name}", "drop or merge the copies")
    return source


@contextmanager
def opened(place: Located, modality: str, name: str) -> Iterator[Source]:
    """:func:`open_source` as a context manager."""
    source = open_source(place, modality, name=name)
    try:
        yield source
    finally:
        source.close()


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


def hash_names(names: pd.Index) -> np.ndarray:
    """A 64-bit hash of each name, the same in every process."""
    return pd.util.hash_array(names.to_numpy(dtype=object), categorize=False)


def _is_sparse(matrix: Any) -> bool:
    return sp.issparse(matrix) or hasattr(matrix, "group")


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


def _newest(store: Path) -> Path:
    """The newest metadata file of the root and the matrix: it is rewritten when they change."""
    patterns = (".z*", "zarr.json", "X/.z*", "X/*/.z*", "X/zarr.json", "X/*/zarr.json")
    files = [file for pattern in patterns for file in store.glob(pattern)]
    return max(files, key=lambda file: file.stat().st_mtime_ns, default=store)
