"""Coverage of groups of cells, block by block: sparse sums, sorted in files of a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from ..genome import Axis, detect_build
from ._fragment_counter import Counting
from ._read_fragments import Fragments
from ._read_groups import CellGroups

RUN = 1 << 22  # events that are sorted at once, in memory
MERGED = 1 << 22  # entries of several runs that are merged at once


class CoverageCounter:
    """Coverage of groups of cells in bins, summed over blocks of fragments.

    A bin of a group has a key, an integer in the order of groups, contigs and bins. A cut is an
    event at the key of its bin. An interval of bins is two events, its begin and, with the lowest
    bit set, its end. Events are sorted and counted in runs, each of which is written to files that
    :meth:`intervals` merges. So memory depends neither on the number of fragments nor on their
    order, and that of a sorted file is read from one or two runs for each contig.

    Attributes
    ----------
    n_counted, n_binned
        Fragments or cuts of each group, and the sum over its bins, without smoothing.
    n_lines, n_unknown
        Fragments in the files: all, and those on contigs without a length.
    is_found
        Whether a cell has a fragment.
    first, contigs
        First barcode of each sample; names of unknown contigs.
    """

    def __init__(
        self,
        groups: CellGroups,
        sizes: dict[str, int],
        folder: Path,
        *,
        bin_size: int,
        counting: Counting,
        smooth: int | None,
        blacklist: Axis | None,
    ) -> None:
        self.groups, self.folder, self.blacklist = groups, folder, blacklist
        self.bin_size, self.counting = bin_size, counting
        self.n_beside = 0 if smooth is None else smooth // (2 * bin_size)
        # Cuts of one bin are counted; all else are intervals
        self.has_ends = counting == "fragment" or self.n_beside > 0
        self.chroms, self.lengths = pd.Index(list(sizes)), np.array(list(sizes.values()))
        self.n_bins = -(-self.lengths // bin_size)
        room = self.n_bins + 1  # one more for the ends of intervals
        self.offset, self.n_keys = np.cumsum(room) - room, int(room.sum())
        self.n_counted, self.n_binned = np.zeros((2, len(groups.names)), np.int64)
        self.is_found = np.zeros(len(groups.cells), bool)
        self.first: dict[str, str] = {}
        self.contigs: dict[str, None] = {}
        self.n_lines = self.n_unknown = self._n_pending = 0
        self._pending: list[np.ndarray] = []
        self._runs: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, block: Fragments, prefix: str) -> None:
        """Count the fragments of a block."""
        if not len(block.start):
            return
        self.first.setdefault(prefix, block.barcodes[0])
        cell = self.groups.cells.get_indexer(prefix + block.barcodes)
        self.is_found[cell[cell >= 0]] = True
        group = np.where(cell >= 0, self.groups.codes[cell], -1)[block.barcode]
        known = self.chroms.get_indexer(block.chroms)
        contig = known[block.chrom]
        self._check_ends(block, known)
        self.n_lines += len(contig)
        self.n_unknown += int((contig < 0).sum())
        self.contigs |= dict.fromkeys(block.chroms[known < 0])
        here = np.flatnonzero((group >= 0) & (contig >= 0))
        group, contig, start, end = group[here], contig[here], block.start[here], block.end[here]
        if self.counting == "insertion":
            start = np.concatenate([start, end - 1])
            end, group, contig = start + 1, np.tile(group, 2), np.tile(contig, 2)
        if self.blacklist is not None:
            kept = self._outside(self.blacklist, contig, start, end)
            group, contig, start, end = group[kept], contig[kept], start[kept], end[kept]
        # The last fragment of a contig may reach past its end
        last = np.minimum(end, self.lengths[contig]) - 1
        first = np.minimum(start, last) // self.bin_size
        stop = last // self.bin_size + 1
        self.n_counted += np.bincount(group, minlength=len(self.n_counted))
        n_binned = np.bincount(group, stop - first, minlength=len(self.n_counted))
        self.n_binned += n_binned.astype(np.int64)
        self._add_events(group * self.n_keys + self.offset[contig], first, stop, contig)

    def _add_events(
        self, key: np.ndarray, first: np.ndarray, stop: np.ndarray, contig: np.ndarray
    ) -> None:
        """Add intervals of bins; `key` is that of the first bin of the contig."""
        if not self.has_ends:
            self._push(key + first)
            return
        beside, top = self.n_beside, self.n_bins[contig]
        if self.counting == "insertion":
            starts, stops = [first - beside], [first + beside + 1]
        else:
            shifts = range(-beside, beside + 1)
            starts, stops = [first + i for i in shifts], [stop + i for i in shifts]
        for bins, is_end in [*((each, 0) for each in starts), *((each, 1) for each in stops)]:
            self._push((key + np.clip(bins, 0, top)) * 2 + is_end)

    def _push(self, keys: np.ndarray) -> None:
        self._pending.append(keys)
        self._n_pending += len(keys)
        if self._n_pending >= RUN:
            self.finish()

    def finish(self) -> None:
        """Write the events so far as a run; once after the last block."""
        if not self._n_pending:
            return
        keys = np.concatenate(self._pending)
        self._pending, self._n_pending = [], 0
        keys.sort()
        first = _first_of_each(keys)
        counts = np.diff(first, append=len(keys)).astype(np.int32)
        path = self.folder / f"{len(self._runs)}"
        np.save(f"{path}.keys.npy", keys[first])
        np.save(f"{path}.counts.npy", counts)
        files = (f"{path}.keys.npy", f"{path}.counts.npy")
        self._runs.append(tuple(np.load(file, mmap_mode="r") for file in files))

    def intervals(
        self, group: int, contig: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Starts, ends and coverage of a contig, in order: intervals in bases with a coverage."""
        low = group * self.n_keys + int(self.offset[contig])
        high, length = low + int(self.n_bins[contig]) + 1, int(self.lengths[contig])
        begun, level = low, 0  # of the interval that has not ended
        for keys, sums in self._merged(low, high):
            if self.has_ends:
                levels = level + np.cumsum(sums)
                start, end = np.append(begun, keys[:-1]), keys
                coverage = np.append(level, levels[:-1])
                begun, level = int(keys[-1]), int(levels[-1])
                is_covered = (coverage > 0) & (end > start)
                start, end, coverage = start[is_covered], end[is_covered], coverage[is_covered]
            else:
                start, end, coverage = keys, keys + 1, sums
            is_next = (start[1:] == end[:-1]) & (coverage[1:] == coverage[:-1])
            start = start[np.append(True, ~is_next)[: len(start)]]
            keep = np.append(~is_next, True)[: len(end)]
            end, coverage = end[keep], coverage[keep]
            if len(start):
                end = np.minimum((end - low) * self.bin_size, length)
                yield (start - low) * self.bin_size, end, coverage

    def _merged(self, low: int, high: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Keys from `low` to `high` and their sums, over all runs; a part at a time."""
        unit = 2 if self.has_ends else 1
        slices = [
            (keys[i:j], counts[i:j])
            for keys, counts in self._runs
            for i, j in [np.searchsorted(keys, [low * unit, high * unit])]
            if j > i
        ]
        n = sum(len(keys) for keys, _ in slices)
        if not n:
            return
        if n > MERGED and high - low > 1:
            middle = (low + high) // 2
            yield from self._merged(low, middle)
            yield from self._merged(middle, high)
            return
        keys = np.concatenate([keys for keys, _ in slices])
        sums = np.concatenate([counts for _, counts in slices])
        if self.has_ends:
            sums = np.where(keys & 1, -sums, sums)
            keys >>= 1
        if len(slices) > 1:
            order = np.argsort(keys, kind="stable")
            keys, sums = keys[order], sums[order]
        first = _first_of_each(keys)
        yield keys[first], np.add.reduceat(sums, first, dtype=np.int64)

    def _outside(
        self, blacklist: Axis, contig: np.ndarray, start: np.ndarray, end: np.ndarray
    ) -> np.ndarray:
        """Which intervals overlap none of the blacklist."""
        code = blacklist.contigs.get_indexer(self.chroms)[contig]
        is_outside = code < 0
        listed = np.flatnonzero(~is_outside)
        hit, _ = blacklist.overlaps(code[listed], start[listed], end[listed])
        is_outside[listed] = True
        is_outside[listed[hit]] = False
        return is_outside

    def _check_ends(self, block: Fragments, known: np.ndarray) -> None:
        """Raise ValueError if a fragment starts past the end of its chromosome."""
        size = np.where(known >= 0, self.lengths[known], np.iinfo(np.int64).max)[block.chrom]
        past = np.flatnonzero(block.start >= size)
        if not len(past):
            return
        reach = pd.Series(block.end).groupby(block.chrom).max()
        ends = pd.DataFrame({"chrom": block.chroms[reach.index], "end": reach.to_numpy()})
        fit = " or ".join(detect_build(ends))
        chrom, i = block.chroms[block.chrom[past[0]]], past[0]
        msg = (
            f"A fragment on {chrom} starts at {block.start[i]:,}, past its end at {size[i]:,} in "
            f"`genome`. Pass the build that the fragments were aligned to"
            f"{f'; the lengths of {fit} fit' if fit else ''}."
        )
        raise ValueError(msg)


def _first_of_each(keys: np.ndarray) -> np.ndarray:
    """Where each of the sorted keys occurs first."""
    return np.append(0, np.flatnonzero(keys[1:] != keys[:-1]) + 1)
