"""Chromosome sizes in any form that people have."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .._files import read_columns
from ._builds import canonical_build
from ._chromosome_lengths import BUILDS, chromosome_lengths
from ._intervals import with_prefix

MAX_LENGTH = 2**32 - 1  # positions in bigWig files have 32 bits


def read_chromosome_sizes(genome: Any) -> dict[str, int]:
    """Length of each chromosome, sorted by name.

    Parameters
    ----------
    genome
        Name of a build, a mapping from chromosomes to lengths, or a file with both in the first
        two columns (``chrom.sizes`` of UCSC, or the ``.fai`` of a FASTA file).

    Raises
    ------
    FileNotFoundError
        The file does not exist.
    TypeError, ValueError
        Unknown build, or lengths that are no positive integers.
    """
    if isinstance(genome, str) and canonical_build(genome) in BUILDS:
        given: dict[Any, Any] = dict(chromosome_lengths(canonical_build(genome)))
    elif isinstance(genome, Mapping | pd.Series):
        given = dict(genome.items())
    elif isinstance(genome, str | Path):
        given = _read_file(Path(genome))
    else:
        msg = "`genome` must be the name of a build, a mapping from chromosomes to lengths, or a "
        msg += f"file with both, got {type(genome).__name__}."
        raise TypeError(msg)
    sizes = {}
    names = with_prefix(pd.Series([str(name) for name in given], dtype=object))
    for name, length in zip(names, given.values(), strict=True):
        is_integer = isinstance(length, int | np.integer) and not isinstance(length, bool)
        if not name or not is_integer or not 0 < length <= MAX_LENGTH:
            msg = f"`genome`: the length of {name!r} must be an integer from 1 to {MAX_LENGTH:,}, "
            msg += f"got {length!r}."
            raise ValueError(msg)
        sizes[str(name)] = int(length)
    if not sizes or len(sizes) < len(given):
        fault = "has two lengths for a chromosome" if sizes else "has no chromosomes"
        msg = f"`genome` {fault}: {list(given)[:5]}."
        raise ValueError(msg)
    return dict(sorted(sizes.items()))


def _read_file(path: Path) -> dict[str, int]:
    if not path.is_file():
        msg = f"`genome={str(path)!r}` is neither a build, one of {list(BUILDS)}, nor a file with "
        msg += "the lengths of chromosomes (chrom.sizes)."
        raise FileNotFoundError(msg)
    rows = read_columns(path, 2)
    wrong = next((row for row in rows if not row[1].isdecimal()), None)
    if wrong is not None:
        msg = f"{str(path)!r} must have chromosomes and their lengths (chrom.sizes), got {wrong}."
        raise ValueError(msg)
    return {name: int(length) for name, length in rows}
