"""Recognize files of other kinds by their content, to say in an error what they are."""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import NamedTuple

HEAD_BYTES = 1 << 14  # more than the comments at the start of a 10x file
AGAIN = "Copy or download the file again."
EXPORT = "Export the counts as .h5ad, or count the fragments file: `ep.pp.count_fragments`."
COUNT = "Count it on the peaks of a model: `ep.pp.count_fragments(path, model)`, or in a shell "
COUNT += "`epifoundation count`."


class FileKind(NamedTuple):
    """What a file is, and what to do with it."""

    what: str
    cure: str


R_OBJECT = FileKind("a file of R (.rds or .RData)", EXPORT)
HDF5 = FileKind(
    "an HDF5 file",
    "If it contains cells, pass it to a tool such as `ep.tl.embed`; "
    "`ep.pp.consensus_peaks(path)` reads its peaks.",
)
READS = FileKind(
    "a file of sequencing reads (BAM or CRAM)",
    "Make a fragments file of it, with `snapatac2.pp.make_fragment_file` or sinto.",
)
HTML = FileKind("a web page (HTML), which a server sent in place of the file", AGAIN)
UNPACK = "Unpack it, and pass what is inside."
# First bytes, at an offset
SIGNATURES = [
    (0, b"\x89HDF\r\n\x1a\n", HDF5),
    (0, b"PK\x03\x04", FileKind("a zip archive", UNPACK)),
    (257, b"ustar", FileKind("a tar archive", UNPACK)),
    (0, b"BZh", FileKind("compressed with bzip2", "Uncompress it, or compress it with gzip.")),
    (0, b"\xfd7zXZ", FileKind("compressed with xz", "Uncompress it, or compress it with gzip.")),
    (0, b"(\xb5/\xfd", FileKind("compressed with zstd", "Uncompress it, or use gzip.")),
    (0, b"BAM\x01", READS),
    (0, b"CRAM", READS),
    (0, b"BCF\x02", FileKind("a BCF file", "Convert it: `bcftools view -Oz -o FILE.vcf.gz`.")),
    (0, b"PAR1", FileKind("a Parquet table", EXPORT)),
    (0, b"ARROW1", FileKind("an Arrow table (Feather)", EXPORT)),
    (0, b"\x93NUMPY", FileKind("a NumPy array", EXPORT)),
    (0, b"RDX", R_OBJECT),
    (0, b"RDA", R_OBJECT),
    (0, b"X\n\x00\x00\x00", R_OBJECT),
    (0, b"\x80\x04", FileKind("a Python pickle, which is not read: it can run code", EXPORT)),
    (0, b"\x80\x05", FileKind("a Python pickle, which is not read: it can run code", EXPORT)),
    (0, b"\xeb\xf2\x89\x87", FileKind("a bigBed file", "Convert it with `bigBedToBed`.")),
    (0, b"&\xfc\x8f\x88", FileKind("a bigWig file", EXPORT)),
    (0, b"version https://git-lfs", FileKind("a pointer of Git LFS", "Run `git lfs pull`.")),
    (
        0,
        b"%%MatrixMarket",
        FileKind(
            "a MatrixMarket file, which has no names of peaks and cells",
            "Read its folder with `scanpy.read_10x_mtx(folder, gex_only=False)`, or pass the .h5 "
            "file of the same output.",
        ),
    ),
]
_HTML = re.compile(rb"\s*<(!doctype html|html|\?xml|head)", re.IGNORECASE)
_INTERVAL = re.compile(rb"^[^\t\n#]+\t\d+\t\d+(?:\t[^\n]*|\r)?$", re.MULTILINE)
BED = FileKind("a BED file of peaks", "Pass it where peaks are expected.")
N_NARROW_PEAK = 10  # columns


def kind_of(path: Path) -> FileKind | None:
    """The kind of a file that this package does not read as text; None if it may be text."""
    head = _head(path)
    for offset, signature, kind in SIGNATURES:
        if head[offset : offset + len(signature)] == signature:
            return kind
    if head[512:520] == SIGNATURES[0][1]:  # MuData writes its name before
        return HDF5
    return HTML if _HTML.match(head) else None


def is_peaks(path: Path) -> bool:
    """Whether a file of text is a narrowPeak, or a BED file without names."""
    found = _INTERVAL.search(_head(path))
    return found is not None and found[0].count(b"\t") + 1 in (3, N_NARROW_PEAK)


def check_text(path: Path, expected: str) -> None:
    """Raise ValueError if a file is of a known kind that is not text."""
    if kind := kind_of(path):
        msg = f"{str(path)!r} is {kind.what}, not {expected}. {kind.cure}"
        raise ValueError(msg)


def text_kind(path: Path) -> FileKind:
    """What a file is that may be text."""
    if not path.stat().st_size:
        return FileKind("an empty file", AGAIN)
    if is_peaks(path):
        return BED
    head = _head(path)
    if _INTERVAL.search(head):
        return FileKind("a fragments file", COUNT)
    try:
        start = head.decode(errors="ignore" if len(head) == HEAD_BYTES else "strict")
    except UnicodeDecodeError:
        return FileKind("of an unknown kind", EXPORT)
    if "\x00" in start:
        return FileKind("of an unknown kind", EXPORT)
    shown = next((line for line in start.splitlines() if line.strip()), "")[:60]
    cure = "Read it with pandas, and make an AnnData of cells x peaks."
    return FileKind(f"a text file, which begins with {shown!r}", cure)


def folder_kind(path: Path) -> FileKind:
    """What a folder is that is no zarr store."""
    names = sorted(each.name for each in path.iterdir())
    if not names:
        return FileKind("an empty folder", AGAIN)
    if any(name.startswith("matrix.mtx") for name in names):
        return FileKind(
            "a folder of MatrixMarket files",
            "Pass the .h5 file of the same 10x output (such as filtered_peak_bc_matrix.h5), or "
            "read the folder with `scanpy.read_10x_mtx(folder, gex_only=False)`.",
        )
    cells = [name for name in names if name.endswith((".h5ad", ".h5mu", ".zarr"))]
    if cells:
        pattern = f"*{Path(cells[0]).suffix}"
        cure = f"Pass a list of them, such as `sorted(Path(folder).glob({pattern!r}))`."
        return FileKind(f"a folder of files of cells ({len(cells):,})", cure)
    return FileKind(f"a folder with {names[:5]}, not a zarr store", EXPORT)


def _head(path: Path) -> bytes:
    """The first bytes of a file, uncompressed if it is gzip."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if head[:2] != b"\x1f\x8b":
        return head
    try:
        return zlib.decompressobj(wbits=31).decompress(head, HEAD_BYTES)
    except zlib.error:
        return b""
