"""Bases of a FASTA file with an index, as samtools writes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from .._files import read_columns
from ._intervals import with_prefix


def reference_bases(path: str | Path, chrom: pd.Series, position: np.ndarray) -> np.ndarray:
    """The base at each position, upper case, as bytes; ``b""`` where the file has none.

    Parameters
    ----------
    path
        FASTA, not compressed, with its index ``<path>.fai``.
    chrom, position
        Chromosomes, with or without ``chr``, and 0-based positions, (n,).

    Raises
    ------
    FileNotFoundError
        The file or its index does not exist.
    ValueError
        The index does not fit the file.
    """
    path = Path(path)
    index = Path(f"{path}.fai")
    if not path.is_file() or not index.is_file():
        missing = index if path.is_file() else path
        msg = f"The file {str(missing)!r} does not exist: `fasta` is a FASTA file that is not "
        msg += f"compressed, with an index (`samtools faidx {path.name}`)."
        raise FileNotFoundError(msg)
    rows = pd.DataFrame([row[:5] for row in read_columns(index, 5)])
    numbers = rows[[1, 2, 3, 4]].apply(pd.to_numeric, errors="coerce")
    content = np.memmap(path, dtype=np.uint8, mode="r")
    if numbers.isna().any(axis=None) or (numbers <= 0).any(axis=None) or not len(content):
        raise _wrong_index(index, path)
    length, offset, n_bases, n_bytes = numbers.to_numpy(np.int64).T
    row = pd.Index(with_prefix(rows[0])).get_indexer(with_prefix(chrom))
    found = np.full(len(position), b"", dtype="S1")
    known = np.flatnonzero((row >= 0) & (position >= 0) & (position < length[row]))
    row, position = row[known], position[known]
    at = offset[row] + position // n_bases[row] * n_bytes[row] + position % n_bases[row]
    if len(at) and at.max() >= len(content):
        raise _wrong_index(index, path)
    letters = content[at]
    if not np.isin(letters & 0xDF, np.arange(ord("A"), ord("Z") + 1)).all():
        raise _wrong_index(index, path)
    found[known] = (letters & 0xDF).view("S1")  # upper case
    return found


def _wrong_index(index: Path, path: Path) -> ValueError:
    return ValueError(
        f"{str(index)!r} is not the index of {str(path)!r}: make it again, with "
        f"`samtools faidx {path.name}`."
    )
