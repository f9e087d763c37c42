"""Read text files (bgzip, gzip or plain, recognized by content) and compute checksums."""

from __future__ import annotations

import codecs
import gzip
import hashlib
import io
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from ._file_kinds import check_text

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
MAX_LINE = 1 << 20  # bytes: memory must not grow with what is no line, such as compressed zeros


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

    Longer lines are returned up to `at_most` columns. A byte order mark is dropped.

    Raises
    ------
    FileNotFoundError
        The file does not exist.
    ValueError
        The file is not text, is truncated, or a line has too few columns or is too long.
    """
    path = Path(path)
    if path.is_dir():
        msg = f"{str(path)!r} is a folder; expected a file, a table of text."
        raise ValueError(msg)
    if not path.is_file():
        msg = f"The file {str(path)!r} does not exist."
        raise FileNotFoundError(msg)
    check_text(path, "a table of text")
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


def read_lines(path: Path) -> Iterator[str]:
    """Lines of a text file in UTF-8, without the byte order mark that some editors write.

    Raises
    ------
    ValueError
        The file is not text, is truncated, or has a line of more than `MAX_LINE` bytes.
    """
    try:
        with path.open("rb") as raw, io.TextIOWrapper(open_text(raw, path), "utf-8-sig") as text:
            number = 0
            while line := text.readline(MAX_LINE + 1):
                number += 1
                if len(line) > MAX_LINE and not line.endswith("\n"):
                    raise line_too_long(path, number)
                if "\0" in line:
                    raise _not_utf_8(path)
                yield line.rstrip("\n")
    except UnicodeDecodeError as error:
        marks = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        if error.object.startswith(marks) or b"\0" in error.object:
            raise _not_utf_8(path) from error
        raise _unreadable(path, error) from error
    except READ_ERRORS as error:
        raise _unreadable(path, error) from error


def _not_utf_8(path: Path) -> ValueError:
    return ValueError(f"{str(path)!r} is binary, or text in UTF-16: save it as text in UTF-8.")


def _unreadable(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{str(path)!r} is not text, or is truncated: {error}.")


def line_too_long(path: Path, number: int) -> ValueError:
    """The error for a line of more than `MAX_LINE` bytes."""
    return ValueError(
        f"{str(path)!r}, line {number:,}: longer than {MAX_LINE:,} bytes. "
        "Is the file damaged, or of another kind?"
    )


def sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
