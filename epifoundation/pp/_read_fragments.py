"""Read fragment files in blocks: bgzip, gzip or plain text."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
import pandas as pd
from tqdm import tqdm

from .._file_kinds import check_text, is_peaks
from .._files import DECODE_ERRORS, MAX_LINE, line_too_long, open_text
from .._settings import settings
from ..genome._intervals import with_prefix

BLOCK_BYTES = 1 << 25  # about 700,000 lines
FORMAT = "chromosome, start, end and barcode, separated by tabs"
NUMBER = re.compile(rb"\s*[-+]?\d+(\.\d*)?(e[-+]?\d+)?\s*", re.IGNORECASE)  # R writes 1e+05
COMMENT = re.compile(rb"(?m)^#[^\n]*")


class Fragments(NamedTuple):
    """Fragments of a block of lines; 0-based, half-open.

    `chrom` and `barcode` are codes, `chroms` and `barcodes` their names.
    """

    chrom: np.ndarray
    chroms: pd.Index
    start: np.ndarray
    end: np.ndarray
    barcode: np.ndarray
    barcodes: pd.Index


def read_fragments(path: str | Path) -> Iterator[Fragments]:
    """Yield the fragments of a file, in blocks of lines, in its order.

    Errors name the file and the line. The file needs no index and no sorting.
    """
    path = check_fragments_file(Path(path))
    n_lines, found = 0, False
    progress = tqdm(
        total=path.stat().st_size,
        unit="B",
        unit_scale=True,
        desc=path.name,
        disable=not settings.progress,
    )
    with path.open("rb") as raw, progress as bar:
        stream, rest = open_text(raw, path), b""
        while True:
            try:
                text = stream.read(BLOCK_BYTES)
            except DECODE_ERRORS as error:
                msg = f"{str(path)!r} is truncated or damaged: {error}. Copy it again."
                raise ValueError(msg) from error
            block = rest + text
            _check_line_lengths(block, path, n_lines)
            cut = block.rfind(b"\n") + 1 if text else len(block)
            block, rest = block[:cut], block[cut:]
            if not n_lines:
                block = block.removeprefix(codecs.BOM_UTF8)
            if block:
                fragments = parse_fragments(block, path, n_lines)
                found |= len(fragments.start) > 0
                yield fragments
            n_lines += block.count(b"\n")
            bar.update(raw.tell() - bar.n)
            if not text:
                break
    if not found:
        msg = f"{str(path)!r} contains no fragments."
        raise ValueError(msg)


def check_fragments_file(path: Path) -> Path:
    """The path; FileNotFoundError if the file does not exist, ValueError if it is no text."""
    if path.is_dir():
        msg = f"{str(path)!r} is a folder; expected a fragments file, such as fragments.tsv.gz."
        raise ValueError(msg)
    if not path.is_file():
        msg = f"The fragments file {str(path)!r} does not exist."
        raise FileNotFoundError(msg)
    check_text(path, "a fragments file")
    if is_peaks(path):
        msg = f"{str(path)!r} is a BED file of peaks, not a fragments file ({FORMAT})."
        raise ValueError(msg)
    return path


def _check_line_lengths(block: bytes, path: Path, n_before: int) -> None:
    """Raise ValueError if a line has more than MAX_LINE bytes."""
    start = 0
    while len(block) - start > MAX_LINE:
        end = block.rfind(b"\n", start, start + MAX_LINE + 1)
        if end < 0:
            raise line_too_long(path, n_before + block.count(b"\n", 0, start) + 1)
        start = end + 1


def parse_fragments(block: bytes, path: Path, n_before: int) -> Fragments:
    """The columns of a block of whole lines."""
    # Comments are matched at the start of lines only: barcodes may contain "#"
    text = COMMENT.sub(b"", block) if b"#" in block else block
    if b"\r" in text and b"\r" in text.replace(b"\r\n", b"\n").removesuffix(b"\r"):
        _raise_for_line(block, path, n_before, None)  # pandas would begin a line there
    try:
        with np.errstate(invalid="ignore"):  # infinite numbers raise below
            frame = pd.read_csv(
                io.BytesIO(text),
                sep="\t",
                header=None,
                names=["chrom", "start", "end", "barcode"],
                usecols=[0, 1, 2, 3],
                dtype={"chrom": str, "start": "int64", "end": "int64", "barcode": str},
                na_filter=False,
                quoting=csv.QUOTE_NONE,
                engine="c",
            )
    except (ValueError, OverflowError) as error:
        _raise_for_line(block, path, n_before, error)
    start, end = frame["start"].to_numpy(), frame["end"].to_numpy()
    chrom, chroms = pd.factorize(frame["chrom"])
    barcode, barcodes = pd.factorize(frame["barcode"])
    is_wrong = ((start < 0) | (end <= start)).any() or "" in chroms or "" in barcodes
    # pandas reads a column of nothing but True and False as 1 and 0
    may_be_bool = any(side.max(initial=0) <= 1 for side in (start, end))
    if is_wrong or (may_be_bool and _first_fault(block)):
        _raise_for_line(block, path, n_before, None)
    chroms, barcodes = pd.Index(with_prefix(pd.Series(chroms))), pd.Index(barcodes)
    return Fragments(chrom, chroms, start, end, barcode, barcodes)


def _raise_for_line(block: bytes, path: Path, n_before: int, error: Exception | None) -> NoReturn:
    """Raise ValueError for the first line that is not a fragment."""
    if found := _first_fault(block):
        i, line, fault = found
        shown = line[:80].decode(errors="replace")
        msg = f"{str(path)!r}, line {n_before + i:,}: {fault}, in {shown!r}. Expected {FORMAT}."
        raise ValueError(msg) from error
    msg = f"{str(path)!r}, after line {n_before:,}: {error}. Expected {FORMAT}."
    raise ValueError(msg) from error


def _first_fault(block: bytes) -> tuple[int, bytes, str] | None:
    """Number, text and fault of the first line that is not a fragment."""
    for i, line in enumerate(block.split(b"\n"), start=1):
        line = line.removesuffix(b"\r")
        if line.strip(b" ") and not line.startswith(b"#") and (fault := _fault(line)):
            return i, line, fault
    return None


def _fault(line: bytes) -> str | None:
    """What is wrong with a line."""
    if b"\r" in line:
        return "there is a carriage return in it, which is no end of a line"
    fields = line.split(b"\t")
    if len(fields) < 4:
        return f"{len(fields)} of 4 fields"
    positions = []
    for name, text in zip(("start", "end"), fields[1:3], strict=True):
        value = float(text) if NUMBER.fullmatch(text) else np.nan
        if not value.is_integer() or abs(value) >= 2**62:
            return f"the {name} is not an integer"
        positions.append(int(value))
    if positions[0] < 0:
        return "the start is negative"
    if positions[1] <= positions[0]:
        return "the end does not come after the start"
    if not fields[0] or not fields[3]:
        return f"no {'barcode' if fields[0] else 'chromosome'}"
    try:
        b"\t".join(fields[:4]).decode()
    except UnicodeDecodeError:
        return "it is not text"
    return None
