"""Read the barcodes of cells in any form that people have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from .._files import read_columns
from .._validate import check_unique

# First lines of files of barcodes that are no barcodes
HEADERS = {"barcode", "barcodes", "cell", "cells", "cell_id", "cell_barcode", "index", "obs_names"}


def read_barcodes(barcodes: Any, prefixes: list[str], separator: str) -> pd.Index | None:
    """Names of the cells to count, or None for all.

    Parameters
    ----------
    barcodes
        Names in any form, or a mapping by sample.
    prefixes
        What the names of each sample begin with: the sample and `separator`.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    TypeError, ValueError
        They are not names, or not those of the samples; or a name occurs twice.
    """
    if barcodes is None:
        return None
    if isinstance(barcodes, Mapping):
        given = {f"{sample}{separator}": part for sample, part in barcodes.items()}
        if set(given) != set(prefixes):
            msg = f"`barcodes` has the samples {sorted(given)}, `fragments` has {sorted(prefixes)}."
            raise ValueError(msg)
        listed = [prefix + name for prefix, part in given.items() for name in listed_barcodes(part)]
    else:
        listed = listed_barcodes(barcodes)
    names = pd.Index(listed, dtype=object)
    if not len(names):
        msg = "`barcodes` is empty."
        raise ValueError(msg)
    check_unique(names, "barcodes", "drop the copies")
    check_prefixes(names, prefixes)
    return names


def check_prefixes(names: pd.Index, prefixes: list[str]) -> None:
    """Raise ValueError unless each name begins with that of a sample."""
    unprefixed = names[~names.str.startswith(tuple(prefixes))]
    if len(unprefixed):
        msg = f"{len(unprefixed):,} of {len(names):,} barcodes begin with no sample name, "
        msg += f"first {unprefixed[0]!r}; expected one of {prefixes}."
        raise ValueError(msg)


def check_found(
    names: pd.Index, is_found: np.ndarray, first: dict[str, str], prefixes: list[str]
) -> pd.Index:
    """Names without a fragment; ValueError if all of a sample are.

    Parameters
    ----------
    names, is_found
        Cells, and whether they have a fragment.
    first
        The first barcode in the file of each sample.
    prefixes
        What the names of each sample begin with.
    """
    missing = names[~is_found]
    for prefix in prefixes:
        expected = names[names.str.startswith(prefix)]
        if len(expected) and missing.str.startswith(prefix).sum() == len(expected):
            msg = (
                f"None of the {len(expected):,} barcodes is in the file: first "
                f"{expected[0]!r}, and {prefix + first[prefix]!r} there. Do they lack "
                "a suffix such as '-1', or are they of another sample, or those of the RNA?"
            )
            raise ValueError(msg)
    return missing


def listed_barcodes(barcodes: Any) -> list[str]:
    """Names in any form, without what surrounds them: spaces, quotes, a title."""
    if isinstance(barcodes, AnnData | MuData | pd.DataFrame):
        table = barcodes if isinstance(barcodes, pd.DataFrame) else barcodes.obs
        return [str(name) for name in table.index]
    if isinstance(barcodes, str | Path):
        return _read_file(Path(barcodes))
    if not isinstance(barcodes, Iterable):
        msg = "`barcodes` must be a list of names, an AnnData, or a file with one per line, "
        msg += f"got {type(barcodes).__name__}."
        raise TypeError(msg)
    listed = [name.decode() if isinstance(name, bytes) else name for name in barcodes]
    wrong = next((name for name in listed if not isinstance(name, str) or not name), None)
    if wrong is not None:
        msg = f"`barcodes` must be names, got {wrong!r}."
        raise ValueError(msg)
    return listed


def _read_file(path: Path) -> list[str]:
    if not path.is_file():
        msg = "`barcodes` must be a list of names or a file with one per line; "
        msg += f"the file {str(path)!r} does not exist."
        raise FileNotFoundError(msg)
    names = [name.strip().strip("'\"") for (name,) in read_columns(path, 1)]
    if names and names[0].lower() in HEADERS:
        del names[0]
    table = next((name for name in names if "," in name or " " in name), None)
    if table is not None:
        msg = f"{str(path)!r} must have one barcode per line, got {table[:80]!r}. Read it with "
        msg += "pandas, and pass the column with the barcodes of the cells."
        raise ValueError(msg)
    return names
