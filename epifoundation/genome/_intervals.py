"""Read genomic intervals and find overlaps. 0-based, half-open throughout."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from .._validate import check_single

COLUMNS = ["chrom", "start", "end"]
NAME_STYLES = "chr1:100-200, chr1-100-200, chr1_100_200 or 1:100-200"
RNA_TYPES = ("Gene Expression", "GEX")  # values of `feature_types` by 10x and others
# Chromosomes may contain the separators (chr1_KI270706v1_random): all but the last two numbers
_PARTS = re.compile(r"^(.*[^:_-])[:_-]([\d,]+)[_-]([\d,]+)$")

_BYTES = re.compile(r"^b'(.*?)'")  # b'chr1':100-200, as SnapATAC writes names
_ALIASES = (  # names of other tools for the columns
    ("chr", "chromosome", "seqnames", "seqname", "chrom", "Chromosome", "#chr"),
    ("start", "Start", "chromStart"),
    ("end", "stop", "End", "Stop", "chromEnd"),
)
_GENE = re.compile(r"ENS[A-Z]*G\d+(\.\d+)?")


def parse_intervals(names: Iterable[str]) -> pd.DataFrame:
    """Read intervals from peak names.

    Parameters
    ----------
    names
        ``chr1:100-200``, ``chr1-100-200``, ``chr1_100_200`` or ``1:100-200``; thousands separators
        are allowed. Chromosomes without the prefix ``chr`` get it.

    Returns
    -------
    Columns ``chrom``, ``start``, ``end`` (0-based, half-open), in the order of `names`.

    Raises
    ------
    ValueError
        A name is not an interval, or the interval is empty or reversed.

    Examples
    --------
    >>> import epifoundation as ep
    >>> ep.genome.parse_intervals(["chr1:100-200", "X_5_10"])
      chrom  start  end
    0  chr1    100  200
    1  chrX      5   10
    """
    return _parse(names, f"rename `var_names` or give `var` the columns {COLUMNS}")


def _parse(names: Iterable[Any], advice: str) -> pd.DataFrame:
    all_names = [_text(name) for name in names]
    found = [_PARTS.match(_BYTES.sub(r"\1", name)) for name in all_names]
    if None in found:
        first = all_names[found.index(None)]
        msg = (
            f"{found.count(None):,} of {len(all_names):,} peak names are not genomic intervals, "
            f"first {first!r}. "
            f"Expected {NAME_STYLES}; {advice}."
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
        ``var`` of an ATAC modality: columns ``chrom``, ``start``, ``end``, else a 10x column
        ``interval``, else the index.

    Returns
    -------
    Columns ``chrom``, ``start``, ``end`` (0-based, half-open), in the order of `var`.

    Raises
    ------
    ValueError
        Neither the columns nor the names are intervals.

    Examples
    --------
    >>> import epifoundation as ep
    >>> ep.genome.read_intervals(ep.datasets.pbmc_multiome()["atac"].var).shape[1]
    3
    """
    for column in (*COLUMNS, "interval", "feature_types"):
        check_single(var.columns, column, "`var`")
    if set(COLUMNS) <= set(var.columns):
        frame = var[COLUMNS].reset_index(drop=True)
        is_empty = frame.isna().all(axis=1).to_numpy()
        if is_empty.any():  # as after an outer join: these have their names only
            frame = frame.astype(object)
            frame[is_empty] = read_intervals(var.loc[is_empty].drop(columns=COLUMNS)).to_numpy()
        return _check_intervals(frame["chrom"], frame["start"], frame["end"])
    has_kinds = "feature_types" in var.columns
    kinds = var["feature_types"].astype(str) if has_kinds else pd.Series(dtype=str)
    is_gene = kinds.isin(RNA_TYPES)
    if is_gene.any():  # 10x writes genes and peaks into one matrix
        others = sorted(set(kinds[~is_gene]))
        advice = "pass the peaks"
        if others:
            column = "adata.var['feature_types']"
            advice = f"keep the others: `adata[:, {column} == {others[0]!r}].copy()`"
        msg = (
            f"The matrix contains {' and '.join(sorted(set(kinds)))}: {int(is_gene.sum()):,} of "
            f"its {len(var):,} columns are genes, not peaks; {advice}, or read the file with muon, "
            "which separates them."
        )
        raise ValueError(msg)
    try:
        return _parse_names(var)
    except ValueError as error:
        if cure := advice_on_names(var):
            raise ValueError(f"{error} {cure}") from error
        raise


def _parse_names(var: pd.DataFrame) -> pd.DataFrame:
    """Intervals of the column ``interval``, and of the names where it has no value."""
    if "interval" not in var.columns:
        return parse_intervals(var.index)
    given = var["interval"].astype(object).to_numpy()
    is_given = np.array([not pd.isna(one) and str(one).strip() not in ("", "NA") for one in given])
    names = np.where(is_given, given, var.index)
    advice = f"the column `interval` has {int(is_given.sum()):,} values, without which the names "
    advice += f"are read; drop it or rename `var_names`, or give `var` the columns {COLUMNS}"
    return _parse(names, advice)


def advice_on_names(var: pd.DataFrame) -> str:
    """Where the intervals of a table may be whose names are none."""
    columns = [next((name for name in names if name in var.columns), "") for names in _ALIASES]
    if all(columns):
        renamed = {old: new for old, new in zip(columns, COLUMNS, strict=True) if old != new}
        cure = f"adata.var = adata.var.rename(columns={renamed})"
        return f"The columns {columns} may have them: `{cure}`."
    if len(var) and _GENE.fullmatch(str(var.index[0])):
        return "They are genes: RNA has no peaks; pass the modality of the ATAC-seq."
    for column in var.columns:
        first = str(var[[column]].iloc[0, 0]) if len(var) else ""
        if _PARTS.match(_BYTES.sub(r"\1", first)):
            return (
                f"The column {column!r} may have them: `adata.var_names = adata.var[{column!r}]`."
            )
    return ""


def overlaps(query: pd.DataFrame, target: pd.DataFrame, *, min_fraction: float = 0.0) -> np.ndarray:
    """Find all pairs of overlapping intervals.

    Parameters
    ----------
    query, target
        Columns ``chrom``, ``start``, ``end``.
    min_fraction
        Minimal overlap, as a fraction of the shorter of the two intervals. 0: one base.

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
    is_enough = shared >= min_fraction * np.minimum(end[i] - start[i], last - first)
    found = np.column_stack([known[i], j])[is_enough]
    return found[np.lexsort((found[:, 1], found[:, 0]))]


class Axis:
    """Intervals on concatenated contigs, so that one search covers the genome.

    Positions are 64-bit, since a genome has more than 2^31 bases.

    Parameters
    ----------
    intervals
        Intervals to search: columns ``chrom``, ``start``, ``end``.

    Attributes
    ----------
    contigs
        Names of their contigs.
    """

    def __init__(self, intervals: pd.DataFrame) -> None:
        code, names = pd.factorize(intervals["chrom"])
        start, end = (intervals[side].to_numpy(np.int64) for side in ("start", "end"))
        self.contigs = pd.Index(names)
        self._length = pd.Series(end).groupby(code).max().to_numpy(np.int64)
        # One more base before and after each contig, for intervals that lie outside of it
        room = self._length + 2
        self._offset = np.cumsum(room) - room + 1
        self.start, self.end = self._offset[code] + start, self._offset[code] + end

    def overlaps(
        self, contig: np.ndarray, start: np.ndarray, end: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """All overlapping pairs of the given intervals, on ``contigs[contig]``, and these."""
        offset, length = self._offset[contig], self._length[contig]
        first, last = (offset + np.clip(side, -1, length) for side in (start, end))
        # Of two that overlap, one starts inside the other. bioframe does the same, but its import
        # takes half a second
        i, j = _starts_inside(self.start, first, last)
        k, m = _starts_inside(first, self.start + 1, self.end)
        return np.concatenate([i, m]), np.concatenate([j, k])


def _starts_inside(
    starts: np.ndarray, first: np.ndarray, last: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of an interval and a start in it: ``first <= start < last``."""
    order = np.argsort(starts, kind="stable")
    begin, stop = (np.searchsorted(starts[order], side) for side in (first, last))
    n_inside = np.maximum(stop - begin, 0)
    interval = np.repeat(np.arange(len(first)), n_inside)
    within = np.arange(len(interval)) - np.repeat(np.cumsum(n_inside) - n_inside, n_inside)
    return interval, order[begin[interval] + within]


def _check_intervals(chrom: pd.Series, start: pd.Series, end: pd.Series) -> pd.DataFrame:
    """The table of intervals; ValueError unless each has a chromosome, a length, a valid start."""
    # float64 is exact up to 2^53, and NaN compares as False
    first, last = (_as_float(column) for column in (start, end))
    whole = (first % 1 == 0) & (last % 1 == 0)
    codes, names = pd.factorize(chrom.astype(object))  # few: text is slow
    is_name = np.array([str(name).strip() != "" for name in names] + [False])[codes]
    is_valid = is_name & whole
    wrong = ~(is_valid & (first >= 0) & (last > first) & (last < 2**53))
    if wrong.any():
        i = int(np.flatnonzero(wrong)[0])
        msg = (
            f"{int(wrong.sum()):,} of {len(wrong):,} intervals are empty, reversed, negative or "
            f"not numbers, first {chrom[i]}:{start[i]}-{end[i]}. "
            "Expected 0 <= start < end (0-based, half-open)."
        )
        raise ValueError(msg)
    texts = np.array([_text(name) for name in names], dtype=object)[codes]
    chrom = with_prefix(pd.Series(texts, index=chrom.index, dtype=object))
    start, end = first.astype("int64"), last.astype("int64")
    return pd.DataFrame({"chrom": chrom, "start": start, "end": end})


def _as_float(column: pd.Series) -> pd.Series:
    """Numbers as float64, NaN where there is none; columns may be text, nullable or not."""
    is_number = isinstance(column.dtype, np.dtype) and column.dtype.kind in "iu"
    numbers = column if is_number else pd.to_numeric(column.astype(object), errors="coerce")
    return numbers.astype(float)


def _text(value: Any) -> str:
    """Text without blanks around it; bytes, and bytes written as ``b'chr1'``, are decoded."""
    text = value.decode() if isinstance(value, bytes) else str(value)
    return re.sub(r"^b(['\"])(.*?)\1", r"\2", text).strip()


def with_prefix(chrom: pd.Series) -> pd.Series:
    """1, X, MT -> chr1, chrX, chrM; other names are unchanged."""
    codes, names = pd.factorize(chrom)  # -1 if missing
    bare = re.compile(r"\d{1,2}|[XYM]|MT")
    full = ["chr" + name.replace("MT", "M") if bare.fullmatch(name) else name for name in names]
    values = np.array([*full, None], dtype=object)[codes]
    return pd.Series(values, index=chrom.index, dtype=object)
