"""Training and validation cells: splitting data, and drawing samples."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from .._warn import warn

MIN_PER_LABEL = 20  # cells drawn of each label, or all if it has fewer
DRAWN_RUN = 32  # neighbouring cells that are drawn together, as they are close on disk


def parse_validation(validation: Any, option: str = "validation") -> float | list[str]:
    """Validation cells: a fraction of the cells, or the names of one or several batches."""
    if validation is None:
        return 0.1
    if isinstance(validation, np.ndarray) and not validation.ndim:
        validation = validation.item()
    if isinstance(validation, float | np.floating):
        return float(validation)
    if isinstance(validation, str | int | np.generic):  # batches may be numbers
        return [str(validation)]
    if not isinstance(validation, Iterable):
        msg = f"`{option}` must be a fraction of the cells or names of batches, got {validation!r}."
        raise TypeError(msg)
    return [str(name) for name in validation]


def split_cells(
    n_cells: int,
    validation: float | list[str],
    batch: pd.Series | None,
    rng: np.random.Generator,
    *,
    option: str = "validation",
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of training cells and of validation cells, ascending; `option` is named in errors."""
    rows = np.arange(n_cells)
    if isinstance(validation, float):
        if not 0 < validation < 1:
            msg = f"`{option}` must be a fraction between 0 and 1 or a list of batches, "
            msg += f"got {validation!r}."
            raise ValueError(msg)
        held = rng.permutation(rows)[: max(1, round(validation * n_cells))]
    else:
        if batch is None:
            msg = (
                f"`{option}={validation}` names batches: pass `batch_key=`, their column of `obs`, "
                "or a fraction between 0 and 1."
            )
            raise ValueError(msg)
        unknown = sorted(set(validation) - set(batch))
        if unknown or not validation:
            msg = f"`{option}` must name batches of {sorted(set(batch))}, "
            msg += f"got {unknown or validation}."
            raise ValueError(msg)
        held = rows[batch.isin(validation)]
    held = np.sort(held)
    train = np.setdiff1d(rows, held)
    check_split(train, held, n_cells)
    return train, held


def check_split(train: np.ndarray, held: np.ndarray, n_cells: int) -> None:
    """Raise ValueError if there are too few cells to train or to validate on."""
    if len(train) < 2 or not len(held):
        msg = f"Too few cells: {len(train)} to train on and {len(held)} to validate on, "
        msg += f"of {n_cells}."
        raise ValueError(msg)


def warn_unusable(usable: np.ndarray) -> None:
    """Warn if cells are left out."""
    if not usable.all():
        msg = f"{int((~usable).sum()):,} of {len(usable):,} cells have no open peak or no RNA "
        msg += "and are left out of training."
        warn(msg)


def draw(
    rows: np.ndarray, max_cells: int, rng: np.random.Generator, labels: np.ndarray | None = None
) -> np.ndarray:
    """Sample of ascending rows, in runs of neighbours, which are fast to read; ascending.

    If `labels` (codes of all cells, -1 for none) are given, some cells of rare labels are added.
    """
    if len(rows) <= max_cells:
        return rows
    runs = np.split(rows, np.arange(DRAWN_RUN, len(rows), DRAWN_RUN))
    order = rng.permutation(len(runs))
    n_runs = int(np.searchsorted(np.cumsum([len(runs[i]) for i in order]), max_cells)) + 1
    drawn = np.concatenate([runs[i] for i in np.sort(order[:n_runs])])[:max_cells]
    if labels is None:
        return drawn
    known = labels[drawn][labels[drawn] >= 0]
    rare = np.flatnonzero(np.bincount(known, minlength=labels.max() + 1) < MIN_PER_LABEL)
    more = [rng.permutation(rows[labels[rows] == code])[:MIN_PER_LABEL] for code in rare]
    return np.unique(np.concatenate([drawn, *more]))


def mask_of(rows: np.ndarray, n_cells: int) -> np.ndarray:
    """Boolean mask of the rows, (n_cells,)."""
    found = np.zeros(n_cells, bool)
    found[rows] = True
    return found
