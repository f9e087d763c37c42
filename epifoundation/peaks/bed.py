"""Read BED files of peaks."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from .._files import read_columns

COLUMNS = ("chrom", "start", "end", "name", "score", "strand")
NARROW_PEAK = [*COLUMNS, "fc", "-log10p", "-log10q", "relSummit"]
BARCODE = re.compile(r"(.*[#_:-])?[ACGT]{12,}([-_]\d+)*")  # in the column of names


def read_bed(path: str | Path) -> pd.DataFrame:
    """The columns of a BED file as text, plain or gzip, with the names of bioframe.

    Columns up to ``strand``, and for narrowPeak also ``fc``, ``-log10p``, ``-log10q`` and
    ``relSummit``.

    Raises
    ------
    FileNotFoundError
        The file does not exist.
    ValueError
        The file is not text, is truncated, or a line has fewer than three columns; or it has
        fragments, not peaks.
    """
    rows = read_columns(path, 3, at_most=11)
    n_columns = min(map(len, rows), default=3)
    if n_columns > 3 and BARCODE.fullmatch(rows[0][3]):
        msg = f"{str(path)!r} is a fragments file (barcode {rows[0][3]!r}), not a BED file of "
        msg += "peaks. Call peaks first, or take those of a model or of another data set."
        raise ValueError(msg)
    # BED12 and other formats have other columns after the strand
    names = NARROW_PEAK[: n_columns if n_columns == 10 else min(n_columns, 6)]
    return pd.DataFrame([row[: len(names)] for row in rows], columns=names)
