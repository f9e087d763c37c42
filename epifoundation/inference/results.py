"""A file of results out of finished blocks: built beside its place, put there by a rename."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from tqdm import tqdm

from .._formats import open_group
from .._settings import settings
from .._validate import layer_names
from ..sources import OnDisk, open_source
from ..tokens import ahead
from .block_store import BlockStore
from .reader import Reader

INDEX, CODES, CATEGORIES = "_index", "codes", "categories"


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
        return self.reader.keys.run in uns and read_elem(uns[self.reader.keys.run]) == _digest(fingerprint)

    def check(self, *, overwrite: bool) -> None:
        """Raise where something else is in the place of the results."""
        if self.path.exists() and not overwrite:
            msg = f"{str(self.path)!r} is there: pass `overwrite=True` to replace it, or another `output`."
            raise FileExistsError(msg)

    def assemble(self, store: BlockStore, bounds: np.ndarray, uns: dict[str, Any], fingerprint: dict[str, Any]) -> None:
        """Build the file and move it to its place."""
        store.check_room(0)
        made = store.folder / f"results{self.path.suffix}"
        build(made, store, bounds, uns | {self.reader.keys.run: _digest(fingerprint)}, self.rna)
        _replace(made, self.path, store.folder)


class InFile:
    """The file that the cells were read from."""

    def __init__(self, path: Path, modality: str, rna_modality: str, reader: Reader) -> None:
        self.path, self.modality, self.rna_modality, self.reader = path, modality, rna_modality, reader
        self.partial = path.with_name(f"{path.name}.partial")
        source = open_source(path, modality)
        try:
            self.rna = self._genes(source) if reader.genes and isinstance(source, OnDisk) else None
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
            source.names(i, min(i + step, source.n_obs)).equals(rna.names(i, min(i + step, rna.n_obs))) for i in starts
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

    def assemble(self, store: BlockStore, bounds: np.ndarray, uns: dict[str, Any], fingerprint: dict[str, Any]) -> None:
        """Build the results and move them into the file; of an HDF5 file it is a copy that they are moved into, which then replaces it."""
        is_zarr = self.path.is_dir()
        store.check_room(0 if is_zarr else self.path.stat().st_size)
        made = store.folder / ("results.zarr" if is_zarr else "results.h5ad")
        build(made, store, bounds, uns, self.rna, open_group(self.path).metadata.zarr_format if is_zarr else None)
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
        told = {key: read_elem(uns[key]) for key in (self.reader.keys.uns, self.reader.keys.expression) if key in uns}
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
        self.is_consolidated = self.root.metadata.consolidated_metadata is not None or (store / ".zmetadata").exists()
        if (store / "zarr.json").exists():
            self.is_consolidated |= (
                json.loads((store / "zarr.json").read_text()).get("consolidated_metadata") is not None
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
            _consolidate(self.store)


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


def arrays_of(atac: AnnData, rna: AnnData | None) -> dict[str, np.ndarray]:
    """What a tool wrote about some cells, as arrays of plain types by their place in a file."""
    arrays = {f"obs/{INDEX}": _text(atac.obs_names)}
    for name, column in atac.obs.items():
        if isinstance(column.dtype, pd.CategoricalDtype):
            arrays[f"obs/{name}/{CODES}"] = column.cat.codes.to_numpy()
            arrays[f"obs/{name}/{CATEGORIES}"] = _text(column.cat.categories)
        else:
            arrays[f"obs/{name}"] = _text(column) if pd.api.types.is_string_dtype(column) else column.to_numpy()
    for name, value in atac.obsm.items():
        if isinstance(value, pd.DataFrame):
            arrays |= {f"obsm/{name}/{key}": column.to_numpy() for key, column in value.items()}
        else:
            arrays[f"obsm/{name}"] = np.asarray(value)
    if rna is not None:
        arrays |= {f"layers/{name}": rna.layers[name] for name in layer_names(rna)}
    return arrays


def build(
    path: Path,
    store: BlockStore,
    bounds: np.ndarray,
    uns: dict[str, Any],
    var: pd.DataFrame | None,
    zarr_format: Literal[2, 3] | None = None,
) -> None:
    """Write an AnnData of all blocks: anndata writes that of one of them, and its arrays are made longer and filled."""
    import anndata
    import h5py
    import zarr
    from anndata.io import write_elem

    _remove(path)
    sizes = np.diff(bounds)
    with store.load(int(sizes.argmax())) as longest:  # so that chunks are long, too
        template, places = _template(dict(longest), var)
    codes = {name: _used(store, len(sizes), name) for name in places.values() if name.endswith(f"/{CODES}")}
    for name, (used, categories) in codes.items():
        column = name.split("/")[1]
        template.obs[column] = pd.Categorical.from_codes(np.full(template.n_obs, -1), categories[used])
    template.uns = uns
    root: Any
    root = zarr.open_group(path, mode="w", zarr_format=zarr_format) if path.suffix == ".zarr" else h5py.File(path, "w")
    # Text as arrays that all versions of anndata read and that can be made longer, not as groups of values and masks; and chunks in
    # files of their own: blocks that end in the middle of a shard would have it written twice
    with anndata.settings.override(allow_write_nullable_strings=False, auto_shard_zarr_v3=False):
        write_elem(root, "/", template)
    arrays = {place: _lengthened(root, place, int(bounds[-1])) for place in places}
    with (
        tqdm(total=int(bounds[-1]), desc="Writing", unit=" cells", disable=not settings.progress) as bar,
        closing(ahead(_loaded(store, len(sizes), set(places.values())))) as blocks,
    ):
        for (start, stop), block in zip(pairwise(bounds), blocks, strict=True):
            for place, name in places.items():
                values = block[name]
                if name in codes:
                    used = codes[name][0]
                    new = np.full(len(used) + 1, -1, dtype=values.dtype)  # the last is of code -1
                    new[np.flatnonzero(used)] = np.arange(used.sum())
                    values = new[values]
                arrays[place][start:stop] = (
                    np.char.decode(values, "utf-8").astype(object) if values.dtype.kind == "S" else values
                )
            bar.update(int(stop - start))
    if path.suffix == ".zarr":
        _consolidate(path)
    else:
        root.close()


def _consolidate(path: Path) -> None:
    """Gather the metadata of a zarr store in one file, as anndata does."""
    import zarr

    with warnings.catch_warnings():
        # Of format 3 that is an extension which other readers ignore: nothing for users to act on
        warnings.filterwarnings("ignore", message=".*[Cc]onsolidated metadata.*", category=UserWarning)
        zarr.consolidate_metadata(path)


def _loaded(store: BlockStore, n_blocks: int, names: set[str]) -> Iterator[dict[str, np.ndarray]]:
    for number in range(n_blocks):
        with store.load(number) as block:
            yield {name: block[name] for name in names}


def _template(block: dict[str, np.ndarray], var: pd.DataFrame | None) -> tuple[AnnData, dict[str, str]]:
    """An AnnData of one block, and for the place of each array in a file the name of its values in a block."""
    names = pd.Index(np.char.decode(block[f"obs/{INDEX}"], "utf-8").astype(object))
    adata = AnnData(
        obs=pd.DataFrame(index=names), var=pd.DataFrame(index=pd.Index([], dtype=object)) if var is None else var
    )
    places = {f"obs/{INDEX}": f"obs/{INDEX}"}
    tables: dict[str, dict[str, np.ndarray]] = {}
    for name, values in block.items():
        part, _, key = name.partition("/")
        if part not in ("obs", "obsm", "layers") or key == INDEX or key.endswith(f"/{CATEGORIES}"):
            continue
        places[name] = name
        if part == "obs" and key.endswith(f"/{CODES}"):
            adata.obs[key.removesuffix(f"/{CODES}")] = pd.Categorical([None] * len(names))  # categories follow
        elif part == "obs":
            adata.obs[key] = np.char.decode(values, "utf-8").astype(object) if values.dtype.kind == "S" else values
        elif part == "obsm" and "/" in key:
            table, _, column = key.partition("/")
            tables.setdefault(table, {})[column] = values
            places[f"obsm/{table}/{INDEX}"] = f"obs/{INDEX}"
        elif part == "obsm":
            adata.obsm[key] = values
        else:
            adata.layers[key] = values
    for table, columns in tables.items():
        adata.obsm[table] = pd.DataFrame(columns, index=names)
    return adata, places


def _used(store: BlockStore, n_blocks: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Which categories there are in any block, and what all of them are called."""
    used = np.zeros(0, dtype=bool)
    for number in range(n_blocks):
        with store.load(number) as block:
            values = block[name]
            if not number:
                categories = np.char.decode(block[name.removesuffix(CODES) + CATEGORIES], "utf-8").astype(object)
                used = np.zeros(len(categories), dtype=bool)
            used[np.unique(values[values >= 0])] = True
    return used, categories


def _lengthened(root: Any, place: str, n: int) -> Any:
    """The array at `place`, with `n` rows."""
    import h5py

    array = root[place]
    shape = (n, *array.shape[1:])
    if not isinstance(array, h5py.Dataset):
        array.resize(shape)
        return array
    attributes, dtype = dict(array.attrs), array.dtype
    del root[place]
    array = root.create_dataset(place, shape=shape, dtype=dtype)
    for name, value in attributes.items():
        array.attrs[name] = value
    return array


def _text(values: Any) -> np.ndarray:
    return np.char.encode(np.asarray(values, dtype=str), "utf-8")


def _digest(fingerprint: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()


def _replace(made: Path, path: Path, folder: Path) -> None:
    """Put a file or a folder in the place of what may be there."""
    _flush(made)
    if path.exists() and (path.is_dir() or made.is_dir()):  # a folder cannot be written over by a rename
        old = folder / "replaced"
        _remove(old)
        path.rename(old)
    made.replace(path)


def _flush(path: Path) -> None:
    """Wait until it is on the disk."""
    for file in [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
