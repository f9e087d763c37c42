"""Genomic intervals: read from names or columns, compared with another set. 0-based, half-open throughout."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
import pandas as pd

COLUMNS = ["chrom", "start", "end"]
STYLES = "chr1:100-200, chr1-100-200, chr1_100_200 or 1:100-200"
# The chromosome may itself hold the separators (chr1_KI270706v1_random): it takes all but the last two numbers.
_NAME = r"^(.+)[:_-]([\d,]+)[_-]([\d,]+)$"


def parse_intervals(names: Iterable[str]) -> pd.DataFrame:
    """Read intervals from peak names.

    Parameters
    ----------
    names
        ``chr1:100-200``, ``chr1-100-200``, ``chr1_100_200`` or ``1:100-200``; thousands separators are
        allowed. A chromosome without prefix gets ``chr``.

    Returns
    -------
    Columns ``chrom``, ``start``, ``end`` (0-based, half-open), in the order of `names`.

    Raises
    ------
    ValueError
        A name is no interval, or is empty or reversed.

    Examples
    --------
    >>> import epifoundation as ep
    >>> ep.genome.parse_intervals(["chr1:100-200", "X_5_10"])
      chrom  start  end
    0  chr1    100  200
    1  chrX      5   10
    """
    series = pd.Series(list(names), dtype=object).astype(str)
    parts = series.str.extract(_NAME)
    missing = parts[0].isna()
    if missing.any():
        msg = (
            f"{int(missing.sum()):,} of {len(series):,} peak names are no genomic intervals, first {series[missing].iloc[0]!r}. "
            f"Expected {STYLES}; rename `var_names` or give `var` the columns {COLUMNS}."
        )
        raise ValueError(msg)
    return _check_intervals(parts[0], *(parts[i].str.replace(",", "", regex=False) for i in (1, 2)))


def read_intervals(var: pd.DataFrame) -> pd.DataFrame:
    """Read the intervals of a peak table.

    Parameters
    ----------
    var
        ``var`` of an ATAC modality. Columns ``chrom``, ``start``, ``end`` come first, then a 10x
        ``interval`` column, then the index.

    Returns
    -------
    Columns ``chrom``, ``start``, ``end`` (0-based, half-open), in the order of `var`.

    Raises
    ------
    ValueError
        Neither columns nor names hold intervals.

    Examples
    --------
    >>> import epifoundation as ep
    >>> ep.genome.read_intervals(ep.datasets.pbmc_multiome()["atac"].var).shape[1]
    3
    """
    if set(COLUMNS) <= set(var.columns):
        frame = var[COLUMNS].reset_index(drop=True)
        return _check_intervals(frame["chrom"], frame["start"], frame["end"])
    return parse_intervals(var["interval"] if "interval" in var.columns else var.index)


def overlaps(query: pd.DataFrame, target: pd.DataFrame, *, min_fraction: float = 0.0) -> np.ndarray:
    """Find all pairs of overlapping intervals.

    Parameters
    ----------
    query, target
        Columns ``chrom``, ``start``, ``end``.
    min_fraction
        Least overlap, as a fraction of the shorter of the two intervals. 0 asks for one base.

    Returns
    -------
    Row numbers in `query` and `target`, shape (n_pairs, 2).

    Examples
    --------
    >>> import epifoundation as ep
    >>> a = ep.genome.parse_intervals(["chr1:0-10", "chr1:20-30"])
    >>> b = ep.genome.parse_intervals(["chr1:5-25"])
    >>> ep.genome.overlaps(a, b).tolist()
    [[0, 0], [1, 0]]
    """
    import bioframe

    if not len(query) or not len(target):
        return np.empty((0, 2), dtype=np.int64)
    pairs = bioframe.overlap(
        query.reset_index(drop=True), target.reset_index(drop=True), how="inner", return_index=True, return_overlap=True
    )
    shared = (pairs["overlap_end"] - pairs["overlap_start"]).to_numpy(dtype=np.int64)
    shorter = np.minimum(pairs["end"] - pairs["start"], pairs["end_"] - pairs["start_"]).to_numpy(dtype=np.int64)
    enough = (shared > 0) & (shared >= min_fraction * shorter)
    found = pairs.loc[enough, ["index", "index_"]].to_numpy(dtype=np.int64)
    return found[np.lexsort((found[:, 1], found[:, 0]))]


def _check_intervals(chrom: pd.Series, start: pd.Series, end: pd.Series) -> pd.DataFrame:
    """Make the table of intervals, all of them with a chromosome, a length and no negative start."""
    first, last = (pd.to_numeric(column, errors="coerce") for column in (start, end))
    wrong = chrom.isna() | ~((first >= 0) & (last > first) & (last < 2**53))  # NaN compares as false
    if wrong.any():
        i = int(np.flatnonzero(wrong)[0])
        msg = (
            f"{int(wrong.sum()):,} of {len(wrong):,} intervals are empty, reversed, negative or no numbers, "
            f"first {chrom[i]}:{start[i]}-{end[i]}. Expected 0 <= start < end (0-based, half-open)."
        )
        raise ValueError(msg)
    return pd.DataFrame(
        {"chrom": _with_prefix(chrom.astype(str)), "start": first.astype("int64"), "end": last.astype("int64")}
    )


def _with_prefix(chrom: pd.Series) -> pd.Series:
    """1, X, MT -> chr1, chrX, chrM; names of contigs stay as they are."""
    codes, names = pd.factorize(chrom)  # few names, many peaks; -1 is a missing one
    bare = re.compile(r"\d{1,2}|[XYM]|MT")
    full = ["chr" + name.replace("MT", "M") if bare.fullmatch(name) else name for name in names]
    return pd.Series(np.array([*full, None], dtype=object)[codes], index=chrom.index, dtype=object)
