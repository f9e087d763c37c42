"""Finished blocks of a run in a folder; each is complete or missing, whichever process wrote it.

A block records the content of the cells that it was computed from.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock, Timeout

from .tally import Tally

RUN_FILE, RECORD = "run.json", "record"


class Origin(NamedTuple):
    """What a block was computed from: its cells, and the state of their files when it was read."""

    content: str
    signature: str | None


class BlockStore:
    """A folder of blocks.

    Parameters
    ----------
    folder
        Created if needed.
    fingerprint
        Inputs of the run; JSON types. ValueError if the folder has blocks of another run.
    """

    def __init__(self, folder: Path, fingerprint: dict[str, Any]) -> None:
        self.folder = folder
        self.is_open = True
        # Blocks known to be of the present cells, and the state of their file when that was known
        self._checked: dict[int, str | None] = {}
        self._held: dict[int, FileLock] = {}
        self._seen: set[int] = set()  # another process may delete the folder when all are finished
        wanted = json.loads(json.dumps(fingerprint))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _delete_remains(folder)
            with FileLock(folder / "run.lock"):
                if (folder / RUN_FILE).is_file():
                    self._compare(json.loads((folder / RUN_FILE).read_text()), wanted)
                else:
                    for old in folder.glob("*.npz"):  # of a run that is not known
                        old.unlink(missing_ok=True)
                    self._put(
                        folder / RUN_FILE,
                        lambda path: path.write_text(json.dumps(wanted, indent=1)),
                    )
        except OSError as error:
            msg = (
                f"Cannot write to {str(folder)!r} ({error}): finished blocks are kept there until "
                "the results are complete."
            )
            raise type(error)(msg) from error

    def _compare(self, there: dict[str, Any], wanted: dict[str, Any]) -> None:
        differ = [name for name in {**there, **wanted} if there.get(name) != wanted.get(name)]
        if differ:
            name = differ[0]
            more = f" ({len(differ) - 1} more differ)" if len(differ) > 1 else ""
            msg = (
                f"{str(self.folder)!r} contains the unfinished results of another run: {name} was "
                f"{_short(there.get(name))}, is {_short(wanted.get(name))}{more}. Finish that run "
                "with its options, delete the folder, or write to another `output`."
            )
            raise ValueError(msg)

    def claim(self, number: int) -> bool:
        """Reserve a block that is not finished; False if another process has it."""
        if number in self._held or self.has(number):
            return False
        lock = FileLock(self.folder / f"{number:08}.lock", thread_local=False)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return False
        self._held[number] = lock
        if self.has(number):  # finished by another process in between
            self._release(number)
            return False
        return True

    def save(
        self, number: int, arrays: dict[str, np.ndarray], tally: Tally, origin: Origin
    ) -> None:
        """Write a block that was claimed."""
        record = {"tally": asdict(tally), "origin": origin}
        encoded = np.frombuffer(json.dumps(record).encode(), dtype=np.uint8)

        def write(path: Path) -> None:
            with path.open("wb") as file:
                np.savez(file, **{RECORD: encoded}, **arrays)  # type: ignore[arg-type]

        try:
            self._put(self._path(number), write)
        except OSError as error:
            msg = (
                f"Block {number:,} could not be written to {str(self.folder)!r} ({error}): is the "
                f"disk full? {self.advice()}"
            )
            raise OSError(error.errno, msg) from error
        self._checked[number] = origin.signature
        self._release(number)

    @contextlib.contextmanager
    def load(self, number: int) -> Iterator[np.lib.npyio.NpzFile]:
        """A block; its arrays are read on access."""
        path = self._path(number)
        try:
            with np.load(path, allow_pickle=False) as block:
                yield block
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            msg = (
                f"{str(path)!r} is damaged ({error}): delete it, and the same call computes that "
                "block again."
            )
            raise OSError(msg) from error

    def tally(self, number: int) -> Tally:
        """Counts of a block."""
        return Tally(**self._record(number)["tally"])

    def origin(self, number: int) -> Origin:
        """What a block was computed from."""
        return Origin(*self._record(number)["origin"])

    def in_doubt(self, signatures: Mapping[int, str | None]) -> list[int]:
        """Finished blocks that may be of other cells, given the present states of their files."""
        found = []
        for number, now in signatures.items():
            if self.has(number) and number not in self._checked:
                origin = self.origin(number)
                if origin.signature is not None:
                    self._checked[number] = origin.signature
            if self.has(number) and self._checked.get(number, "") != now:
                found.append(number)
        return found

    def compare(self, number: int, origin: Origin) -> bool:
        """Whether a block is of these cells; if not, it is deleted, to be computed again."""
        if self.origin(number).content == origin.content:
            self._checked[number] = origin.signature
            return True
        self._path(number).unlink(missing_ok=True)
        self._checked.pop(number, None)
        self._seen.discard(number)
        return False

    def has(self, number: int) -> bool:
        """Whether a block is finished."""
        if number not in self._seen and self._path(number).exists():
            self._seen.add(number)
        return number in self._seen

    def _record(self, number: int) -> dict[str, Any]:
        with self.load(number) as block:
            return json.loads(block[RECORD].tobytes())

    def all_taken(self, n_blocks: int) -> bool:
        """Whether each block is finished or claimed by this process, so that none is left."""
        return all(number in self._held or self.has(number) for number in range(n_blocks))

    def finish(
        self, n_blocks: int, check: Callable[[], None], assemble: Callable[[Tally], None]
    ) -> Tally:
        """Assemble the results in one process and delete the folder; others wait, with no tally.

        `check` raises an error if the blocks are not of the present cells.
        """
        tally = Tally()
        with FileLock(f"{self.folder}.lock"):
            if (self.folder / RUN_FILE).is_file():
                check()
                tally = sum((self.tally(number) for number in range(n_blocks)), tally)
                try:
                    assemble(tally)
                except OSError as error:
                    if error.errno is None:
                        raise
                    msg = (
                        f"The results could not be assembled in {str(self.folder)!r} ({error}): is "
                        f"the disk full? {self.advice()}"
                    )
                    raise OSError(error.errno, msg) from error
                _delete(self.folder)
        Path(f"{self.folder}.lock").unlink(missing_ok=True)
        return tally

    @staticmethod
    def delete_finished(folder: Path, run: dict[str, Any]) -> None:
        """Delete the folder of a run that is complete, if it was killed before it did so."""
        _delete_remains(folder)
        with contextlib.suppress(FileNotFoundError):
            if json.loads((folder / RUN_FILE).read_text()) == json.loads(json.dumps(run)):
                with FileLock(f"{folder}.lock"):
                    _delete(folder)
                Path(f"{folder}.lock").unlink(missing_ok=True)

    def check_room(self, n_more: int) -> None:
        """Raise OSError unless all blocks and `n_more` bytes fit on the disk: HDF5 would crash."""
        n_bytes = n_more + sum(path.stat().st_size for path in self.folder.glob("*.npz"))
        with tempfile.TemporaryFile(dir=self.folder) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, n_bytes)
            elif shutil.disk_usage(self.folder).free < n_bytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        """Release the blocks that were claimed and not saved."""
        self.is_open = False
        for lock in self._held.values():
            lock.release()
        self._held.clear()

    def advice(self) -> str:
        """What a user can do after an error."""
        n_blocks = len(list(self.folder.glob("*.npz")))
        return (
            f"{n_blocks:,} finished blocks are kept in {str(self.folder)!r}: the same call resumes "
            "from there."
        )

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:08}.npz"

    def _release(self, number: int) -> None:
        lock = self._held.pop(number)
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)

    @staticmethod
    def _put(path: Path, write: Callable[[Path], Any]) -> None:
        """Write a temporary file, flush it to the disk and rename it."""
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            write(temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def _delete(folder: Path) -> None:
    """Delete a folder; another run never finds a part of it."""
    deleted = folder.with_name(f"{folder.name}.{os.getpid()}.deleted")
    folder.rename(deleted)
    shutil.rmtree(deleted)


def _delete_remains(folder: Path) -> None:
    """Complete the deletion of a folder whose process was killed."""
    for remains in folder.parent.glob(f"{glob.escape(folder.name)}.*.deleted"):
        shutil.rmtree(remains, ignore_errors=True)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else f"{text[:120]}..."
