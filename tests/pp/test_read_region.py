"""Fragments of a region, by an index of tabix or in one pass."""

import gzip
import os
import struct

import numpy as np
import pytest
from fragment_files import bgzip
from hypothesis import given
from hypothesis import strategies as st

from epifoundation.pp import _read_region
from epifoundation.pp._read_region import WINDOW, read_region

BLOCK = 40  # bytes of text in a block of bgzip


def tabix(lines):
    """A bgzip file of sorted lines and its index, without bins, which are not read."""
    text, begins = b"", []
    for line in lines:
        begins.append(len(text))
        text += "\t".join(map(str, line)).encode() + b"\n"
    packed, offsets = b"", []
    for i in range(0, len(text) + 1, BLOCK):
        offsets.append(len(packed))
        packed += bgzip(text[i : i + BLOCK], BLOCK)[:-28]
    names = list(dict.fromkeys(line[0] for line in lines))
    joined = "".join(f"{name}\0" for name in names).encode()
    index = struct.pack("<4s8i", b"TBI\1", len(names), 65536, 1, 2, 3, 35, 0, len(joined)) + joined
    for name in names:
        windows = {}
        for (chrom, start, end, *_), begin in zip(lines, begins, strict=True):
            if chrom == name:
                offset = offsets[begin // BLOCK] << 16 | begin % BLOCK
                for window in range(start >> WINDOW, ((end - 1) >> WINDOW) + 1):
                    windows.setdefault(window, offset)
        linear = [windows.get(i, 0) for i in range(max(windows) + 1)]
        for i in range(1, len(linear)):  # as tabix fills windows without lines
            linear[i] = linear[i] or linear[i - 1]
        bins = struct.pack("<IiQQ", 4681, 1, 0, 0)
        index += struct.pack("<i", 1) + bins
        index += struct.pack("<i", len(linear)) + np.array(linear, "<u8").tobytes()
    return bgzip(text, BLOCK), gzip.compress(index)


def read(path, region):
    return [
        (block.chroms[chrom], start, end, block.barcodes[cell])
        for block in read_region(path, *region)
        for chrom, start, end, cell in zip(
            block.chrom, block.start.tolist(), block.end.tolist(), block.barcode, strict=True
        )
    ]


LINES = st.lists(
    st.tuples(
        st.sampled_from(["chr1", "chr2", "chr3"]),
        st.integers(0, 100_000),
        st.integers(1, 40_000),
        st.sampled_from(["A", "B"]),
    ),
    min_size=1,
    max_size=40,
)


@given(
    LINES,
    st.sampled_from(["chr1", "chr2", "chr3", "chr4"]),
    st.integers(0, 150_000),
    st.integers(1, 60_000),
    st.booleans(),
    st.integers(20, 300),
)
def test_fragments_of_a_region(tmp_path_factory, rows, chrom, start, size, has_index, n_bytes):
    lines = sorted((name, first, first + length, cell) for name, first, length, cell in rows)
    region = (chrom, start, start + size)
    expected = [
        line for line in lines if line[0] == chrom and line[1] < start + size and line[2] > start
    ]
    path = tmp_path_factory.mktemp("region") / "f.tsv.gz"
    packed, index = tabix(lines)
    path.write_bytes(packed)
    if has_index:
        path.with_name("f.tsv.gz.tbi").write_bytes(index)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_read_region, "REGION_BYTES", n_bytes)
        if has_index:  # the whole file is not read
            patch.setattr(_read_region, "read_fragments", lambda _: pytest.fail("called"))
        assert read(path, region) == expected


def test_indices_that_are_old_or_damaged(tmp_path):
    lines = [("1", 5, 50, "A"), ("1", 90_000, 90_100, "B")]
    packed, index = tabix(lines)
    path, other = tmp_path / "f.tsv.gz", tmp_path / "f.tsv.gz.tbi"
    path.write_bytes(packed)
    other.write_bytes(index)
    assert read(path, ("chr1", 89_000, 91_000)) == [("chr1", 90_000, 90_100, "B")]
    for damaged in (b"", b"no index", gzip.compress(b"no index"), gzip.compress(b"TBI\1")):
        other.write_bytes(damaged)
        with pytest.raises(ValueError, match="is not an index of tabix: delete it"):
            read(path, ("chr1", 0, 100))
    other.write_bytes(gzip.compress(gzip.decompress(index)[:60]))
    with pytest.raises(ValueError, match="is not an index of tabix"):
        read(path, ("chr1", 0, 100))
    os.utime(other, (1, 1))  # older than the file: one pass
    assert read(path, ("chr1", 0, 100)) == [("chr1", 5, 50, "A")]
