"""Select peaks of data by name or by region."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from .._validate import names_of
from ..genome import overlaps, parse_intervals, read_intervals


def select_peaks(var: pd.DataFrame, peaks: str | Sequence[str]) -> np.ndarray:
    """Which peaks are named or overlap a region such as ``"chr1:1000-50000"``, boolean (n_peaks,).

    Raises
    ------
    ValueError
        `peaks` is empty, or has a name that is neither a peak nor a region with peaks.
    """
    names = names_of(peaks, "peaks")
    if not names:
        msg = "`peaks` is empty: name at least one peak or region."
        raise ValueError(msg)
    mask = np.zeros(len(var), dtype=bool)
    position = var.index.get_indexer(pd.Index(names, dtype=object))
    mask[position[position >= 0]] = True
    others = [name for name, found in zip(names, position, strict=True) if found < 0]
    if not others:
        return mask
    try:
        regions = parse_intervals(others)
    except ValueError as error:
        msg = (
            f"`peaks` has names that are neither a peak of the data nor a region: {others[:3]}. "
            f"Peaks are named like {var.index[0]!r}; write a region as chr1:1000-50000."
        )
        raise ValueError(msg) from error
    intervals = read_intervals(var)
    pairs = overlaps(regions, intervals)
    empty = np.setdiff1d(np.arange(len(regions)), pairs[:, 0])
    if len(empty):
        msg = (
            f"No peak of the data overlaps {others[empty[0]]!r} ({len(empty):,} such regions); "
            f"{_nearest(regions.iloc[empty[0]], intervals)}."
        )
        raise ValueError(msg)
    mask[pairs[:, 1]] = True
    return mask


def _nearest(region: pd.Series, intervals: pd.DataFrame) -> str:
    same = intervals[intervals["chrom"] == region["chrom"]]
    if not len(same):
        available = sorted(intervals["chrom"].unique())[:5]
        return f"the data have no peak on {region['chrom']}; available: {available}"
    gap = np.maximum(same["start"] - region["end"], region["start"] - same["end"]).clip(lower=0)
    nearest = same.loc[gap.idxmin()]
    place = f"{nearest['chrom']}:{nearest['start']}-{nearest['end']}"
    return f"the nearest, {place}, is {int(gap.min()):,} bases away"
