"""Peaks of several sources made one set: their unions, or the best of fixed width."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from ..genome import COLUMNS

NO_END = np.iinfo(np.int64).max  # of a contig of which the length is not known


def merge_peaks(
    tables: list[pd.DataFrame], width: int | None, min_sources: int, lengths: dict[str, int]
) -> pd.DataFrame:
    """The consensus of peaks; arguments as in :func:`epifoundation.pp.consensus_peaks`.

    Parameters
    ----------
    tables
        One a source: ``chrom``, ``start``, ``end`` and, for a fixed width, ``centre`` and ``score``.
    lengths
        Of those contigs of which they are known.

    Returns
    -------
    Columns ``chrom``, ``start``, ``end``; disjoint, sorted.
    """
    peaks = pd.concat(tables, ignore_index=True)
    contigs = sorted(peaks["chrom"].unique(), key=_natural)
    code = pd.Categorical(peaks["chrom"], contigs).codes
    # Contigs end to end, so that one sort serves them all, and so far apart that no window reaches from one to the next
    room = peaks["end"].groupby(code).max().to_numpy() + 2 * (width or 0)
    offset = np.cumsum(room) - room
    start, end = (peaks[side].to_numpy() + offset[code] for side in ("start", "end"))
    parts = np.cumsum([len(table) for table in tables])[:-1]
    spans = list(zip(np.split(start, parts), np.split(end, parts), strict=True))
    if width is None:
        first, last = _union(spans, min_sources)
    else:
        length = np.array([lengths.get(name, NO_END) for name in contigs])
        inside = np.clip(peaks["centre"].to_numpy() - width // 2, 0, np.maximum(length - width, 0)[code])
        first = _best(inside + offset[code], peaks["score"].to_numpy(), width, spans, min_sources)
        last = first + width
    contig = np.searchsorted(offset, first, side="right") - 1
    columns = (np.array(contigs, dtype=object)[contig], first - offset[contig], last - offset[contig])
    return pd.DataFrame(dict(zip(COLUMNS, columns, strict=True)))


def _natural(name: str) -> tuple[list[str | int], str]:
    """chr2 before chr10; by the name itself where only zeros differ."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", name))], name


def _union(spans: list[tuple[np.ndarray, np.ndarray]], min_sources: int) -> tuple[np.ndarray, np.ndarray]:
    """Starts and ends of what overlapping peaks, of at least so many sources, make up."""
    from bioframe.core.arrops import merge_intervals

    start, end = (np.concatenate(side) for side in zip(*spans, strict=True))
    cluster, first, last = merge_intervals(start, end, min_dist=None)
    source = np.repeat(np.arange(len(spans)), [len(side) for side, _ in spans])
    n_sources = np.bincount(np.unique(cluster * len(spans) + source) // len(spans))
    return first[n_sources >= min_sources], last[n_sources >= min_sources]


def _best(
    first: np.ndarray, score: np.ndarray, width: int, spans: list[tuple[np.ndarray, np.ndarray]], min_sources: int
) -> np.ndarray:
    """Starts of the windows that are kept when, best first, each one drops those that it overlaps; in order."""
    highest = pd.Series(score).groupby(first).max()  # one of each window, sorted
    first, score = highest.index.to_numpy(), highest.to_numpy()
    n_sources, n_bases = _support(first, width, spans)
    order = np.lexsort((first, -n_bases, -n_sources, -score))
    begin, stop = np.searchsorted(first, first - width, side="right"), np.searchsorted(first, first + width)
    # A plain loop takes the time of its windows; rounds of whole arrays need as many rounds as there are windows in a chain, as of tiles.
    free, kept = n_sources >= min_sources, []
    for i in order.tolist():
        if free[i]:
            kept.append(i)
            free[begin[i] : stop[i]] = False
    return first[np.sort(np.array(kept, dtype=np.int64))]


def _support(
    first: np.ndarray, width: int, spans: list[tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """Of each window, how many sources have a peak that overlaps it, and by how many bases all of them together do."""
    from bioframe.core.arrops import merge_intervals

    # A window overlaps a peak when it starts in the `width - 1` bases before it, or in it; where it may for a source, it counts once.
    merged = [merge_intervals(*span, min_dist=None)[1:] for span in spans]
    within = [merge_intervals(start - width + 1, end, min_dist=None)[1:] for start, end in merged]
    starts, ends = (np.sort(np.concatenate(side)) for side in zip(*within, strict=True))
    n_sources = np.searchsorted(starts, first, side="right") - np.searchsorted(ends, first, side="right")
    starts, ends = (np.sort(np.concatenate(side)) for side in zip(*merged, strict=True))
    n_bases = sum(sign * (_passed(starts, at) - _passed(ends, at)) for sign, at in ((1, first + width), (-1, first)))
    return n_sources, n_bases


def _passed(sides: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Sum of the bases from each of the sorted `sides` to `at`, of those that lie before it."""
    before = np.searchsorted(sides, at)
    return before * at - np.append(0, np.cumsum(sides))[before]
