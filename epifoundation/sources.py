"""Cells read by rows, wherever they are: an AnnData or MuData, or a file of one that is not read whole."""

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

from ._formats import FORMATS, check_encoding, open_group, read_element
from ._validate import check_unique, get_atac, get_matrix, get_modality, no_column, obs_column
from .stored_csr import StoredCsr
from .tokens import read_rows, row_reader

Located: TypeAlias = AnnData | MuData | str | Path
MATRICES = ("array", "csr_matrix", "csc_matrix")  # encodings of anndata of which rows can be read


class Source:
    """Rows of cells x features.

    Parameters
    ----------
    name
        What errors call it: a path, or "the data".
    """

    name: str
    var: pd.DataFrame
    n_obs: int

    def __init__(self, name: str) -> None:
        self.name = name

    def names(self, start: int, stop: int) -> pd.Index:
        """Names of the cells of these rows."""
        raise NotImplementedError

    def column(self, key: str, option: str) -> pd.Series:
        """The column `key` of ``obs``, by row."""
        raise NotImplementedError

    def matrix(self, layer: str | None) -> Any:
        """What :func:`.tokens.read_rows` reads: ``X`` or a layer."""
        raise NotImplementedError

    def other(self, modality: str) -> Source | None:
        """Another modality of the same MuData, or None."""
        raise NotImplementedError

    @property
    def identity(self) -> dict[str, Any]:
        """What tells whether these are the cells of an earlier run."""
        raise NotImplementedError

    def read(self, start: int, stop: int, layer: str | None = None) -> sp.csr_matrix:
        """Rows as they are stored, as CSR."""
        try:
            rows = read_rows(self.matrix(layer), start, stop)
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            msg = f"Rows {start:,} to {stop - 1:,} of {self.name} could not be read ({error}). Was it moved, cut off or written over?"
            raise OSError(msg) from error
        if rows.nnz and not rows.data.all():
            self.check_whole(start, stop)
        return rows

    def check_whole(self, start: int, stop: int) -> None:
        """Raise where a part of the file is gone that reads as zeros."""

    def bounds(self, most_cells: int, most_entries: int) -> np.ndarray:
        """Rows at which blocks begin, and the end: at most so many cells, and so many entries unless one cell has more."""
        matrix = self.matrix(None)
        if _is_sparse(matrix):
            entries = matrix.indptr if sp.issparse(matrix) else matrix.group["indptr"][:]
            entries = np.asarray(entries, dtype=np.int64)
        else:
            entries = np.arange(self.n_obs + 1, dtype=np.int64) * len(self.var)
        found = [0]
        while found[-1] < self.n_obs:
            start = found[-1]
            last = int(np.searchsorted(entries, entries[start] + most_entries, side="right")) - 1
            found.append(min(max(last, start + 1), start + most_cells, self.n_obs))
        return np.array(found)

    def close(self) -> None:
        """Let go of the file."""


class InMemory(Source):
    """An AnnData, or a modality of a MuData; backed or not."""

    def __init__(self, data: AnnData | MuData, modality: str, name: str) -> None:
        super().__init__(name)
        self.data = data
        self.adata = get_modality(data, modality, option="modality") if isinstance(data, MuData) else data
        self.var, self.n_obs = self.adata.var, self.adata.n_obs
        self._matrices: dict[str | None, Any] = {}

    def names(self, start: int, stop: int) -> pd.Index:
        """See :class:`Source`."""
        return self.adata.obs_names[start:stop]

    def column(self, key: str, option: str) -> pd.Series:
        """See :class:`Source`."""
        return obs_column(self.data, self.adata, key, option, name=self.name).reset_index(drop=True)

    def matrix(self, layer: str | None) -> Any:
        """See :class:`Source`."""
        if layer not in self._matrices:
            self._matrices[layer] = row_reader(get_matrix(self.adata, layer))
        return self._matrices[layer]

    def other(self, modality: str) -> Source | None:
        """See :class:`Source`."""
        if not isinstance(self.data, MuData) or modality not in self.data.mod:
            return None
        return InMemory(self.data, modality, self.name)

    @property
    def identity(self) -> dict[str, Any]:
        """See :class:`Source`."""
        return {"cells": self.n_obs, "names": int(hash_names(self.adata.obs_names).sum(dtype=np.uint64))}


class OnDisk(Source):
    """A group of an HDF5 file or a zarr store that holds an AnnData, of which only ``var`` is read at once."""

    def __init__(self, path: Path, root: Any, group: Any) -> None:
        super().__init__(repr(str(path)))
        self.path, self.root, self.group = path, root, group
        for part in ("obs", "var"):
            if part not in group:
                msg = f"{self.name} holds no `{part}`, but {sorted(group)}: expected {FORMATS}."
                raise ValueError(msg)
        self.var = self._element(group, "var")
        self.n_obs = int(self._index.shape[0])
        self._names = (0, 0, np.zeros(0, dtype=object))  # those that were read last, and of which rows
        self._matrices: dict[str | None, Any] = {}

    @property
    def _index(self) -> Any:
        obs = self.group["obs"]
        if "_index" not in obs.attrs:
            msg = f"`obs` of {self.name} is of an old format: read it with anndata and write it again."
            raise ValueError(msg)
        return _sliceable(obs[obs.attrs["_index"]])

    def names(self, start: int, stop: int) -> pd.Index:
        """See :class:`Source`."""
        low, high, there = self._names
        if low <= start and stop <= high:
            return pd.Index(there[start - low : stop - low])
        index = self._index
        size = getattr(index, "chunks", (1,))[0]  # of zarr, which decodes whole chunks: keep them for the next rows
        low, high = start // size * size, min(-(-stop // size) * size, self.n_obs)
        try:
            names = np.asarray(index[low:high]).astype(object)
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            msg = f"Names of cells {start:,} to {stop - 1:,} of {self.name} could not be read ({error}). Was it moved, cut off or written over?"
            raise OSError(msg) from error
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
        tables = [
            self.group["obs"],
            *([self.root["obs"]] if self.root is not self.group and "obs" in self.root else []),
        ]
        if key in tables[-1]:
            return self._reindexed(tables[-1], key)
        there = [name for table in tables for name in table.attrs["column-order"]]
        others = {
            name: modalities[name]["obs"].attrs["column-order"] for name in modalities if modalities[name] != self.group
        }
        raise no_column(key, option, there, others, self.name)

    def _element(self, parent: Any, key: str) -> Any:
        return read_element(parent, key, self.name)

    def _reindexed(self, table: Any, key: str) -> pd.Series:
        """A column of another table of cells, in the order of these."""
        of_all = pd.Series(self._element(table, key), index=self._element(table, table.attrs["_index"]))
        return of_all.reindex(self.names(0, self.n_obs)).reset_index(drop=True)

    def matrix(self, layer: str | None) -> Any:
        """See :class:`Source`."""
        if layer not in self._matrices:
            where = self.group if layer is None else self.group.get("layers", {})
            name = "X" if layer is None else layer
            if name not in where:
                msg = f"{self.name} has no {'`X`' if layer is None else f'layer {layer!r}'}; it holds {sorted(where)}."
                raise ValueError(msg)
            element = where[name]
            if check_encoding(element, MATRICES, self.name) in ("csr_matrix", "csc_matrix"):
                from anndata.io import sparse_dataset

                stored = sparse_dataset(element)
                is_csr = stored.format == "csr" and not hasattr(element, "file")  # not of HDF5
                element = (StoredCsr.of(element, stored.shape) if is_csr else None) or stored
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
                n_files, n_there = _count_files(array)
                # What is not there reads as zeros. zarr leaves out chunks of nothing but zeros: no matrix of counts has any.
                if n_there < n_files:
                    msg = (
                        f"{self.name} is not whole: {n_files - n_there:,} of the {n_files:,} chunks of `{array.path}` are gone (seen at rows "
                        f"{start:,} to {stop - 1:,}). Copy it again."
                    )
                    raise OSError(msg)

    def other(self, modality: str) -> Source | None:
        """See :class:`Source`."""
        if self.root is self.group or modality not in self.root["mod"]:
            return None
        return OnDisk(self.path, self.root, self.root["mod"][modality])

    @property
    def identity(self) -> dict[str, Any]:
        """See :class:`Source`."""
        file = self.path if self.path.is_file() else _newest(self.path)
        told = file.stat()
        return {
            "path": str(self.path.resolve()),
            "cells": self.n_obs,
            "bytes": told.st_size,
            "changed": told.st_mtime_ns,
        }

    def close(self) -> None:
        """See :class:`Source`."""
        if hasattr(self.root, "close"):
            self.root.close()


def open_source(data: Located, modality: str, *, name: str = "the data") -> Source:
    """Open cells; of a MuData those of the modality.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    OSError, ValueError
        It cannot be read, or is no AnnData or MuData, or lacks the modality.
    """
    if isinstance(data, AnnData | MuData):
        get_atac(data, modality)
        return InMemory(data, modality, name)
    path = Path(data)
    root = open_group(path)
    group = root
    if "mod" in root:
        if modality not in root["mod"]:
            msg = f"No modality {modality!r} in {str(path)!r}; it has {sorted(root['mod'])}. Name one with `modality=`."
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
    """:func:`open_source`, closed in the end."""
    source = open_source(place, modality, name=name)
    try:
        yield source
    finally:
        source.close()


def as_sources(data: Any) -> dict[str, Located]:
    """Names and places of the cells of a path, of several, or of a mapping from names; names are as given."""
    if isinstance(data, Mapping) and not isinstance(data, AnnData | MuData):
        named = {str(name): each for name, each in data.items()}
    elif isinstance(data, Sequence) and not isinstance(data, str):
        named = {str(each) if isinstance(each, str | Path) else f"data {i}": each for i, each in enumerate(data)}
        if len(named) < len(data):
            msg = f"A file is named twice in {[str(each) for each in data]}."
            raise ValueError(msg)
    else:
        named = {str(data) if isinstance(data, str | Path) else "the data": data}
    wrong = next((each for each in named.values() if not isinstance(each, AnnData | MuData | str | Path)), None)
    if not named or wrong is not None:
        msg = f"Expected a path, several of them, or an AnnData or MuData object, got {'none' if wrong is None else type(wrong).__name__}."
        raise TypeError(msg)
    return named


def hash_names(names: pd.Index) -> np.ndarray:
    """64 bits for each name, the same in each process."""
    return pd.util.hash_array(names.to_numpy(dtype=object), categorize=False)


def _is_sparse(matrix: Any) -> bool:
    return sp.issparse(matrix) or hasattr(matrix, "group")


def _sliceable(element: Any) -> Any:
    """An array of text of which rows can be read."""
    if element.attrs.get("encoding-type") == "nullable-string-array":
        element = element["values"]
    return element.asstr() if hasattr(element, "asstr") else element  # of HDF5, of zarr


def _count_files(array: Any) -> tuple[int, int]:
    """How many chunks, or shards of chunks, a zarr array has, and how many are there; of HDF5 nothing is counted."""
    if not hasattr(array, "nchunks_initialized"):
        return 0, 0
    if array.shards is None:
        return array.nchunks, array.nchunks_initialized
    return -(-array.shape[0] // array.shards[0]), array.nchunks_initialized // (array.shards[0] // array.chunks[0])


def _newest(store: Path) -> Path:
    """The file of a zarr store that is written anew when it changes: what tells of its root and of its matrix."""
    told = [
        file
        for pattern in (".z*", "zarr.json", "X/.z*", "X/*/.z*", "X/zarr.json", "X/*/zarr.json")
        for file in store.glob(pattern)
    ]
    return max(told, key=lambda file: file.stat().st_mtime_ns, default=store)
