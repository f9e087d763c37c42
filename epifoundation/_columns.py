"""Tables with a column for each label, gene or group: any name, and keys that files accept."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Sequence

import numpy as np
import pandas as pd

MAX_BYTES = 200  # of a key: in a zarr store it is the name of a folder, which has a limit of 255
# Separators of paths, and characters that do not print
FORBIDDEN = re.compile(r"[/\\\x00-\x1f\x7f]")
# Of HDF5 and zarr, and of anndata
RESERVED = {"", "_index", "zarr.json"}


def column_keys(names: Iterable[str], index: Hashable = None) -> list[str]:
    """Keys of columns: the names, with ``_`` where h5ad or zarr does not accept a character.

    Keys differ from each other and from the name of the index. The same names in the same order
    have the same keys.
    """
    names = [str(name) for name in names]
    keys = [_accepted(name) for name in names]
    taken = {index}
    # Names that are accepted stay, also if the key of another name is the same
    for i in sorted(range(len(names)), key=lambda i: keys[i] != names[i]):
        key, n = keys[i], 1
        while key in taken:
            key, n = f"{keys[i]}_{n}", n + 1
        keys[i] = key
        taken.add(key)
    return keys


def table_of(values: np.ndarray, index: pd.Index, names: Sequence[str]) -> pd.DataFrame:
    """A table that can be written to h5ad and zarr, with a column for each name."""
    return pd.DataFrame(values, index, pd.Index(column_keys(names, index.name)))


def with_names(table: pd.DataFrame, names: Iterable[str]) -> pd.DataFrame:
    """The table of :func:`table_of`, with the names as its columns."""
    names, columns = [str(name) for name in names], [str(key) for key in table.columns]
    keys = column_keys(names, table.index.name)
    if len(keys) == len(columns) and set(keys) != set(columns):  # the index has another name now
        keys = columns
    true = dict(zip(keys, names, strict=True))
    columns = [true.get(key, key) for key in columns]
    return table.set_axis(pd.Index(columns), axis=1)


def check_storable(names: Iterable[str], what: str) -> None:
    """Raise ValueError if a name is a text that no file of cells can contain."""
    for name in map(str, names):
        try:
            is_storable = b"\0" not in name.encode()
        except UnicodeEncodeError:  # half of a surrogate pair
            is_storable = False
        if not is_storable:
            msg = f"The {what} {name!r} contains a character that h5ad and zarr cannot store "
            msg += "(NUL, or half of a surrogate pair): rename it."
            raise ValueError(msg)


def _accepted(name: str) -> str:
    key = FORBIDDEN.sub("_", name)
    if key in RESERVED or key.startswith("."):  # `.`, `..` and the metadata of zarr
        key = f"_{key.replace('.', '_')}"
    return key.encode()[:MAX_BYTES].decode(errors="ignore")
