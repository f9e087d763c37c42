"""Finished blocks of a run in a folder; each is complete or missing, whichever process wrote it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from .tally import Tally

RUN_FILE, TALLY = "run.json", "tally"


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
        self._held: dict[int, FileLock] = {}
        self._there: set[int] = set()
        wanted = json.loads(json.dumps(fingerprint))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / "run.lock"):
                if (folder / RUN_FILE).is_file():
                    self._compare(json.loads((folder / RUN_FILE).read_text()), wanted)
                else:
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
        if number in self._held or self._has(number):
            return False
        lock = FileLock(self.folder / f"{number:08}.lock", thread_local=False)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return False
        self._held[number] = lock
        if self._has(number):  # finished by another process in between
            self._release(number)
            return False
        return True

    def save(self, number: int, arrays: dict[str, np.ndarray], tally: Tally) -> None:
        """Write a block that was claimed."""
        counts = np.frombuffer(json.dumps(asdict(tally)).encode(), dtype=np.uint8)

        def write(path: Path) -> None:
            with path.open("wb") as file:
                np.savez(file, **{TALLY: counts}, **arrays)  # type: ignore[arg-type]

        try:
            self._put(self._path(number), write)
        except OSError as error:
            msg = (
                f"Block {number:,} could not be written to {str(self.folder)!r} ({error}): is the "
                f"disk full? {self.advice()}"
            )
            raise OSError(error.errno, msg) from error
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
        with self.load(number) as block:
            return Tally(**json.loads(block[TALLY].tobytes()))

    def all_taken(self, n_blocks: int) -> bool:
        """Whether each block is finished or claimed by this process, so that none is left."""
        return all(number in self._held or self._has(number) for number in range(n_blocks))

    def finish(self, n_blocks: int, assemble: Callable[[Tally], None]) -> Tally:
        """Assemble the results in one process and delete the folder; others wait, with no tally."""
        tally = Tally()
        with FileLock(f"{self.folder}.lock"):
            if (self.folder / RUN_FILE).is_file():
                tally = sum((self.tally(number) for number in range(n_blocks)), tally)
                try:
                    assemble(tally)
                except OSError as error:
                    msg = (
                        f"The results could not be assembled in {str(self.folder)!r} ({error}): is "
                        f"the disk full? {self.advice()}"
                    )
                    raise OSError(error.errno, msg) from error
                (self.folder / RUN_FILE).unlink()  # the run is complete
                shutil.rmtree(self.folder)
        Path(f"{self.folder}.lock").unlink(missing_ok=True)
        return tally

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

    def _has(self, number: int) -> bool:
        if number not in self._there and self._path(number).exists():
            self._there.add(number)
        return number in self._there

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


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else f"{text[:120]}..."
