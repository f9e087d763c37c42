"""Read the fragments of a region: by the index of tabix if there is one, else in one pass."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from .._files import DECODE_ERRORS, READER
from ..genome._intervals import with_prefix
from ._read_fragments import Fragments, check_fragments_file, parse_fragments, read_fragments

WINDOW = 14  # log2 of the bases of a window of the linear index
REGION_BYTES = 1 << 22
INDEX_ERRORS: tuple[type[Exception], ...] = (*DECODE_ERRORS, OSError, ValueError, struct.error)


def read_region(path: str | Path, chrom: str, start: int, end: int) -> Iterator[Fragments]:
    """Yield the fragments that overlap a region, in blocks.

    The index ``<path>.tbi`` is not used if it is older than the file. Errors are those of
    :func:`read_fragments`, and ValueError for an index that is damaged.
    """
    path = check_fragments_file(Path(path))
    index = Path(f"{path}.tbi")
    is_current = index.is_file() and index.stat().st_mtime >= path.stat().st_mtime
    blocks = _from(path, _offset(index, chrom, start)) if is_current else read_fragments(path)
    for block in blocks:
        is_chrom = (block.chroms == chrom)[block.chrom]
        kept = is_chrom & (block.start < end) & (block.end > start)
        yield block._replace(
            chrom=block.chrom[kept],
            start=block.start[kept],
            end=block.end[kept],
            barcode=block.barcode[kept],
        )
        if is_current and len(block.start) and not (is_chrom[-1] and block.start[-1] < end):
            break  # the file is sorted


def _from(path: Path, offset: int | None) -> Iterator[Fragments]:
    """Yield the fragments from a virtual offset of a bgzip file on; none if it is None."""
    if offset is None:
        return
    with path.open("rb") as raw:
        raw.seek(offset >> 16)
        try:
            with READER.open(raw) as stream:
                stream.read(offset & 0xFFFF)
                rest = b""
                while text := stream.read(REGION_BYTES):
                    text, _, rest = (rest + text).rpartition(b"\n")
                    yield parse_fragments(text + b"\n", path, 0)
        except DECODE_ERRORS as error:
            msg = f"{str(path)!r} is damaged, or {path.name}.tbi is the index of another file: "
            msg += f"{error}. Make it again with `tabix -p bed`."
            raise ValueError(msg) from error


def _offset(index: Path, chrom: str, start: int) -> int | None:
    """The virtual offset of the first fragment that may overlap; None if there is none."""
    try:
        content = gzip.decompress(index.read_bytes())
        magic, n_contigs, *_, length = struct.unpack_from("<4s8i", content)
        names = content[36 : 36 + length].decode().split("\0")[:n_contigs]
        if magic != b"TBI\1" or len(names) < n_contigs:
            raise ValueError(magic)
        place = 36 + length
        for i, name in enumerate(with_prefix(pd.Series(names, dtype=object))):
            (n_bins,) = struct.unpack_from("<i", content, place)
            place += 4
            for _ in range(n_bins):
                place += 8 + 16 * struct.unpack_from("<i", content, place + 4)[0]
            (n_windows,) = struct.unpack_from("<i", content, place)
            offsets = np.frombuffer(content, "<u8", n_windows, place + 4)
            place += 4 + 8 * n_windows
            if name == chrom:
                here = offsets[start >> WINDOW :]
                if i:  # windows before the first fragment have none
                    here = here[here > 0]
                return int(here[0]) if len(here) else None
    except INDEX_ERRORS as error:
        msg = f"{str(index)!r} is not an index of tabix: delete it, or make it again with "
        msg += "`tabix -p bed`."
        raise ValueError(msg) from error
    return None
