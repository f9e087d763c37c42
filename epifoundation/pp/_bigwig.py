"""Write bigWig files from arrays: Python code per interval would take longer than all else.

Kent et al. 2010, Bioinformatics 26:2204, supplement. Little-endian; each part is compressed.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

COMPRESSOR: Any = zlib
try:
    from isal import isal_zlib  # the extra [fragments]: several times as fast
except ImportError:
    pass
else:
    COMPRESSOR = isal_zlib

MAGIC, TREE_MAGIC, INDEX_MAGIC = 0x888FFC26, 0x78CA8C91, 0x2468ACE0
ITEMS_PER_SLOT, NODE_SIZE = 1024, 256
MAX_ZOOM = 2**32 - 1
MAX_CONTIGS = 2**16 - 1  # of one node of the tree of names
# Summaries of this many bins, then of four times as many each
FIRST_ZOOM, ZOOM_STEP, N_ZOOMS = 256, 4, 8
ITEM = np.dtype([("start", "<u4"), ("end", "<u4"), ("value", "<f4")])
SUMMARY = np.dtype(
    [("contig", "<u4"), ("start", "<u4"), ("end", "<u4"), ("n", "<u4")]
    + [(name, "<f4") for name in ("low", "high", "sum", "squares")]
)
BOUNDS = [("contig", "<u4"), ("start", "<u4"), ("last", "<u4"), ("end", "<u4")]
LEAF = np.dtype([*BOUNDS, ("offset", "<u8"), ("size", "<u8")])
NODE = np.dtype([*BOUNDS, ("offset", "<u8")])
HEADER_BYTES = 64 + 24 * N_ZOOMS + 40  # header, headers of zooms, summary of the file


class BigWigWriter:
    """A bigWig file; intervals are added contig by contig in the order of names, sorted.

    Parameters
    ----------
    path
        File to write.
    lengths
        Length of each contig, sorted by name.
    bin_size
        Usual length of an interval: the first zoom has summaries of 256 of them.
    """

    def __init__(self, path: Path, lengths: dict[str, int], bin_size: int) -> None:
        self.lengths = np.array(list(lengths.values()), dtype=np.int64)
        self.zoom = FIRST_ZOOM * bin_size
        self._leaves: list[tuple[int, ...]] = []
        self._summaries: list[np.ndarray] = []
        self._file = path.open("wb")
        self._file.write(bytes(HEADER_BYTES) + _tree(lengths))
        self._data_offset = self._file.tell()
        self._file.write(bytes(8))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: object, trace: TracebackType | None
    ) -> None:
        with self._file:
            if kind is None:
                self._finish()

    def add(self, contig: int, start: np.ndarray, end: np.ndarray, values: np.ndarray) -> None:
        """Add intervals of the contig with this number, after all earlier ones."""
        items = np.empty(len(start), ITEM)
        items["start"], items["end"], items["value"] = start, end, values
        for i in range(0, len(items), ITEMS_PER_SLOT):
            part = items[i : i + ITEMS_PER_SLOT]
            first, last = int(part["start"][0]), int(part["end"][-1])
            head = struct.pack("<5I2BH", contig, first, last, 0, 0, 1, 0, len(part))
            self._leaves.append((contig, first, contig, last, *self._write(head + part.tobytes())))
        self._summaries.append(_summarize(contig, start, end, values, self.zoom))

    def _write(self, content: bytes) -> tuple[int, int]:
        """Write a compressed part; returns its offset and size."""
        offset, packed = self._file.tell(), COMPRESSOR.compress(content, 1)
        self._file.write(packed)
        return offset, len(packed)

    def _finish(self) -> None:
        """Write the indices, the zooms and the header."""
        index = self._write_index(np.array(self._leaves, LEAF))
        # Parts of a contig that were added separately may share a bin
        bins = _reduced(np.concatenate(self._summaries))
        ends = (bins["low"].min(), bins["high"].max())
        total = (bins["n"].sum(), *ends, bins["sum"].sum(), bins["squares"].sum())
        zooms = []
        sizes = [self.zoom * ZOOM_STEP**i for i in range(N_ZOOMS)]
        for size in (each for each in sizes if each <= MAX_ZOOM):
            zooms.append((size, 0, *self._write_zoom(bins, size)))
            bins["start"] //= ZOOM_STEP
            bins = _reduced(bins)
        self._file.write(struct.pack("<I", MAGIC))
        self._file.seek(0)
        largest = ITEMS_PER_SLOT * SUMMARY.itemsize
        header = (MAGIC, 4, len(zooms), HEADER_BYTES, self._data_offset, index, 0, 0, 0)
        self._file.write(struct.pack("<IHHQQQHHQQIQ", *header, HEADER_BYTES - 40, largest, 0))
        for zoom in zooms:
            self._file.write(struct.pack("<IIQQ", *zoom))
        self._file.seek(HEADER_BYTES - 40)
        self._file.write(struct.pack("<Q4d", *total))
        self._file.seek(self._data_offset)
        self._file.write(struct.pack("<Q", len(self._leaves)))

    def _write_zoom(self, bins: np.ndarray, size: int) -> tuple[int, int]:
        """Write the summaries of one size; returns the offsets of the data and of the index."""
        offset = self._file.tell()
        self._file.write(struct.pack("<I", len(bins)))
        records = bins.astype(SUMMARY)
        end = (bins["start"] + 1) * size
        records["start"] = bins["start"] * size
        records["end"] = np.minimum(end, self.lengths[bins["contig"]])
        leaves = []
        for i in range(0, len(records), ITEMS_PER_SLOT):
            part = records[i : i + ITEMS_PER_SLOT]
            ends = [part[side][j].item() for side, j in (("contig", 0), ("start", 0))]
            ends += [part[side][-1].item() for side in ("contig", "end")]
            leaves.append((*ends, *self._write(part.tobytes())))
        return offset, self._write_index(np.array(leaves, LEAF))

    def _write_index(self, leaves: np.ndarray) -> int:
        """Write an R-tree over parts of the file, from the root; returns its offset."""
        offset = self._file.tell()
        n, first, last = len(leaves), leaves[0], leaves[-1]
        bounds = (first["contig"], first["start"], last["last"], last["end"])
        head = (INDEX_MAGIC, NODE_SIZE, n, *map(int, bounds), offset, ITEMS_PER_SLOT, 0)
        self._file.write(struct.pack("<IIQIIIIQII", *head))
        levels = [leaves]
        while len(levels[0]) > NODE_SIZE:
            below = levels[0]
            starts = np.arange(0, len(below), NODE_SIZE)
            ends = np.minimum(starts + NODE_SIZE, len(below)) - 1
            level = np.empty(len(starts), NODE)
            for name, at in (("contig", starts), ("start", starts), ("last", ends), ("end", ends)):
                level[name] = below[name][at]
            levels.insert(0, level)
        place = self._file.tell()
        for i, level in enumerate(levels):
            n_nodes = -(-len(level) // NODE_SIZE)
            place += 4 * n_nodes + level.nbytes
            if i + 1 < len(levels):  # where the nodes of the next level begin
                width = levels[i + 1].dtype.itemsize
                level["offset"] = place + np.arange(len(level)) * (4 + NODE_SIZE * width)
            for j in range(0, len(level), NODE_SIZE):
                node = level[j : j + NODE_SIZE]
                is_leaf = i + 1 == len(levels)
                self._file.write(struct.pack("<BBH", is_leaf, 0, len(node)) + node.tobytes())
        return offset


def _tree(lengths: dict[str, int]) -> bytes:
    """The B+ tree of names of contigs, as one node."""
    names = [name.encode() for name in lengths]
    width = max(map(len, names))
    head = struct.pack("<IIIIQQ", TREE_MAGIC, len(names), width, 8, len(names), 0)
    items = [
        name.ljust(width, b"\0") + struct.pack("<II", i, length)
        for i, (name, length) in enumerate(zip(names, lengths.values(), strict=True))
    ]
    return head + struct.pack("<BBH", 1, 0, len(names)) + b"".join(items)


# Summaries of bins, with the number of the bin as the start
BIN = np.dtype(
    [("contig", "i8"), ("start", "i8"), ("end", "i8"), ("n", "i8")]
    + [(name, "f8") for name in ("low", "high", "sum", "squares")]
)


def _summarize(
    contig: int, start: np.ndarray, end: np.ndarray, values: np.ndarray, size: int
) -> np.ndarray:
    """Summaries of bins of `size` bases; intervals are cut at the edges of bins."""
    first, last = start // size, (end - 1) // size
    if (last > first).any():
        n = last - first + 1
        interval = np.repeat(np.arange(len(start)), n)
        first = first[interval] + np.arange(len(interval)) - np.repeat(np.cumsum(n) - n, n)
        start = np.maximum(start[interval], first * size)
        end = np.minimum(end[interval], (first + 1) * size)
        values = values[interval]
    width, values = end - start, values.astype(float)
    sums = values * width
    edges = np.append(0, np.flatnonzero(first[1:] != first[:-1]) + 1)
    bins = np.zeros(len(edges), BIN)
    bins["contig"], bins["start"] = contig, first[edges]
    for name, column in (("n", width), ("sum", sums), ("squares", values * sums)):
        bins[name] = np.add.reduceat(column, edges)
    bins["low"] = np.minimum.reduceat(values, edges)
    bins["high"] = np.maximum.reduceat(values, edges)
    return bins


def _reduced(bins: np.ndarray) -> np.ndarray:
    """One summary for each bin, of consecutive summaries of it."""
    is_next = (np.diff(bins["start"]) != 0) | (np.diff(bins["contig"]) != 0)
    first = np.append(0, np.flatnonzero(is_next) + 1)
    reduced = bins[first]
    for name in ("n", "sum", "squares"):
        reduced[name] = np.add.reduceat(bins[name], first)
    reduced["low"] = np.minimum.reduceat(bins["low"], first)
    reduced["high"] = np.maximum.reduceat(bins["high"], first)
    return reduced
