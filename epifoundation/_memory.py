"""Copy data into memory, backed or not, and undo changes to it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

MAPPINGS = ("uns", "obsm", "varm", "obsp", "varp", "layers")


def copy_of(data: Any) -> Any:
    """A copy in memory of an AnnData or MuData."""
    return data.to_memory() if data.isbacked else data.copy()


def in_memory(matrix: Any) -> Any:
    """A backed matrix, sparse or dense, in memory."""
    return matrix.to_memory() if hasattr(matrix, "to_memory") else matrix[:]


@contextlib.contextmanager
def restored_on_error(*objects: Any) -> Iterator[None]:
    """Undo what was written into AnnData objects if an error, or an interrupt, is raised."""
    kept = [
        (
            adata,
            {part: getattr(adata, part).copy(deep=False) for part in ("obs", "var")}
            | {part: dict(getattr(adata, part)) for part in MAPPINGS},
        )
        for adata in objects
        if adata is not None
    ]
    try:
        yield
    except BaseException:
        for adata, parts in kept:
            for part, value in parts.items():
                setattr(adata, part, value)
        raise
