"""Sums over cells kept in a file while they are made, so that an interrupted run continues."""

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
    """A file that gets the sums from time to time, and is gone when the pass is done.

    Parameters
    ----------
    path
        The file; None keeps nothing.
    minutes
        Between two writings.
    run
        What identifies the run, JSON types. The state of another run is refused.
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
            msg = f"{str(self.path)!r} is not a state of pretraining, or is damaged ({error}): delete it, or name another `state`."
            raise ValueError(msg) from error
        check_run(self.path, there, json.loads(json.dumps(self.run)))

    def load(self, statistics: Statistics) -> int:
        """Take over the sums that are kept, and return how many blocks are in them."""
        if self.path is None or not self.path.exists():
            return 0
        with safe_open(self.path, framework="pt") as file:
            statistics.set({name: file.get_tensor(name) for name in statistics.tensors()})
            return int((file.metadata() or {})["blocks"])

    def save(self, statistics: Statistics, n_blocks: int) -> None:
        """Keep the sums of this many blocks, if it is time."""
        if self.path is None or not self.clock.is_due():
            return
        tensors = {name: part.cpu().contiguous() for name, part in statistics.tensors().items()}
        with replaced(self.path) as beside:
            save_file(tensors, beside, {"run": json.dumps(self.run), "blocks": str(n_blocks)})
        self.clock.start()

    def finish(self) -> None:
        """Delete the file."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


class Clock:
    """When the next state is due."""

    def __init__(self, minutes: float) -> None:
        self.seconds = 60 * minutes
        self.start()

    def is_due(self) -> bool:
        """Whether so much time has passed since the last state."""
        return time.monotonic() - self.last >= self.seconds

    def start(self) -> None:
        """A state was kept."""
        self.last = time.monotonic()


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Another path to write to, which takes the place of the file when all is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.tmp")
    try:
        yield beside
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def check_run(path: Path, there: dict[str, Any], run: dict[str, Any]) -> None:
    """Raise ValueError if the state in a file is not that of this run."""
    differ = [name for name in {**there, **run} if there.get(name) != run.get(name)]
    if differ:
        msg = (
            f"{str(path)!r} is the state of another run: {differ[0]} was {there.get(differ[0])!r}, is "
            f"{run.get(differ[0])!r}. Continue with the data, the options and the seed that it began with, delete it, or "
            "name another `state`."
        )
        raise ValueError(msg)
