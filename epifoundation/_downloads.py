"""Download files over HTTP; a download that broke off goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen
from uuid import uuid4

from filelock import FileLock
from tqdm import tqdm

from ._settings import settings
from ._version import __version__

BLOCK_BYTES = 1 << 20
TIMEOUT = 60  # seconds without an answer of the server
PAUSES = (1, 3, 9)  # seconds before further attempts, as long as each of them brings nothing new


def fetch_json(url: str) -> Any:
    """What a server answers, as JSON types.

    Raises
    ------
    ConnectionError
        There is no answer.
    HTTPError
        The answer is an error.
    ValueError
        The answer is not JSON.
    """
    with _opened(url, {"Accept": "application/json"}) as response, _broken_off():
        content = response.read()
    try:
        return json.loads(content)
    except ValueError as error:
        msg = f"{url} did not answer in JSON: {content[:80]!r}."
        raise ValueError(msg) from error


def download(url: str, path: Path, *, size: int | None = None, md5: str | None = None) -> Path:
    """The file at `path`, which is downloaded unless it is there and has `size` bytes.

    Until it is complete it is called ``<name>.part``; the next call goes on with that, unless the
    server has another version meanwhile (ETag). Processes wait for each other.

    Raises
    ------
    ConnectionError
        There is no answer, or the connection broke off repeatedly.
    ValueError
        The file has another size or checksum than expected; it is not kept.
    OSError
        The disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if path.is_file() and size in (None, path.stat().st_size):
            return path
        part = Path(f"{path}.part")
        try:
            _complete(url, part, size)
        except (ConnectionError, HTTPError) as error:
            n_kept = part.stat().st_size if part.is_file() else 0
            kept = f"{n_kept:,} bytes are kept: call again to go on" if n_kept else "Call again"
            msg = f"Could not download {url} ({error}). {kept}, or put the file there yourself as "
            msg += f"{str(path)!r}."
            raise ConnectionError(msg) from error
        _check(url, part, size, md5)
        part.replace(path)
        _tag_file(part).unlink(missing_ok=True)
    return path


def write_whole(path: Path, content: str) -> None:
    """Write a small text file, which is never seen half written."""
    made = path.with_name(f"{path.name}.{uuid4().hex[:8]}")
    made.write_text(content, encoding="utf-8")
    made.replace(path)


def _complete(url: str, part: Path, size: int | None) -> None:
    """Append to a partial file until the server has no more; tries again if that breaks off."""
    n_first = n_best = _size(part)
    pauses = iter(PAUSES)
    with tqdm(
        initial=n_first,
        total=size,
        unit="B",
        unit_scale=True,
        desc=part.name.removesuffix(".part"),
        disable=not settings.progress,
    ) as bar:
        while True:
            try:
                if part.is_file() and _size(part) == size:
                    return
                if _append(url, part, size, bar):
                    return
            except (ConnectionError, HTTPError):
                if _size(part) > n_best:
                    n_best, pauses = _size(part), iter(PAUSES)
                pause = next(pauses, None)
                if n_best == n_first or pause is None:
                    raise
                time.sleep(pause)


def _append(url: str, part: Path, size: int | None, bar: tqdm) -> bool:
    """Whether the file is complete after one request; if not, ask again from the start."""
    n_bytes = _size(part)
    tags = _tag_file(part)
    known = tags.read_text() if n_bytes and tags.is_file() else ""
    try:
        opened = _opened(url, {"Range": f"bytes={n_bytes}-"} if n_bytes else {})
    except HTTPError as error:
        if error.code != 416 or not n_bytes:  # there is nothing after the bytes that we have
            raise
        part.unlink()
        return False
    with opened as response:
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        is_rest = response.status == 206 and span is not None and int(span[1]) == n_bytes
        tag = response.headers.get("ETag", "")
        if n_bytes and response.status == 206 and not (is_rest and known in ("", tag)):
            part.unlink()  # of another version of the file
            return False
        if not is_rest:
            n_bytes = 0
        length = response.headers.get("Content-Length")
        total = size if length is None else n_bytes + int(length)
        if size is not None and total not in (None, size):
            part.unlink(missing_ok=True)
            msg = f"{url} has {total:,} bytes, but {size:,} are expected: it may have been "
            raise ValueError(msg + "replaced just now. Call again later.")
        _check_space(part, 0 if total is None else total - n_bytes)
        bar.total, bar.n = total, n_bytes
        with part.open("ab" if is_rest else "wb") as file:
            tags.write_text(tag)  # now that nothing of another version is left
            for block in _blocks(response):
                file.write(block)
                bar.update(len(block))
    if total is not None and _size(part) < total:
        msg = f"it broke off after {_size(part):,} of {total:,} bytes"
        raise ConnectionError(msg)
    return True


def _opened(url: str, headers: dict[str, str]) -> HTTPResponse:
    """The answer of a server."""
    if not url.startswith(("https://", "http://")):
        msg = f"{url!r} is not an address that begins with https:// or http://."
        raise ValueError(msg)
    # A compressed answer would have another size than the file
    headers = {"Accept-Encoding": "identity", **headers}
    headers["User-Agent"] = f"epifoundation/{__version__}"
    try:
        request = Request(url, headers=headers)  # noqa: S310 (checked above)
        answer: HTTPResponse = urlopen(request, timeout=TIMEOUT)  # noqa: S310
    except HTTPError as error:
        error.close()
        raise
    except URLError as error:
        raise ConnectionError(_reason(error.reason)) from error
    except (HTTPException, OSError) as error:
        raise ConnectionError(_reason(error)) from error
    return answer


def _blocks(response: HTTPResponse) -> Iterator[bytes]:
    while True:
        with _broken_off():
            block = response.read(BLOCK_BYTES)
        if not block:
            return
        yield block


@contextmanager
def _broken_off() -> Iterator[None]:
    """Errors of a connection, but not those of the disk."""
    try:
        yield
    except (HTTPException, OSError) as error:
        raise ConnectionError(_reason(error)) from error


def _check(url: str, part: Path, size: int | None, md5: str | None) -> None:
    """Delete the file and raise ValueError if it is not the expected one."""
    wrong = ""
    if size is not None and _size(part) != size:
        wrong = f"has {_size(part):,} bytes instead of {size:,}"
    elif md5 is not None:
        with part.open("rb") as file:
            found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
        if found.hexdigest() != md5:
            wrong = f"has the md5 {found.hexdigest()} instead of {md5}"
    if wrong:
        part.unlink()
        _tag_file(part).unlink(missing_ok=True)
        msg = f"{url} {wrong} and was not kept. Call again to download it."
        raise ValueError(msg)


def _check_space(part: Path, n_bytes: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if n_bytes > free:
        msg = (
            f"{str(part.parent)!r} has {free / 1e9:,.1f} GB of free space, the download needs "
            f"{n_bytes / 1e9:,.1f} GB: make room, or set `ep.settings.cache_dir`."
        )
        raise OSError(msg)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _tag_file(part: Path) -> Path:
    """Where the ETag of a partial file is kept."""
    return part.with_name(f"{part.name}.etag")


def _reason(error: object) -> str:
    return " ".join(str(error).split()) or type(error).__name__
