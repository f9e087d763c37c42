"""Results moved element by element into the file that the cells are in."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ..cells.groups import open_group
from .results import consolidate, remove

ORDER = "column-order"  # attribute of a table: the names of its columns
# Groups of which some elements may be replaced
ANNOTATIONS = re.compile(r"mod|mod/[^/]+|(mod/[^/]+/)?(obs|var|obsm|layers|uns)")
CONSOLIDATED = "consolidated_metadata"


def graft_hdf5(
    built: Path, file: Path, copy: Path, moved: Mapping[str, str], removed: Collection[str]
) -> None:
    """Write a copy of a file with elements of the results: `moved` are paths in both.

    Elements that are replaced or `removed` are left out when the file is copied: deleted from the
    copy, they would leave gaps, and it would grow with each run.
    """
    import h5py

    with open_group(built) as results, open_group(file) as old:
        left_out = {*moved.values(), *removed}
        if _has_references(old):
            shutil.copyfile(file, copy)
            new = h5py.File(copy, "r+")
            for path in [path for path in left_out if path in new]:
                del new[path]
        else:
            new = h5py.File(copy, "w", userblock_size=old.userblock_size)
        with new:
            if not len(new):
                _copy_group(old, new, left_out)
            added: dict[str, list[str]] = {}
            for source, target in moved.items():
                parent, name = target.rsplit("/", 1)
                if parent not in new:
                    _make_dict(new, parent)
                results.copy(results[source], new[parent], name=name)
                added.setdefault(parent, []).append(name)
            for table in _tables(old):
                names = [
                    name for name in old[table].attrs[ORDER] if f"{table}/{name}" not in left_out
                ]
                new[table].attrs[ORDER] = [*names, *added.get(table, [])]
        if old.userblock_size:
            with file.open("rb") as source_bytes, copy.open("r+b") as target_bytes:
                target_bytes.write(source_bytes.read(old.userblock_size))


def _copy_group(old: Any, new: Any, left_out: Collection[str], at: str = "") -> None:
    """Copy a group without some elements; the others are copied as they are stored.

    The same elements are copied in the same order whatever is left out, so that the bytes of the
    file do not depend on what was in it before.
    """
    import h5py

    for name in old.attrs:
        if name != ORDER:  # follows when all columns are there
            new.attrs.create(name, old.attrs[name], dtype=old.attrs.get_id(name).dtype)
    for name in old:
        path, link = f"{at}{name}", old.get(name, getlink=True)
        if path in left_out:
            continue
        if isinstance(link, h5py.SoftLink | h5py.ExternalLink):
            new[name] = link
        elif ANNOTATIONS.fullmatch(path) and isinstance(old[name], h5py.Group):
            _copy_group(old[name], new.create_group(name), left_out, f"{path}/")
        else:
            old.copy(old[name], new, name=name)


def _tables(root: Any) -> list[str]:
    """Paths of the tables of cells and features."""
    roots = ["", *(f"mod/{name}/" for name in root.get("mod", {}))]
    tables = [f"{each}{name}" for each in roots for name in ("obs", "var")]
    return [path for path in tables if path in root and ORDER in root[path].attrs]


def _has_references(root: Any) -> bool:
    """Whether columns refer to their categories, as in files of old versions of anndata."""
    tables = [root[path] for path in _tables(root)]
    return any("categories" in table[name].attrs for table in tables for name in table)


def graft_zarr(
    built: Path, store: Path, folder: Path, moved: Mapping[str, str], removed: Collection[str]
) -> None:
    """Move elements of the results into a zarr store on the same disk: each is a folder.

    Interrupted at any time, the store can be read, and the same call goes on. `folder` takes what
    is replaced.
    """
    import zarr

    replaced, mark = folder / "replaced", folder / "consolidated"
    remove(replaced)
    replaced.mkdir()
    _remove_consolidated(store, mark)
    root = zarr.open_group(store, mode="r+", use_consolidated=False)
    last_first = [*reversed(list(moved.values())), *removed]  # the reports first
    for i, path in enumerate(dict.fromkeys(last_first)):
        if (store / path).exists():
            _order(root, path, listed=False)
            (store / path).rename(replaced / str(i))
    for source, target in moved.items():
        parent = target.rsplit("/", 1)[0]
        if not (store / parent).exists():
            _make_dict(root, parent)
        (built / source).rename(store / target)
        _order(root, target, listed=True)
    if mark.exists():
        consolidate(store)


def _remove_consolidated(store: Path, mark: Path) -> None:
    """Remove consolidated metadata, which would not fit the elements.

    `mark` is made before, so that they are written again, if need be by a later call.
    """
    old, metadata = store / ".zmetadata", store / "zarr.json"
    content = json.loads(metadata.read_text()) if metadata.exists() else {}
    if not old.exists() and content.get(CONSOLIDATED) is None:
        return
    mark.touch()
    old.unlink(missing_ok=True)
    if content.pop(CONSOLIDATED, None) is not None:
        temporary = mark.with_suffix(".json")
        temporary.write_text(json.dumps(content, indent=2))
        temporary.replace(metadata)


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
    names = [str(each) for each in table.attrs[ORDER] if each != name]
    table.attrs[ORDER] = [*names, name] if listed else names
