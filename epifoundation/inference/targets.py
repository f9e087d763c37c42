"""Where results go: the object in memory, a new file, or the file that the cells are in."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from .._memory import copy_of
from .._validate import Data, check_writable, get_atac
from ..cells.formats import open_source
from ..cells.groups import open_group
from ..cells.stored import OnDisk
from .block_store import BlockStore
from .expression import rna_of
from .grafts import GraftHDF5, GraftZarr
from .reader import BlockResults, Reader
from .results import build_file, remove


class InObject:
    """The AnnData or MuData that the cells are in, or a copy of it."""

    def __init__(
        self, data: Data, modality: str, rna_modality: str, reader: Reader, *, copy: bool
    ) -> None:
        check_writable(data, get_atac(data, modality), copy=copy)
        self.data, self.modality, self.rna_modality = data, modality, rna_modality
        self.reader, self.copy = reader, copy
        self.rna = rna_of(data, rna_modality)
        self.result: Data | None = None

    def write(self, found: BlockResults, uns: dict[str, Any]) -> None:
        """Write results of all cells, and remove those of an earlier run."""
        target = copy_of(self.data) if self.copy else self.data
        atac, keys = get_atac(target, self.modality), self.reader.keys
        rna = target.mod.get(self.rna_modality) if isinstance(target, MuData) else None
        for place in self.reader.stale(atac.uns):
            _remove(atac, rna, place)
        self.reader.write(found, atac, rna)
        if keys.cell_type in atac.obs:
            atac.obs[keys.cell_type] = atac.obs[keys.cell_type].cat.remove_unused_categories()
        for key, report in uns.items():
            atac.uns[key] = report
        self.result = target if self.copy else None


def _remove(atac: AnnData, rna: AnnData | None, place: str) -> None:
    adata = rna if place.startswith("rna/") else atac
    part, name = place.removeprefix("rna/").split("/", 1)
    if adata is None:
        return
    if part == "var":
        adata.var = adata.var.drop(columns=name, errors="ignore")
    elif name in getattr(adata, part):
        del getattr(adata, part)[name]


class NewFile:
    """An AnnData of the cells of all sources, without peaks; predicted genes are its ``var``."""

    def __init__(self, path: Path, reader: Reader) -> None:
        self.path, self.reader = path, reader
        if path.suffix not in (".zarr", ".h5ad"):
            msg = f"`output` must end in .zarr or .h5ad, got {str(path)!r}."
            raise ValueError(msg)
        self.partial = path.with_name(f"{path.name}.partial")
        genes = pd.Index(reader.genes, dtype=object)
        self.genes = pd.DataFrame(index=genes) if len(genes) else None

    def is_done(self, fingerprint: dict[str, Any]) -> bool:
        """Whether the file contains the results of exactly this run."""
        if not self.path.exists() or (self.partial / "run.json").exists():
            return False
        from anndata.io import read_elem

        try:
            root = open_group(self.path)
        except OSError:
            return False
        uns, key = root.get("uns", {}), self.reader.keys.run
        return key in uns and read_elem(uns[key]) == _digest(fingerprint)

    def check(self, *, overwrite: bool) -> None:
        """Raise FileExistsError if something else is at the path of the results."""
        if self.path.exists() and not overwrite:
            msg = f"{str(self.path)!r} exists: pass `overwrite=True` or another `output`."
            raise FileExistsError(msg)

    def assemble(
        self,
        store: BlockStore,
        bounds: np.ndarray,
        uns: dict[str, Any],
        fingerprint: dict[str, Any],
    ) -> None:
        """Build the file and move it to its path."""
        store.check_room(0)
        built = store.folder / f"results{self.path.suffix}"
        uns = uns | {self.reader.keys.run: _digest(fingerprint)}
        build_file(built, store, bounds, uns, self.genes)
        _replace(built, self.path, store.folder)


class InFile:
    """The file that the cells are in."""

    def __init__(self, path: Path, modality: str, rna_modality: str, reader: Reader) -> None:
        self.path, self.reader = path, reader
        self.modality, self.rna_modality = modality, rna_modality
        self.partial = path.with_name(f"{path.name}.partial")
        source = open_source(path, modality)
        try:
            if not isinstance(source, OnDisk) or not source.takes_columns:
                msg = f"Results cannot be written into {str(path)!r}: pass `output=`."
                raise ValueError(msg)
            self.genes = self._genes(source) if reader.genes else None
        finally:
            source.close()

    def _genes(self, source: OnDisk) -> pd.DataFrame | None:
        """``var`` of an RNA modality of the same cells."""
        rna = source.other(self.rna_modality)
        if rna is None:
            return None
        step = 2**16
        starts = range(0, source.n_obs, step)
        same = rna.n_obs == source.n_obs and all(
            source.names(i, min(i + step, source.n_obs)).equals(
                rna.names(i, min(i + step, rna.n_obs))
            )
            for i in starts
        )
        if not same:
            msg = (
                f"The modalities {self.modality!r} and {self.rna_modality!r} of {source.name} do "
                "not contain the same cells in the same order: pass `output=`, a file of results, "
                "or `expression=False` if the tool has it."
            )
            raise ValueError(msg)
        return rna.var

    def is_done(self, fingerprint: dict[str, Any]) -> bool:
        """Never: the file may have been changed since."""
        return False

    def check(self, *, overwrite: bool) -> None:
        """Raise PermissionError if the file cannot be changed."""
        if not os.access(self.path, os.W_OK):
            msg = f"{str(self.path)!r} cannot be written to: pass `output=`, a file of results."
            raise PermissionError(msg)

    def assemble(
        self,
        store: BlockStore,
        bounds: np.ndarray,
        uns: dict[str, Any],
        fingerprint: dict[str, Any],
    ) -> None:
        """Build the results and move them into the file; an HDF5 file is replaced by a copy."""
        is_zarr = self.path.is_dir()
        store.check_room(0 if is_zarr else self.path.stat().st_size)
        built = store.folder / ("results.zarr" if is_zarr else "results.h5ad")
        version = open_group(self.path).metadata.zarr_format if is_zarr else None
        build_file(built, store, bounds, uns, self.genes, version)
        if is_zarr:
            self._graft(built, self.path, store.folder)
            return
        copy = store.folder / f"copy{self.path.suffix}"
        shutil.copyfile(self.path, copy)
        shutil.copymode(self.path, copy)
        self._graft(built, copy, store.folder)
        _flush(copy)
        copy.replace(self.path)

    def _graft(self, built: Path, file: Path, folder: Path) -> None:
        """Move the results from one file into another, each element whole."""
        from anndata.io import read_elem

        results = open_group(built)
        root = open_group(file, "r+")
        is_mudata = "mod" in root
        place = f"mod/{self.modality}/" if is_mudata else ""
        graft = GraftZarr(built, file, folder) if file.is_dir() else GraftHDF5(results, root)
        uns, keys = root.get(f"{place}uns", {}), self.reader.keys
        old = {key: read_elem(uns[key]) for key in (keys.uns, keys.expression) if key in uns}
        for stale in self.reader.stale(old):
            if not stale.startswith("rna/"):
                graft.remove(place + stale)
            elif is_mudata:
                graft.remove(f"mod/{self.rna_modality}/{stale.removeprefix('rna/')}")
        for part in ("obs", "obsm", "uns"):
            for name in results[part]:
                if (part, name) != ("obs", results["obs"].attrs["_index"]):
                    graft.move(f"{part}/{name}", f"{place}{part}/{name}")
        for name in results["layers"]:
            graft.move(f"layers/{name}", f"mod/{self.rna_modality}/layers/{name}")
        graft.close()


def _digest(fingerprint: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()


def _replace(built: Path, path: Path, folder: Path) -> None:
    """Move a file or a folder to a path that may exist."""
    _flush(built)
    if path.exists() and (path.is_dir() or built.is_dir()):  # a rename replaces files only
        old = folder / "replaced"
        remove(old)
        path.rename(old)
    built.replace(path)


def _flush(path: Path) -> None:
    """Wait until the data are on the disk."""
    for file in [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
