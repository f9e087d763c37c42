"""What identifies the content of cells, so that a run never resumes from results of other cells."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import xxhash
from anndata import AnnData
from mudata import MuData

from .source import Located, hash_names

# Columns of `var` that define peaks
PEAK_COLUMNS = ("chrom", "start", "end", "interval", "feature_types")


def hash_of(*parts: Any) -> str:
    """A 128-bit hash (XXH3) of arrays, sparse rows, names, columns and text.

    The same in every process. Values of another type or in another order have another hash.
    """
    hashed = xxhash.xxh3_128()
    for part in parts:
        for tag, buffer in _buffers(part):
            hashed.update(f"{tag};".encode("utf-8", "surrogatepass"))
            hashed.update(buffer)
    return hashed.hexdigest()


def hash_peaks(var: pd.DataFrame) -> str:
    """A hash of what defines peaks: their names and intervals."""
    columns = [name for name in PEAK_COLUMNS if name in var.columns]
    return hash_of(*columns, var.index, *(var[name].astype(str) for name in columns))


def signature(place: Located) -> str | None:
    """A hash of sizes and times of the files of a source; None for an object in memory.

    While it is the same, the content is: only otherwise are cells read again to compare them.
    """
    if isinstance(place, AnnData | MuData):
        return None
    return hash_of(*sorted(_files(Path(place))))


def _files(path: Path) -> Iterator[str]:
    if not path.is_dir():
        yield _described(path.stat(), "")
        return
    folders = [path]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir():
                    folders.append(Path(entry.path))
                else:
                    yield _described(entry.stat(), os.path.relpath(entry.path, path))


def _described(status: os.stat_result, name: str) -> str:
    return f"{name}:{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}:{status.st_ino}"


def _buffers(part: Any) -> Iterator[tuple[str, Any]]:
    """The type and the bytes of a part."""
    if part is None:
        yield "none", b""
    elif isinstance(part, str):
        text = part.encode("utf-8", "surrogatepass")
        yield f"text {len(text)}", text
    elif sp.issparse(part):
        yield f"sparse {part.shape}", b""
        for array in (np.diff(part.indptr).astype(np.int64), part.indices, part.data):
            yield from _buffers(array)
    else:
        values = np.asarray(part.astype(object) if isinstance(part, pd.Series) else part)
        if values.dtype.kind not in "biufc":
            values = hash_names(values)
        yield f"array {values.dtype.str} {values.shape}", np.ascontiguousarray(values).data
