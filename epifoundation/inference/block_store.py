"""Finished blocks of a run, in a folder: each is there whole or not at all, whoever computed it."""

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

RUN, TALLY = "run.json", "tally"


class BlockStore:
    """A folder of blocks.

    Parameters
    ----------
    folder
        Made where it is not there.
    fingerprint
        What the results depend on; JSON types. Blocks of another run are an error.
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
                if (folder / RUN).is_file():
                    self._compare(json.loads((folder / RUN).read_text()), wanted)
                else:
                    self._put(
                        folder / RUN, lambda path: path.write_text(json.dumps(wanted, indent=1))
                    )
        except OSError as error:
            msg = f"Cannot write to {str(folder)!r} ({error}): finished blocks are kept there until the results are complete."
            raise type(error)(msg) from error

    def _compare(self, there: dict[str, Any], wanted: dict[str, Any]) -> None:
        differ = [name for name in {**there, **wanted} if there.get(name) != wanted.get(name)]
        if differ:
            name = differ[0]
            msg = (
                f"{str(self.folder)!r} holds the unfinished results of another run: {name} was {_short(there.get(name))}, is "
                f"{_short(wanted.get(name))}{f' ({len(differ) - 1} more differ)' if len(differ) > 1 else ''}. Finish that run as it was begun, delete the "
                "folder, or write to another `output`."
            )
            raise ValueError(msg)

    def claim(self, number: int) -> bool:
        """Take a block that is not there and that no other process has."""
        if number in self._held or self._has(number):
            return False
        lock = FileLock(self.folder / f"{number:08}.lock", thread_local=False)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return False
        self._held[number] = lock
        if self._has(number):  # since we looked
            self._release(number)
            return False
        return True

    def save(self, number: int, arrays: dict[str, np.ndarray], tally: Tally) -> None:
        """Put a block that was claimed in its place."""
        told = np.frombuffer(json.dumps(asdict(tally)).encode(), dtype=np.uint8)

        def write(path: Path) -> None:
            with path.open("wb") as file:
                np.savez(file, **{TALLY: told}, **arrays)  # type: ignore[arg-type]

        try:
            self._put(self._path(number), write)
        except OSError as error:
            msg = f"Block {number:,} could not be written to {str(self.folder)!r} ({error}): is the disk full? {self.told()}"
            raise OSError(error.errno, msg) from error
        self._release(number)

    @contextlib.contextmanager
    def load(self, number: int) -> Iterator[np.lib.npyio.NpzFile]:
        """A block; its arrays are read when they are asked for."""
        path = self._path(number)
        try:
            with np.load(path, allow_pickle=False) as block:
                yield block
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            msg = f"{str(path)!r} is damaged ({error}): delete it, and the same call computes that block anew."
            raise OSError(msg) from error

    def tally(self, number: int) -> Tally:
        """What was counted in a block."""
        with self.load(number) as block:
            return Tally(**json.loads(block[TALLY].tobytes()))

    def is_shared_out(self, n_blocks: int) -> bool:
        """Whether each block is there, or has been claimed by this process: none is left to wait for."""
        return all(number in self._held or self._has(number) for number in range(n_blocks))

    def finish(self, n_blocks: int, assemble: Callable[[Tally], None]) -> Tally:
        """Have the results put together by one of the processes, and the folder removed; the others wait, and get no tally."""
        tally = Tally()
        with FileLock(f"{self.folder}.lock"):
            if (self.folder / RUN).is_file():
                tally = sum((self.tally(number) for number in range(n_blocks)), tally)
                try:
                    assemble(tally)
                except OSError as error:
                    msg = f"The results could not be put together in {str(self.folder)!r} ({error}): is the disk full? {self.told()}"
                    raise OSError(error.errno, msg) from error
                (self.folder / RUN).unlink()  # from here on there is no run to go on with
                shutil.rmtree(self.folder)
        Path(f"{self.folder}.lock").unlink(missing_ok=True)
        return tally

    def check_room(self, n_more: int) -> None:
        """Raise where the disk has no room for all blocks once more, and for so many bytes: HDF5 ends the process when it runs full."""
        n_bytes = n_more + sum(path.stat().st_size for path in self.folder.glob("*.npz"))
        with tempfile.TemporaryFile(dir=self.folder) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, n_bytes)
            elif shutil.disk_usage(self.folder).free < n_bytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        """Give back the blocks that were claimed and not saved."""
        self.is_open = False
        for lock in self._held.values():
            lock.release()
        self._held.clear()

    def told(self) -> str:
        """What a user can do after an error."""
        n_blocks = len(list(self.folder.glob("*.npz")))
        return f"{n_blocks:,} finished blocks are kept in {str(self.folder)!r}: the same call goes on from there."

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
        """Write a file beside its place and move it there, whole and on the disk."""
        beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            write(beside)
            with beside.open("rb") as file:
                os.fsync(file.fileno())
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else f"{text[:120]}..."
