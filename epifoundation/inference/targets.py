"""Where results go: a file of their own, or the file that the cells were read from; both by a rename."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..cells.formats import open_source
from ..cells.groups import open_group
from ..cells.stored import OnDisk
from .block_store import BlockStore
from .reader import Reader
from .results import build, consolidate, remove


class NewFile:
    """An AnnData of the cells of all sources, without their peaks; genes that are predicted are its ``var``."""

    def __init__(self, path: Path, reader: Reader) -> None:
        self.path, self.reader = path, reader
        if path.suffix not in (".zarr", ".h5ad"):
            msg = f"`output` must end in .zarr or .h5ad, got {str(path)!r}."
            raise ValueError(msg)
        self.partial = path.with_name(f"{path.name}.partial")
        genes = pd.Index(reader.genes, dtype=object)
        self.rna = pd.DataFrame(index=genes) if len(genes) else None

    def is_done(self, fingerprint: dict[str, Any]) -> bool:
        """Whether the results of this very run are there."""
        if not self.path.exists() or (self.partial / "run.json").exists():
            return False
        from anndata.io import read_elem

        try:
            root = open_group(self.path)
        except OSError:
            return False
        uns = root.get("uns", {})
        return self.reader.keys.run in uns and read_elem(uns[self.reader.keys.run]) == _digest(
            fingerprint
        )

    def check(self, *, overwrite: bool) -> None:
        """Raise where something else is in the place of the results."""
        if self.path.exists() and not overwrite:
            msg = f"{str(self.path)!r} is there: pass `overwrite=True` to replace it, or another `output`."
            raise FileExistsError(msg)

    def assemble(
        self,
        store: BlockStore,
        bounds: np.ndarray,
        uns: dict[str, Any],
        fingerprint: dict[str, Any],
    ) -> None:
        """Build the file and move it to its place."""
        store.check_room(0)
        made = store.folder / f"results{self.path.suffix}"
        build(made, store, bounds, uns | {self.reader.keys.run: _digest(fingerprint)}, self.rna)
        _replace(made, self.path, store.folder)


class InFile:
    """The file that the cells were read from."""

    def __init__(self, path: Path, modality: str, rna_modality: str, reader: Reader) -> None:
        self.path, self.modality, self.rna_modality, self.reader = (
            path,
            modality,
            rna_modality,
            reader,
        )
        self.partial = path.with_name(f"{path.name}.partial")
        source = open_source(path, modality)
        try:
            if not isinstance(source, OnDisk):
                msg = f"Results cannot be written into {str(path)!r}: pass `output=`."
                raise ValueError(msg)
            self.rna = self._genes(source) if reader.genes else None
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
                f"The modalities {self.modality!r} and {self.rna_modality!r} of {source.name} do not hold the same cells in the same order: pass "
                "`output=`, a file of results, or `expression=False` where that is an option."
            )
            raise ValueError(msg)
        return rna.var

    def is_done(self, fingerprint: dict[str, Any]) -> bool:
        """Never: results are written anew into a file that may have been changed."""
        return False

    def check(self, *, overwrite: bool) -> None:
        """Raise where the file may not be changed."""
        if not os.access(self.path, os.W_OK):
            msg = f"{str(self.path)!r} may not be written to: pass `output=`, a file of results."
            raise PermissionError(msg)

    def assemble(
        self,
        store: BlockStore,
        bounds: np.ndarray,
        uns: dict[str, Any],
        fingerprint: dict[str, Any],
    ) -> None:
        """Build the results and move them into the file; of an HDF5 file it is a copy that they are moved into, which then replaces it."""
        is_zarr = self.path.is_dir()
        store.check_room(0 if is_zarr else self.path.stat().st_size)
        made = store.folder / ("results.zarr" if is_zarr else "results.h5ad")
        build(
            made,
            store,
            bounds,
            uns,
            self.rna,
            open_group(self.path).metadata.zarr_format if is_zarr else None,
        )
        if is_zarr:
            self._graft(made, self.path, store.folder)
            return
        copy = store.folder / f"copy{self.path.suffix}"
        shutil.copyfile(self.path, copy)
        shutil.copymode(self.path, copy)
        self._graft(made, copy, store.folder)
        _flush(copy)
        copy.replace(self.path)

    def _graft(self, made: Path, file: Path, folder: Path) -> None:
        """Move the results from one file into another, each element whole."""
        from anndata.io import read_elem

        results = open_group(made)
        root = open_group(file, "r+")
        is_mudata = "mod" in root
        place = f"mod/{self.modality}/" if is_mudata else ""
        graft = _GraftZarr(made, file, folder) if file.is_dir() else _GraftHDF5(results, root)
        uns = root.get(f"{place}uns", {})
        told = {
            key: read_elem(uns[key])
            for key in (self.reader.keys.uns, self.reader.keys.expression)
            if key in uns
        }
        for stale in self.reader.stale(told):
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


class _GraftHDF5:
    """Elements copied between open HDF5 files."""

    def __init__(self, source: Any, target: Any) -> None:
        self.source, self.target = source, target

    def remove(self, path: str) -> None:
        if path in self.target:
            del self.target[path]
            _order(self.target, path, there=False)

    def move(self, source: str, target: str) -> None:
        self.remove(target)
        parent, name = target.rsplit("/", 1)
        if parent not in self.target:
            _make_dict(self.target, parent)
        self.source.copy(self.source[source], self.target[parent], name=name)
        _order(self.target, target, there=True)

    def close(self) -> None:
        self.source.close()
        self.target.close()


class _GraftZarr:
    """Elements moved between zarr stores on this machine: each is a folder, and a rename puts it in its place."""

    def __init__(self, made: Path, store: Path, folder: Path) -> None:
        import zarr

        self.made, self.store, self.bin = made, store, folder / "replaced"
        self.bin.mkdir(exist_ok=True)
        self.root = zarr.open_group(store, mode="r+", use_consolidated=False)
        self.is_consolidated = (
            self.root.metadata.consolidated_metadata is not None or (store / ".zmetadata").exists()
        )
        if (store / "zarr.json").exists():
            self.is_consolidated |= (
                json.loads((store / "zarr.json").read_text()).get("consolidated_metadata")
                is not None
            )
        self.n_replaced = 0

    def remove(self, path: str) -> None:
        if (self.store / path).exists():
            _order(self.root, path, there=False)
            (self.store / path).rename(self.bin / str(self.n_replaced))
            self.n_replaced += 1

    def move(self, source: str, target: str) -> None:
        parent = target.rsplit("/", 1)[0]
        self.remove(target)
        if not (self.store / parent).exists():
            _make_dict(self.root, parent)
        (self.made / source).rename(self.store / target)
        _order(self.root, target, there=True)

    def close(self) -> None:
        if self.is_consolidated:
            consolidate(self.store)


def _make_dict(root: Any, path: str) -> None:
    from anndata.io import write_elem

    parent, _, name = path.rpartition("/")
    write_elem(root[parent] if parent else root, name, {})


def _order(root: Any, path: str, *, there: bool) -> None:
    """Enter a column into the list of columns of its table, or take it off."""
    parent, name = path.rsplit("/", 1)
    if parent.rsplit("/", 1)[-1] not in ("obs", "var"):
        return
    table = root[parent]
    names = [str(each) for each in table.attrs["column-order"] if each != name]
    table.attrs["column-order"] = [*names, name] if there else names


def _digest(fingerprint: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()


def _replace(made: Path, path: Path, folder: Path) -> None:
    """Put a file or a folder in the place of what may be there."""
    _flush(made)
    if path.exists() and (
        path.is_dir() or made.is_dir()
    ):  # a folder cannot be written over by a rename
        old = folder / "replaced"
        remove(old)
        path.rename(old)
    made.replace(path)


def _flush(path: Path) -> None:
    """Wait until it is on the disk."""
    for file in [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
