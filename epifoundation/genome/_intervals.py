"""Genomic intervals: read, and compared with another set. 0-based, half-open throughout."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
import pandas as pd

COLUMNS = ["chrom", "start", "end"]
STYLES = "chr1:100-200, chr1-100-200, chr1_100_200 or 1:100-200"
RNA = ("Gene Expression", "GEX")  # kinds of features that are no peaks, by 10x and by others
# The chromosome may itself hold the separators (chr1_KI270706v1_random): it takes all but the last two numbers.
_PARTS = re.compile(r"^(.*[^:_-])[:_-]([\d,]+)[_-]([\d,]+)$")


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
    every = [str(name) for name in names]
    found = [_PARTS.match(name) for name in every]
    if None in found:
        first = every[found.index(None)]
        msg = (
            f"{found.count(None):,} of {len(every):,} peak names are no genomic intervals, first {first!r}. "
            f"Expected {STYLES}; rename `var_names` or give `var` the columns {COLUMNS}."
        )
        raise ValueError(msg)
    parts = pd.DataFrame([part.groups() for part in found if part], columns=COLUMNS, dtype=object)
    start, end = (parts[side].str.replace(",", "", regex=False) for side in COLUMNS[1:])
    return _check_intervals(parts["chrom"], start, end)


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
    kinds = var["feature_types"].astype(str) if "feature_types" in var.columns else pd.Series(dtype=str)
    genes = kinds.isin(RNA)
    if genes.any():  # what 10x writes into one matrix
        others = sorted(set(kinds[~genes]))
        cure = (
            f"keep the others: `adata[:, adata.var['feature_types'] == {others[0]!r}].copy()`"
            if others
            else "pass the peaks"
        )
        msg = (
            f"The matrix holds {' and '.join(sorted(set(kinds)))}: {int(genes.sum()):,} of its {len(var):,} columns are genes, not peaks; "
            f"{cure}, or read the file with muon, which parts them."
        )
        raise ValueError(msg)
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
    if not len(query) or not len(target):
        return np.empty((0, 2), dtype=np.int64)
    axis = Axis(target)
    codes, names = pd.factorize(query["chrom"])
    contig = axis.contigs.get_indexer(names)[codes]
    known = np.flatnonzero(contig >= 0)
    start, end = (query[side].to_numpy(np.int64)[known] for side in ("start", "end"))
    i, j = axis.overlaps(contig[known], start, end)
    first, last = (target[side].to_numpy(np.int64)[j] for side in ("start", "end"))
    shared = np.minimum(end[i], last) - np.maximum(start[i], first)
    enough = shared >= min_fraction * np.minimum(end[i] - start[i], last - first)
    found = np.column_stack([known[i], j])[enough]
    return found[np.lexsort((found[:, 1], found[:, 0]))]


class Axis:
    """Contigs end to end, so that one search serves them all; 64-bit, since a genome has more than 2^31 bases.

    Parameters
    ----------
    intervals
        Those to be found: columns ``chrom``, ``start``, ``end``.

    Attributes
    ----------
    contigs
        Names of the contigs that they are on.
    """

    def __init__(self, intervals: pd.DataFrame) -> None:
        code, names = pd.factorize(intervals["chrom"])
        start, end = (intervals[side].to_numpy(np.int64) for side in ("start", "end"))
        self.contigs = pd.Index(names)
        self._length = pd.Series(end).groupby(code).max().to_numpy(np.int64)
        room = self._length + 2  # one base before and after each contig: what lies outside of it is moved there
        self._offset = np.cumsum(room) - room + 1
        self.start, self.end = self._offset[code] + start, self._offset[code] + end

    def overlaps(self, contig: np.ndarray, start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All pairs of overlapping intervals: of those that are asked for, on ``contigs[contig]``, and of those of the axis."""
        from bioframe.core.arrops import overlap_intervals

        offset, length = self._offset[contig], self._length[contig]
        here = (offset + np.clip(side, -1, length) for side in (start, end))
        return overlap_intervals(*here, self.start, self.end)


def _check_intervals(chrom: pd.Series, start: pd.Series, end: pd.Series) -> pd.DataFrame:
    """Make the table of intervals, all of them with a chromosome, a length and no negative start."""
    # Text, nullable or not: float64 holds whole numbers up to 2^53, and NaN compares as false.
    first, last = (pd.to_numeric(column.astype(object), errors="coerce").astype(float) for column in (start, end))
    whole = (first % 1 == 0) & (last % 1 == 0)
    wrong = chrom.isna() | (chrom.astype(str) == "") | ~((first >= 0) & (last > first) & (last < 2**53) & whole)
    if wrong.any():
        i = int(np.flatnonzero(wrong)[0])
        msg = (
            f"{int(wrong.sum()):,} of {len(wrong):,} intervals are empty, reversed, negative or no numbers, "
            f"first {chrom[i]}:{start[i]}-{end[i]}. Expected 0 <= start < end (0-based, half-open)."
        )
        raise ValueError(msg)
    return pd.DataFrame(
        {"chrom": with_prefix(chrom.astype(str)), "start": first.astype("int64"), "end": last.astype("int64")}
    )


def with_prefix(chrom: pd.Series) -> pd.Series:
    """1, X, MT -> chr1, chrX, chrM; names of contigs stay as they are."""
    codes, names = pd.factorize(chrom)  # few names, many peaks; -1 is a missing one
    bare = re.compile(r"\d{1,2}|[XYM]|MT")
    full = ["chr" + name.replace("MT", "M") if bare.fullmatch(name) else name for name in names]
    return pd.Series(np.array([*full, None], dtype=object)[codes], index=chrom.index, dtype=object)
