"""What differs between the versions of other packages that we run on."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def quiet_update() -> Iterator[None]:
    """Hold back what mudata 0.3 says, at every copy, about the default of 0.4."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"From 0\.4 \.update\(\)", category=FutureWarning)
        yield


def copy_of(data: Any) -> Any:
    """A copy in memory of an AnnData or MuData, backed or not."""
    with quiet_update():
        return data.to_memory() if data.isbacked else data.copy()


def in_memory(matrix: Any) -> Any:
    """A matrix read whole: backed ones, sparse or dense, as those that are in memory."""
    return matrix.to_memory() if hasattr(matrix, "to_memory") else matrix[:]
