"""Text files as they come: bgzip, gzip or plain, told by their content."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path
from typing import IO, Any, cast

READER: Any = gzip
DAMAGED: tuple[type[Exception], ...] = (EOFError, zlib.error, gzip.BadGzipFile)  # what reading raises then
try:
    from isal import igzip, igzip_lib  # of the extra [fragments], and faster
except ImportError:
    pass
else:
    READER, DAMAGED = igzip, (*DAMAGED, cast("type[Exception]", igzip_lib.IsalError))
NO_TEXT: tuple[type[Exception], ...] = (*DAMAGED, OSError, UnicodeDecodeError)

BGZIP_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")  # SAM specification, 4.1.2


def open_text(raw: IO[bytes], path: Path) -> IO[bytes]:
    """The bytes of the text in an open file, whatever its name says."""
    head = raw.read(18)
    is_bgzip = head[:4] == BGZIP_END[:4] and head[12:14] == b"BC"
    if is_bgzip:
        raw.seek(-min(len(BGZIP_END), path.stat().st_size), io.SEEK_END)
        if raw.read() != BGZIP_END:
            msg = f"{str(path)!r} is truncated: it lacks the end mark of bgzip. Copy it again, or compress it anew."
            raise ValueError(msg)
    raw.seek(0)
    return cast("IO[bytes]", READER.open(raw)) if head[:2] == BGZIP_END[:2] else raw


def read_columns(path: str | Path, n_columns: int, *, at_most: int = 0) -> list[list[str]]:
    """The first columns, separated by tabs, of the lines that are no comments; some more where there are, up to `at_most`.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        It is no text, truncated, or has too few columns; with the line.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"The file {str(path)!r} is not there."
        raise FileNotFoundError(msg)
    try:
        with path.open("rb") as raw:
            lines = open_text(raw, path).read().decode().splitlines()
    except NO_TEXT as error:
        msg = f"{str(path)!r} is no text, or is truncated: {error}."
        raise ValueError(msg) from error
    rows = []
    for i, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith(("#", "track", "browser")):  # of genome browsers
            continue
        fields = line.split("\t")[: max(n_columns, at_most)]
        if len(fields) < n_columns:
            msg = (
                f"{str(path)!r}, line {i:,}: {len(fields)} of {n_columns} columns separated by tabs, in {line[:80]!r}."
            )
            raise ValueError(msg)
        rows.append(fields)
    return rows
