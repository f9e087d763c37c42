"""Read text files (bgzip, gzip or plain, recognized by content) and compute checksums."""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import zlib
from pathlib import Path
from typing import IO, Any, cast

READER: Any = gzip
# Raised on damaged or truncated files
DECODE_ERRORS: tuple[type[Exception], ...] = (EOFError, zlib.error, gzip.BadGzipFile)
try:
    from isal import igzip, igzip_lib  # the extra [fragments]: twice as fast
except ImportError:
    pass
else:
    READER = igzip
    DECODE_ERRORS = (*DECODE_ERRORS, cast("type[Exception]", igzip_lib.IsalError))

READ_ERRORS: tuple[type[Exception], ...] = (*DECODE_ERRORS, OSError, UnicodeDecodeError)
# Empty last block of bgzip (SAM specification, 4.1.2)
BGZIP_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")


def open_text(raw: IO[bytes], path: Path) -> IO[bytes]:
    """An open file as a stream of uncompressed bytes."""
    head = raw.read(18)
    is_bgzip = head[:4] == BGZIP_END[:4] and head[12:14] == b"BC"
    if is_bgzip:
        raw.seek(-min(len(BGZIP_END), path.stat().st_size), io.SEEK_END)
        if raw.read() != BGZIP_END:
            msg = f"{str(path)!r} is truncated: the end mark of bgzip is missing. "
            msg += "Copy or compress it again."
            raise ValueError(msg)
    raw.seek(0)
    return cast("IO[bytes]", READER.open(raw)) if head[:2] == BGZIP_END[:2] else raw


def read_columns(path: str | Path, n_columns: int, *, at_most: int = 0) -> list[list[str]]:
    """The first `n_columns` tab-separated columns of all lines except comments, without blanks.

    Longer lines are returned up to `at_most` columns.

    Raises
    ------
    FileNotFoundError
        The file does not exist.
    ValueError
        The file is not text, is truncated, or a line has too few columns.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"The file {str(path)!r} does not exist."
        raise FileNotFoundError(msg)
    rows = []
    for i, line in enumerate(read_lines(path), start=1):
        is_header = re.match(r"#|(track|browser)(\s|$)", line)  # of BED
        if not line.strip() or is_header:
            continue
        fields = [field.strip() for field in line.split("\t")[: max(n_columns, at_most)]]
        if len(fields) < n_columns:
            msg = f"{str(path)!r}, line {i:,}: {len(fields)} of {n_columns} tab-separated columns, "
            msg += f"in {line[:80]!r}."
            raise ValueError(msg)
        rows.append(fields)
    return rows


def read_lines(path: Path) -> list[str]:
    """Lines of a text file in UTF-8, without the byte order mark that some editors write.

    Raises
    ------
    ValueError
        The file is not text, or is truncated.
    """
    try:
        with path.open("rb") as raw:
            content = open_text(raw, path).read()
        if content.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in content:
            msg = f"{str(path)!r} is binary, or text in UTF-16: save it as text in UTF-8."
            raise ValueError(msg)
        return re.split(r"\r\n|\n|\r", content.decode("utf-8-sig"))
    except READ_ERRORS as error:
        msg = f"{str(path)!r} is not text, or is truncated: {error}."
        raise ValueError(msg) from error


def sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
