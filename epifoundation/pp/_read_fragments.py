"""Fragment files, read in blocks: bgzip, gzip or plain text."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
import pandas as pd
from tqdm import tqdm

from .._files import DAMAGED, open_text
from .._settings import settings
from ..genome._intervals import with_prefix

BLOCK = 1 << 25  # bytes of text held at a time: about 700,000 lines
EXPECTED = "chromosome, start, end and barcode, separated by tabs"
NUMBER = re.compile(rb"\s*[-+]?\d+(\.\d*)?(e[-+]?\d+)?\s*", re.IGNORECASE)  # R writes 1e+05
COMMENT = re.compile(rb"(?m)^#[^\n]*")


class Fragments(NamedTuple):
    """Fragments of one block; 0-based, half-open. ``chroms[chrom]`` and ``barcodes[barcode]`` are the names."""

    chrom: np.ndarray
    chroms: pd.Index
    start: np.ndarray
    end: np.ndarray
    barcode: np.ndarray
    barcodes: pd.Index


def read_fragments(path: str | Path) -> Iterator[Fragments]:
    """Fragments of a file, by blocks of lines, in its order.

    Errors name the file and the line. An index beside it is not needed, and the lines need not be sorted.
    """
    path = check_file(Path(path))
    n_lines, found = 0, False
    with (
        path.open("rb") as raw,
        tqdm(
            total=path.stat().st_size, unit="B", unit_scale=True, desc=path.name, disable=not settings.progress
        ) as bar,
    ):
        stream, rest = open_text(raw, path), b""
        while True:
            try:
                text = stream.read(BLOCK)
            except DAMAGED as error:
                msg = f"{str(path)!r} is truncated or damaged: {error}. Copy it again."
                raise ValueError(msg) from error
            block = rest + text
            cut = block.rfind(b"\n") + 1 if text else len(block)
            block, rest = block[:cut], block[cut:]
            fragments = _parse(block, path, n_lines)
            found |= len(fragments.start) > 0
            yield fragments
            n_lines += block.count(b"\n")
            bar.update(raw.tell() - bar.n)
            if not text:
                break
    if not found:
        msg = f"{str(path)!r} holds no fragments."
        raise ValueError(msg)


def check_file(path: Path) -> Path:
    """The path, or an error when there is no such file."""
    if not path.is_file():
        msg = f"The fragments file {str(path)!r} is not there."
        raise FileNotFoundError(msg)
    return path


def _parse(block: bytes, path: Path, n_before: int) -> Fragments:
    """Columns of a block of whole lines."""
    text = COMMENT.sub(b"", block) if b"#" in block else block  # line by line, since a barcode may hold one
    try:
        with np.errstate(invalid="ignore"):  # infinite numbers are told below
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
    if ((start < 0) | (end <= start)).any() or "" in chroms or "" in barcodes:
        _raise_for_line(block, path, n_before, None)
    return Fragments(chrom, pd.Index(with_prefix(pd.Series(chroms))), start, end, barcode, pd.Index(barcodes))


def _raise_for_line(block: bytes, path: Path, n_before: int, error: Exception | None) -> NoReturn:
    """Raise for the first line that is no fragment."""
    for i, line in enumerate(block.split(b"\n"), start=n_before + 1):
        line = line.rstrip(b"\r")
        fault = None if not line or line.startswith(b"#") else _fault(line)
        if fault:
            shown = line[:80].decode(errors="replace")
            msg = f"{str(path)!r}, line {i:,}: {fault}, in {shown!r}. Expected {EXPECTED}."
            raise ValueError(msg) from error
    msg = f"{str(path)!r}, after line {n_before:,}: {error}. Expected {EXPECTED}."
    raise ValueError(msg) from error


def _fault(line: bytes) -> str | None:
    """What is wrong with a line."""
    fields = line.split(b"\t")
    if len(fields) < 4:
        return f"{len(fields)} of 4 fields"
    places = []
    for name, value in zip(("start", "end"), fields[1:3], strict=True):
        if not NUMBER.fullmatch(value) or not float(value).is_integer() or abs(float(value)) >= 2**62:
            return f"the {name} is no integer"
        places.append(int(float(value)))
    if places[0] < 0:
        return "the start is negative"
    if places[1] <= places[0]:
        return "the end does not come after the start"
    if not fields[0] or not fields[3]:
        return f"no {'barcode' if fields[0] else 'chromosome'}"
    try:
        line.decode()
    except UnicodeDecodeError:
        return "this is no text"
    return None
