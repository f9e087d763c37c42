"""Copy data into memory, backed or not."""

from __future__ import annotations

from typing import Any


def copy_of(data: Any) -> Any:
    """A copy in memory of an AnnData or MuData."""
    return data.to_memory() if data.isbacked else data.copy()


def in_memory(matrix: Any) -> Any:
    """A backed matrix, sparse or dense, in memory."""
    return matrix.to_memory() if hasattr(matrix, "to_memory") else matrix[:]
