"""Fragments files as bgzip writes them, and their counts by a plain loop."""

import struct
import zlib

import numpy as np

import epifoundation as ep
from epifoundation._files import BGZIP_END


def bgzip(text, block=40):
    """Blocks as bgzip writes them (SAM specification, 4.1)."""
    out = b""
    for i in range(0, len(text), block):
        part = text[i : i + block]
        packer = zlib.compressobj(wbits=-15)
        body = packer.compress(part) + packer.flush()
        head = b"\x1f\x8b\x08\x04" + bytes(6) + struct.pack("<HBBHH", 6, 66, 67, 2, len(body) + 25)
        out += (
            head[:9] + b"\xff" + head[10:] + body + struct.pack("<II", zlib.crc32(part), len(part))
        )
    return out + BGZIP_END


def brute_force(lines, peaks, cells, counting):
    """Counts by one loop over all fragments and peaks."""
    expected = np.zeros((len(cells), len(peaks)))
    intervals = list(ep.genome.parse_intervals(peaks).itertuples(index=False))
    for chrom, start, end, barcode in lines:
        for i, (c, s, e) in enumerate(intervals):
            if c == chrom and barcode in cells:
                cuts = (s <= start < e) + (s <= end - 1 < e)
                expected[cells.index(barcode), i] += (
                    cuts if counting == "insertion" else start < e and end > s
                )
    return expected
