"""Sums over cells, saved to a file from which an interrupted run continues."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
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
        Identifies the run, JSON types. The state of another run is refused.
    """

    def __init__(self, path: Path | None, minutes: float, run: dict[str, Any]) -> None:
        self.path, self.clock, self.run = path, Clock(minutes), run

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
        check_run(self.path, there, json.loads(json.dumps(self.run)))

    def load(self, statistics: Statistics) -> int:
        """Set the saved sums, and return their number of blocks."""
        if self.path is None or not self.path.exists():
            return 0
        with safe_open(self.path, framework="pt") as file:
            statistics.set({name: file.get_tensor(name) for name in statistics.tensors()})
            return int((file.metadata() or {})["blocks"])

    def save(self, statistics: Statistics, n_blocks: int) -> None:
        """Write the sums of a number of blocks, if it is time."""
        if self.path is None or not self.clock.is_due():
            return
        tensors = {name: part.cpu().contiguous() for name, part in statistics.tensors().items()}
        with replaced(self.path) as temporary:
            save_file(tensors, temporary, {"run": json.dumps(self.run), "blocks": str(n_blocks)})
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
