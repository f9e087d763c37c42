"""Sums over cells, saved to a file from which an interrupted run continues."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .statistics import Statistics


class State:
    """A file to which the sums are written periodically, and which is deleted after the pass.

    Parameters
    ----------
    path
        The file; None for no file.
    minutes
        Time between two writes.
    run
        Identifies the run, JSON types, except for the content of the cells. The state of another
        run is refused.
    signatures
        States of the files of the cells. While they are the same, the content is.
    """

    def __init__(
        self,
        path: Path | None,
        minutes: float,
        run: dict[str, Any],
        signatures: Sequence[str | None] = (None,),
    ) -> None:
        self.path, self.clock, self.run = path, Clock(minutes), run
        self.signatures = list(signatures)
        self.contents: list[str] = []  # of the blocks that were added to the sums
        self.is_trusted = False  # whether the blocks of the file are of the present cells

    def check(self) -> None:
        """Raise ValueError if the file is the state of another run, or damaged."""
        if self.path is None or not self.path.exists():
            return
        try:
            with safe_open(self.path, framework="pt") as file:
                there = json.loads((file.metadata() or {})["run"])
        except (SafetensorError, KeyError, ValueError, OSError) as error:
            msg = f"{str(self.path)!r} is not a state of pretraining, or is damaged ({error}): "
            msg += "delete it, or name another `state`."
            raise ValueError(msg) from error
        run = json.loads(json.dumps(self.run))
        # What identifies the run is known in part when the work begins, and in full when it resumes
        check_run(self.path, {name: there.get(name) for name in run}, run)

    def load(self, statistics: Statistics) -> int:
        """Set the saved sums, and return their number of blocks; ValueError if of another run.

        Unless `is_trusted`, each of these blocks must be compared with the cells.
        """
        if self.path is None or not self.path.exists():
            return 0
        self.check()
        with safe_open(self.path, framework="pt") as file:
            statistics.set({name: file.get_tensor(name) for name in statistics.tensors()})
            of_cells = json.loads((file.metadata() or {})["cells"])
        self.contents = of_cells["contents"]
        self.is_trusted = None not in self.signatures and of_cells["files"] == self.signatures
        return len(self.contents)

    def compare(self, number: int, content: str) -> None:
        """Raise ValueError if a block of the saved sums has another content than these cells."""
        if self.contents[number] != content:
            msg = f"{str(self.path)!r} is the state of other cells: some were changed since. "
            msg += "Delete the file, or name another `state`."
            raise ValueError(msg)

    def save(self, statistics: Statistics, content: str) -> None:
        """Write the sums, after a block of this content was added, if it is time."""
        self.contents.append(content)
        if self.path is None or not self.clock.is_due():
            return
        tensors = {name: part.cpu().contiguous() for name, part in statistics.tensors().items()}
        of_cells = {"contents": self.contents, "files": self.signatures}
        with replaced(self.path) as temporary:
            metadata = {"run": json.dumps(self.run), "cells": json.dumps(of_cells)}
            save_file(tensors, temporary, metadata)
        self.clock.start()

    def finish(self) -> None:
        """Delete the file."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


class Clock:
    """Says when the next state is due."""

    def __init__(self, minutes: float) -> None:
        self.seconds = 60 * minutes
        self.start()

    def is_due(self) -> bool:
        """Whether it is time for a state."""
        return time.monotonic() - self.last >= self.seconds

    def start(self) -> None:
        """Restart after a state."""
        self.last = time.monotonic()


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A temporary path to write to, which replaces the file when all is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def check_run(path: Path, there: dict[str, Any], run: dict[str, Any]) -> None:
    """Raise ValueError if the saved run is not this one."""
    differ = [name for name in {**there, **run} if there.get(name) != run.get(name)]
    if differ:
        name = differ[0]
        msg = f"{str(path)!r} is the state of another run: {name} was {there.get(name)!r}, "
        msg += f"is {run.get(name)!r}. Continue with the data, options and seed of that run, "
        msg += "delete the file, or name another `state`."
        raise ValueError(msg)
