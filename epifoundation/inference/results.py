"""Arrays of finished blocks, and the file of results built from them."""

from __future__ import annotations

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

from .._settings import settings
from .._validate import layer_names
from ..cells.tokens import ahead
from .block_store import BlockStore

INDEX, CODES, CATEGORIES = "_index", "codes", "categories"


def arrays_of(atac: AnnData, rna: AnnData | None) -> dict[str, np.ndarray]:
    """Results for some cells, as arrays of plain types by their path in a file."""
    arrays = {f"obs/{INDEX}": _text(atac.obs_names)}
    for name, column in atac.obs.items():
        if isinstance(column.dtype, pd.CategoricalDtype):
            arrays[f"obs/{name}/{CODES}"] = column.cat.codes.to_numpy()
            arrays[f"obs/{name}/{CATEGORIES}"] = _text(column.cat.categories)
        else:
            arrays[f"obs/{name}"] = (
                _text(column) if pd.api.types.is_string_dtype(column) else column.to_numpy()
            )
    for name, value in atac.obsm.items():
        if isinstance(value, pd.DataFrame):
            arrays |= {f"obsm/{name}/{key}": column.to_numpy() for key, column in value.items()}
        else:
            arrays[f"obsm/{name}"] = np.asarray(value)
    if rna is not None:
        arrays |= {f"layers/{name}": rna.layers[name] for name in layer_names(rna)}
    return arrays


def build_file(
    path: Path,
    store: BlockStore,
    bounds: np.ndarray,
    uns: dict[str, Any],
    var: pd.DataFrame | None,
    zarr_format: Literal[2, 3] | None = None,
) -> None:
    """Write an AnnData of all blocks: anndata writes one block, whose arrays are then extended."""
    import anndata
    import h5py
    import zarr
    from anndata.io import write_elem

    remove(path)
    sizes = np.diff(bounds)
    with store.load(int(sizes.argmax())) as longest:  # so that chunks are long, too
        template, places = _template(dict(longest), var)
    codes = {
        name: _used(store, len(sizes), name)
        for name in places.values()
        if name.startswith("obs/") and name.endswith(f"/{CODES}")
    }
    for name, (used, categories) in codes.items():
        column = name.split("/")[1]
        template.obs[column] = pd.Categorical.from_codes(
            np.full(template.n_obs, -1), categories[used]
        )
    template.uns = uns
    root: Any
    is_zarr = path.suffix == ".zarr"
    root = (
        zarr.open_group(path, mode="w", zarr_format=zarr_format)
        if is_zarr
        else h5py.File(path, "w")
    )
    # Text as plain arrays, which all versions of anndata read and which can be extended; chunks in
    # separate files, as blocks that end within a shard would write it twice
    with anndata.settings.override(allow_write_nullable_strings=False, auto_shard_zarr_v3=False):
        write_elem(root, "/", template)
    arrays = {place: _extended(root, place, int(bounds[-1])) for place in places}
    with (
        tqdm(
            total=int(bounds[-1]), desc="Writing", unit=" cells", disable=not settings.progress
        ) as bar,
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
                    np.char.decode(values, "utf-8").astype(object)
                    if values.dtype.kind == "S"
                    else values
                )
            bar.update(int(stop - start))
    if is_zarr:
        consolidate(path)
    else:
        root.close()


def consolidate(path: Path) -> None:
    """Consolidate the metadata of a zarr store, as anndata does."""
    import zarr

    with warnings.catch_warnings():
        # In format 3 it is an extension that other readers ignore: users need not act
        warnings.filterwarnings(
            "ignore", message=".*[Cc]onsolidated metadata.*", category=UserWarning
        )
        zarr.consolidate_metadata(path)


def _loaded(store: BlockStore, n_blocks: int, names: set[str]) -> Iterator[dict[str, np.ndarray]]:
    for number in range(n_blocks):
        with store.load(number) as block:
            yield {name: block[name] for name in names}


def _template(
    block: dict[str, np.ndarray], var: pd.DataFrame | None
) -> tuple[AnnData, dict[str, str]]:
    """An AnnData of one block, and the array of a block for each path in the file."""
    names = pd.Index(np.char.decode(block[f"obs/{INDEX}"], "utf-8").astype(object))
    adata = AnnData(
        obs=pd.DataFrame(index=names),
        var=pd.DataFrame(index=pd.Index([], dtype=object)) if var is None else var,
    )
    places = {f"obs/{INDEX}": f"obs/{INDEX}"}
    tables: dict[str, dict[str, np.ndarray]] = {}
    for name, values in block.items():
        part, _, key = name.partition("/")
        if part not in ("obs", "obsm", "layers") or name == f"obs/{INDEX}":
            continue
        if part == "obs" and key.endswith(f"/{CATEGORIES}"):
            continue
        places[name] = name
        if part == "obs" and key.endswith(f"/{CODES}"):
            adata.obs[key.removesuffix(f"/{CODES}")] = pd.Categorical(
                [None] * len(names)
            )  # categories follow
        elif part == "obs":
            adata.obs[key] = (
                np.char.decode(values, "utf-8").astype(object)
                if values.dtype.kind == "S"
                else values
            )
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
    """Categories used in any block (boolean), and the names of all."""
    used = np.zeros(0, dtype=bool)
    for number in range(n_blocks):
        with store.load(number) as block:
            values = block[name]
            if not number:
                categories = np.char.decode(
                    block[name.removesuffix(CODES) + CATEGORIES], "utf-8"
                ).astype(object)
                used = np.zeros(len(categories), dtype=bool)
            used[np.unique(values[values >= 0])] = True
    return used, categories


def _extended(root: Any, place: str, n: int) -> Any:
    """The array at `place`, extended to `n` rows."""
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


def remove(path: Path) -> None:
    """Delete a file or a folder."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
