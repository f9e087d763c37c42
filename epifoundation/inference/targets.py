"""Where results go: the object in memory, a new file, or the file that the cells are in."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from .._memory import copy_of, restored_on_error
from .._validate import Data, check_writable, get_atac
from ..cells.content import signature
from ..cells.formats import open_source
from ..cells.groups import close, open_group
from ..cells.stored import OnDisk
from .block_store import BlockStore
from .expression import rna_of
from .grafts import graft_hdf5, graft_zarr
from .paired import PairedRNA, find_rows, spread
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
        rna_of(data, rna_modality)  # raises if the modality is missing
        self.rna = PairedRNA.of(data, modality, rna_modality) if reader.genes else None
        self.result: Data | None = None

    def write(self, found: BlockResults, uns: dict[str, Any]) -> None:
        """Write results of all cells, and remove those of an earlier run."""
        target = copy_of(self.data) if self.copy else self.data
        atac, keys = get_atac(target, self.modality), self.reader.keys
        rna = target.mod.get(self.rna_modality) if isinstance(target, MuData) else None
        with restored_on_error(atac, rna):
            uns = self.reader.with_kept(uns, atac.uns)
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
        self.file = path.resolve() if path.is_symlink() else path  # links stay
        if path.suffix not in (".zarr", ".h5ad"):
            msg = f"`output` must end in .zarr or .h5ad, got {str(path)!r}."
            raise ValueError(msg)
        self.partial = _partial(self.file)
        self.is_whole = True  # predictions of all cells are a layer
        genes = pd.Index(reader.genes, dtype=object)
        self.genes = pd.DataFrame(index=genes) if len(genes) else None

    def is_done(self, run: dict[str, Any], content: Callable[[], str]) -> bool:
        """Whether the file contains the results of exactly this run; `content` reads the cells."""
        found = self._record()
        if found.get("call") != _digest(run) or found.get("content") != content():
            return False
        BlockStore.delete_finished(self.partial, run)  # killed before it did so
        return True

    def _record(self) -> dict[str, str]:
        """What identifies the run whose results the file contains; empty if unknown."""
        from anndata.io import read_elem

        if not self.file.exists():
            return {}
        try:
            root = open_group(self.file)
        except OSError:
            return {}
        try:
            uns, key = root.get("uns", {}), self.reader.keys.run
            found = read_elem(uns[key]) if key in uns else {}
            return {name: str(value) for name, value in found.items()} if dict(found) else {}
        except (ValueError, TypeError, AttributeError):  # of an earlier version
            return {}
        finally:
            close(root)

    def check(self, *, overwrite: bool) -> None:
        """Raise FileExistsError if something else is at the path of the results."""
        if self.file.exists() and not overwrite:
            msg = f"{str(self.path)!r} exists: pass `overwrite=True` or another `output`."
            raise FileExistsError(msg)

    def assemble(
        self,
        store: BlockStore,
        bounds: np.ndarray,
        uns: dict[str, Any],
        record: dict[str, str],
        state: str | None,
    ) -> None:
        """Build the file and move it to its path; `record` identifies the run."""
        store.check_room(0)
        built = store.folder / f"results{self.file.suffix}"
        build_file(built, store, bounds, uns | {self.reader.keys.run: record}, self.genes)
        _replace(built, self.file, store.folder)


class InFile:
    """The file that the cells are in."""

    def __init__(self, path: Path, modality: str, rna_modality: str, reader: Reader) -> None:
        self.path, self.reader = path, reader
        self.file = path.resolve() if path.is_symlink() else path  # links stay
        self.modality, self.rna_modality = modality, rna_modality
        self.partial = _partial(self.file)
        self.is_whole, self.n_rna = True, 0
        self.rows: np.ndarray | None = None
        source = open_source(path, modality)
        try:
            if not isinstance(source, OnDisk) or not source.takes_columns:
                msg = f"Results cannot be written into {str(path)!r}: pass `output=`."
                raise ValueError(msg)
            self.genes = self._genes(source) if reader.genes else None
        finally:
            source.close()

    def _genes(self, source: OnDisk) -> pd.DataFrame | None:
        """``var`` of the RNA, and its rows of the cells; None if no cell has RNA."""
        rna = source.other(self.rna_modality)
        if rna is None:
            return None
        self.rows, self.n_rna = find_rows(source, rna), rna.n_obs
        if self.rows is not None:
            self.is_whole = bool((self.rows >= 0).all())
            if not (self.rows >= 0).any():
                return None
        return rna.var

    def is_done(self, run: dict[str, Any], content: Callable[[], str]) -> bool:
        """Never: results are cheap to write again, and may have been changed."""
        return False

    def check(self, *, overwrite: bool) -> None:
        """Raise PermissionError if the file cannot be changed."""
        if not os.access(self.file, os.W_OK):
            msg = f"{str(self.path)!r} cannot be written to: pass `output=`, a file of results."
            raise PermissionError(msg)

    def assemble(
        self,
        store: BlockStore,
        bounds: np.ndarray,
        uns: dict[str, Any],
        record: dict[str, str],
        state: str | None,
    ) -> None:
        """Build the results and move them into the file; an HDF5 file is replaced by a copy.

        `state` is the signature of the file that the results are of.
        """
        is_zarr = self.file.is_dir()
        store.check_room(0 if is_zarr else self.file.stat().st_size)
        built = store.folder / ("results.zarr" if is_zarr else "results.h5ad")
        version = open_group(self.file).metadata.zarr_format if is_zarr else None
        old = self._old_uns()
        uns = self.reader.with_kept(uns, old)
        build_file(built, store, bounds, uns, self.genes, version)
        moved, removed = self._changes(built, self.reader.stale(old))
        if is_zarr:
            self._check_unchanged(state)
            graft_zarr(built, self.file, store.folder, moved, removed)
            return
        copy = store.folder / f"copy{self.file.suffix}"
        graft_hdf5(built, self.file, copy, moved, removed)
        shutil.copymode(self.file, copy)
        _flush(copy)
        self._check_unchanged(state)
        copy.replace(self.file)

    def _old_uns(self) -> dict[str, Any]:
        """Reports on earlier runs."""
        from anndata.io import read_elem

        root, keys = open_group(self.file), self.reader.keys
        try:
            uns = root.get(f"mod/{self.modality}/uns" if "mod" in root else "uns", {})
            return {key: read_elem(uns[key]) for key in (keys.uns, keys.expression) if key in uns}
        finally:
            close(root)

    def _check_unchanged(self, state: str | None) -> None:
        if signature(self.file) != state:
            msg = f"{str(self.file)!r} was changed while its results were computed, so they were "
            msg += "not written. The same call compares the cells, and resumes."
            raise OSError(msg)

    def _changes(self, built: Path, stale: list[str]) -> tuple[dict[str, str], list[str]]:
        """Elements of the results and where they go, and elements of the file to delete.

        `stale` are results of earlier runs, as :meth:`.Reader.stale` names them.
        """
        results = open_group(built, "r" if self.rows is None else "r+")
        root = open_group(self.file)
        try:
            is_mudata = "mod" in root
            place = f"mod/{self.modality}/" if is_mudata else ""
            rna = f"mod/{self.rna_modality}/"
            removed = [
                rna + each.removeprefix("rna/") if each.startswith("rna/") else place + each
                for each in stale
                if is_mudata or not each.startswith("rna/")
            ]
            moved = {}
            for name in list(results["layers"]):
                layer = f"layers/{name}"
                if self.rows is not None:
                    layer = spread(results, name, self.rows, self.n_rna)
                moved[layer] = f"{rna}layers/{name}"
            index = results["obs"].attrs["_index"]
            for part in ("obsm", "obs", "uns"):  # reports last: with them, the results are complete
                names = [name for name in results[part] if (part, name) != ("obs", index)]
                moved |= {f"{part}/{name}": f"{place}{part}/{name}" for name in names}
            return moved, removed
        finally:
            close(results)
            close(root)


def run_record(run: dict[str, Any], content: str) -> dict[str, str]:
    """What identifies a run in its file of results."""
    return {"call": _digest(run), "content": content}


def _partial(file: Path) -> Path:
    """The folder of unfinished results of a file."""
    return file.with_name(f"{file.name}.partial")


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


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
