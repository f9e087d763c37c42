"""Sums over cells kept in a file while they are made, so that an interrupted run continues."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
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
        self.path, self.seconds, self.run = path, 60 * minutes, run
        self.last = time.monotonic()

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
        run = json.loads(json.dumps(self.run))
        differ = [name for name in {**there, **run} if there.get(name) != run.get(name)]
        if differ:
            msg = (
                f"{str(self.path)!r} is the state of another run: {differ[0]} was {there.get(differ[0])!r}, is {run.get(differ[0])!r}. "
                "Continue with the data, the options and the seed that it began with, delete it, or name another `state`."
            )
            raise ValueError(msg)

    def load(self, statistics: Statistics) -> int:
        """Take over the sums that are kept, and return how many blocks are in them."""
        if self.path is None or not self.path.exists():
            return 0
        with safe_open(self.path, framework="pt") as file:
            there = statistics.arrays()
            statistics.set({name: _back(file.get_tensor(name), there[name]) for name in there})
            return int((file.metadata() or {})["blocks"])

    def save(self, statistics: Statistics, n_blocks: int) -> None:
        """Keep the sums of this many blocks, if it is time."""
        if self.path is None or time.monotonic() - self.last < self.seconds:
            return
        tensors = {name: _tensor(values) for name, values in statistics.arrays().items()}
        beside = self.path.with_name(f"{self.path.name}.tmp")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            save_file(tensors, beside, {"run": json.dumps(self.run), "blocks": str(n_blocks)})
            with beside.open("rb") as file:
                os.fsync(file.fileno())
            beside.replace(self.path)
        finally:
            beside.unlink(missing_ok=True)
        self.last = time.monotonic()

    def finish(self) -> None:
        """Delete the file."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def _tensor(values: Any) -> torch.Tensor:
    if isinstance(values, torch.Tensor):
        return values.cpu().contiguous()
    values = np.ascontiguousarray(values)  # profiles are real and imaginary parts
    return torch.from_numpy(
        values.view("i8") if values.dtype == "u8" else values.view("i2") if values.dtype == "u2" else values
    )


def _back(tensor: torch.Tensor, there: Any) -> Any:
    return tensor if isinstance(there, torch.Tensor) else tensor.numpy().view(there.dtype)
