"""Merge the peaks of several sources: their unions, or the best peaks of fixed width."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from ..genome import COLUMNS

UNKNOWN_LENGTH = np.iinfo(np.int64).max


def merge_peaks(
    tables: list[pd.DataFrame], width: int | None, min_sources: int, lengths: dict[str, int]
) -> pd.DataFrame:
    """The consensus peaks; see :func:`epifoundation.pp.consensus_peaks`.

    Parameters
    ----------
    tables
        One per source: ``chrom``, ``start``, ``end``; with `width` also ``centre`` and ``score``.
    lengths
        Lengths of contigs, as far as known.

    Returns
    -------
    Columns ``chrom``, ``start``, ``end``; disjoint, sorted.
    """
    peaks = pd.concat(tables, ignore_index=True)
    contigs = sorted(peaks["chrom"].unique(), key=_natural)
    code = pd.Categorical(peaks["chrom"], contigs).codes
    # Contigs are concatenated, so that one sort covers all, with gaps that no window can bridge
    room = peaks["end"].groupby(code).max().to_numpy() + 2 * (width or 0)
    offset = np.cumsum(room) - room
    start, end = (peaks[side].to_numpy() + offset[code] for side in ("start", "end"))
    parts = np.cumsum([len(table) for table in tables])[:-1]
    spans = list(zip(np.split(start, parts), np.split(end, parts), strict=True))
    if width is None:
        first, last = _union(spans, min_sources)
    else:
        length = np.array([lengths.get(name, UNKNOWN_LENGTH) for name in contigs])
        last_start = np.maximum(length - width, 0)[code]
        inside = np.clip(peaks["centre"].to_numpy() - width // 2, 0, last_start)
        first = _best(inside + offset[code], peaks["score"].to_numpy(), width, spans, min_sources)
        last = first + width
    contig = np.searchsorted(offset, first, side="right") - 1
    chrom = np.array(contigs, dtype=object)[contig]
    columns = (chrom, first - offset[contig], last - offset[contig])
    return pd.DataFrame(dict(zip(COLUMNS, columns, strict=True)))


def _natural(name: str) -> tuple[list[str | int], str]:
    """Sort key: chr2 before chr10; the name itself resolves ties such as chr1 and chr01."""
    parts = re.split(r"(\d+)", name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


def _union(
    spans: list[tuple[np.ndarray, np.ndarray]], min_sources: int
) -> tuple[np.ndarray, np.ndarray]:
    """Starts and ends of the unions of overlapping peaks of at least `min_sources` sources."""
    from bioframe.core.arrops import merge_intervals

    start, end = (np.concatenate(side) for side in zip(*spans, strict=True))
    cluster, first, last = merge_intervals(start, end, min_dist=None)
    source = np.repeat(np.arange(len(spans)), [len(side) for side, _ in spans])
    n_sources = np.bincount(np.unique(cluster * len(spans) + source) // len(spans))
    return first[n_sources >= min_sources], last[n_sources >= min_sources]


def _best(
    first: np.ndarray,
    score: np.ndarray,
    width: int,
    spans: list[tuple[np.ndarray, np.ndarray]],
    min_sources: int,
) -> np.ndarray:
    """Sorted starts of the windows that remain when each, best first, removes its overlaps."""
    highest = pd.Series(score).groupby(first).max()  # unique windows, sorted
    first, score = highest.index.to_numpy(), highest.to_numpy()
    n_sources, n_bases = _support(first, width, spans)
    order = np.lexsort((first, -n_bases, -n_sources, -score))
    begin = np.searchsorted(first, first - width, side="right")
    stop = np.searchsorted(first, first + width)
    # A loop over windows is linear; rounds of array operations would need as many rounds as the
    # longest chain of overlapping windows, such as tiles, has members
    free, kept = n_sources >= min_sources, []
    for i in order.tolist():
        if free[i]:
            kept.append(i)
            free[begin[i] : stop[i]] = False
    return first[np.sort(np.array(kept, dtype=np.int64))]


def _support(
    first: np.ndarray, width: int, spans: list[tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """Number of sources with a peak that overlaps a window, and of overlapping bases in total."""
    from bioframe.core.arrops import merge_intervals

    # A window overlaps a peak if it starts inside it or up to `width - 1` bases before it; these
    # ranges are merged within a source, so that each source counts once
    merged = [merge_intervals(*span, min_dist=None)[1:] for span in spans]
    within = [merge_intervals(start - width + 1, end, min_dist=None)[1:] for start, end in merged]
    starts, ends = (np.sort(np.concatenate(side)) for side in zip(*within, strict=True))
    n_begun = np.searchsorted(starts, first, side="right")
    n_sources = n_begun - np.searchsorted(ends, first, side="right")
    starts, ends = (np.sort(np.concatenate(side)) for side in zip(*merged, strict=True))
    n_bases = _bases_before(starts, first + width) - _bases_before(ends, first + width)
    n_bases -= _bases_before(starts, first) - _bases_before(ends, first)
    return n_sources, n_bases


def _bases_before(sides: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Sum of ``at - side`` over the sorted `sides` below `at`."""
    before = np.searchsorted(sides, at)
    return before * at - np.append(0, np.cumsum(sides))[before]
