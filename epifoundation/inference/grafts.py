"""Results moved element by element into the file that the cells are in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .results import consolidate


class GraftHDF5:
    """Elements copied between open HDF5 files."""

    def __init__(self, source: Any, target: Any) -> None:
        self.source, self.target = source, target

    def remove(self, path: str) -> None:
        """Delete an element if it exists."""
        if path in self.target:
            del self.target[path]
            _order(self.target, path, listed=False)

    def move(self, source: str, target: str) -> None:
        """Replace an element by one of the results."""
        self.remove(target)
        parent, name = target.rsplit("/", 1)
        if parent not in self.target:
            _make_dict(self.target, parent)
        self.source.copy(self.source[source], self.target[parent], name=name)
        _order(self.target, target, listed=True)

    def close(self) -> None:
        """Complete the target."""
        self.source.close()
        self.target.close()


class GraftZarr:
    """Elements moved between zarr stores on one disk: each is a folder that is renamed."""

    def __init__(self, built: Path, store: Path, folder: Path) -> None:
        import zarr

        self.built, self.store, self.bin = built, store, folder / "replaced"
        self.bin.mkdir(exist_ok=True)
        self.root = zarr.open_group(store, mode="r+", use_consolidated=False)
        metadata = store / "zarr.json"
        in_root = json.loads(metadata.read_text()) if metadata.exists() else {}
        self.is_consolidated = (store / ".zmetadata").exists() or (
            in_root.get("consolidated_metadata") is not None
        )
        self.n_replaced = 0

    def remove(self, path: str) -> None:
        """Delete an element if it exists."""
        if (self.store / path).exists():
            _order(self.root, path, listed=False)
            (self.store / path).rename(self.bin / str(self.n_replaced))
            self.n_replaced += 1

    def move(self, source: str, target: str) -> None:
        """Replace an element by one of the results."""
        parent = target.rsplit("/", 1)[0]
        self.remove(target)
        if not (self.store / parent).exists():
            _make_dict(self.root, parent)
        (self.built / source).rename(self.store / target)
        _order(self.root, target, listed=True)

    def close(self) -> None:
        """Complete the target."""
        if self.is_consolidated:
            consolidate(self.store)


def _make_dict(root: Any, path: str) -> None:
    from anndata.io import write_elem

    parent, _, name = path.rpartition("/")
    write_elem(root[parent] if parent else root, name, {})


def _order(root: Any, path: str, *, listed: bool) -> None:
    """Add a column to the list of columns of its table, or remove it."""
    parent, name = path.rsplit("/", 1)
    if parent.rsplit("/", 1)[-1] not in ("obs", "var"):
        return
    table = root[parent]
    names = [str(each) for each in table.attrs["column-order"] if each != name]
    table.attrs["column-order"] = [*names, name] if listed else names
