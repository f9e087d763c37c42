"""Replace the files of a directory all at once, wherever the process is killed.

New files are written to a folder in the directory, which is then renamed to ``COMPLETE``. From that
moment on its files count, wherever they are: :func:`locate` looks for them there first. They are
moved into place one by one, and the configuration, which names them all, is the last one.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from .._settings import settings

COMPLETE = ".complete"
PARTIAL = ".partial-"


def locate(directory: Path, file: str) -> Path:
    """Path of a file of a directory, which may be on its way into place."""
    complete = directory / COMPLETE / file
    return complete if complete.is_file() else directory / file


def steady[T](directory: Path, config: str, read: Callable[[Path], T]) -> T:
    """The result of `read`, which is called again if files were replaced in the meantime."""
    while True:
        before = _state(directory, config)
        try:
            return read(directory)
        except (OSError, ValueError):
            if _state(directory, config) == before:
                raise


def _state(directory: Path, config: str) -> tuple[list[str], list[int]]:
    """What changes while files are replaced: those on their way, and the file of configuration.

    Its content may be the same again, after two other saves.
    """
    try:
        moving = sorted(path.name for path in directory.glob(f"{COMPLETE}/*"))
        status = locate(directory, config).stat()
        return moving, [status.st_ino, status.st_mtime_ns, status.st_ctime_ns]
    except OSError:
        return [], []


def is_temporary(path: Path) -> bool:
    """Whether this is a folder of an interrupted save."""
    return path.name == COMPLETE or path.name.startswith(PARTIAL)


@contextmanager
def replacing(directory: Path, config: str) -> Iterator[Path]:
    """A folder for new files, which replace those that ``directory / config`` lists.

    Nothing changes if an error is raised. What an interrupted save left is finished or removed.
    """
    is_new = not directory.is_dir()
    directory.mkdir(parents=True, exist_ok=True)
    finish(directory, config)
    partial = directory / f"{PARTIAL}{uuid4().hex[:8]}"
    partial.mkdir()
    try:
        yield partial
        partial.rename(directory / COMPLETE)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        if is_new and not any(directory.iterdir()):
            directory.rmdir()
        raise
    finish(directory, config)


def finish(directory: Path, config: str) -> None:
    """Move the files of a complete save into place, and remove those of interrupted ones."""
    complete = directory / COMPLETE
    if complete.is_dir():
        for path in sorted(complete.iterdir()):
            if path.name != config:
                path.replace(directory / path.name)
    if (complete / config).is_file():
        for name in listed(directory / config) - listed(complete / config):
            (directory / name).unlink(missing_ok=True)
        (complete / config).replace(directory / config)
    for path in directory.iterdir():
        if is_temporary(path):
            shutil.rmtree(path)


def listed(config: Path) -> set[str]:
    """Names of the files that a configuration lists; none if it is missing or damaged."""
    try:
        names = json.loads(config.read_text(encoding="utf-8"))["sha256"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return set()
    return {name for name in names if Path(name).name == name} - {config.name}


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Wait until no other process of this user saves to the directory.

    Without a folder for locks, or where the file system has none, processes do not wait.
    """
    from filelock import FileLock

    name = hashlib.sha256(str(directory).encode()).hexdigest()[:2]  # few files, for any directory
    lock = FileLock(settings.cache_dir / "locks" / f"{name}.lock")
    with ExitStack() as stack:
        with suppress(OSError, NotImplementedError):
            (settings.cache_dir / "locks").mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock)
        yield
