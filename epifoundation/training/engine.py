"""Processes, precision, checkpoints and logs of training."""

from __future__ import annotations

import glob
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._validate import one_of

STRATEGIES = ("auto", "ddp", "fsdp")
PRECISIONS = ("auto", "float32", "bfloat16")
LOGGERS = ("csv", "tensorboard", "wandb")


@dataclass(frozen=True)
class Engine:
    """How :func:`epifoundation.tl.pretrain` and :func:`epifoundation.tl.finetune` run.

    For a set encoder, only `state`, `minutes` and `timeout` apply; the other options apply to
    transformers only. Its state is the sums over cells so far. Fine-tuning it accepts no `state`.

    The launcher sets the number of processes: ``torchrun`` (``python -m torch.distributed.run``)
    or Slurm's ``srun`` with ``--ntasks-per-node``. Without a launcher, there is one.

    Parameters
    ----------
    strategy
        ``"auto"``: ``"ddp"`` with several processes. ``"ddp"``: each process has the whole model.
        ``"fsdp"``: each has a part of it, for vocabularies too large for one device.
    precision
        ``"auto"``: float32 on a CPU and for the set encoder, bfloat16 for a transformer on a CUDA
        device that supports it. ``"bfloat16"``: Lightning's ``"bf16-mixed"``.
    compile
        Compile the encoder (``torch.compile``), which takes seconds to minutes.
    state
        File to which the training state is saved, every `minutes` and after each epoch. If it
        exists, training resumes from it, with the same losses as a run without interruption. Data,
        options, seed, package version and number of processes must be the same. If None, no state
        is saved.
    minutes
        Minutes between two saves; 0 saves after every step.
    log
        Folder for `loggers`. If None, there are no logs.
    loggers
        ``"csv"``, ``"tensorboard"``, ``"wandb"``; the last two must be installed.
    timeout
        Minutes that a process waits for another one that does not respond.

    Examples
    --------
    >>> import epifoundation as ep
    >>> ep.Engine(strategy="ddp").precision
    'auto'
    """

    strategy: str = "auto"
    precision: str = "auto"
    compile: bool = False
    state: str | Path | None = None
    minutes: float = 10.0
    log: str | Path | None = None
    loggers: tuple[str, ...] = ("csv",)
    timeout: float = 30.0

    def __post_init__(self) -> None:
        one_of(self.strategy, STRATEGIES, "strategy")
        one_of(self.precision, PRECISIONS, "precision")
        names = (self.loggers,) if isinstance(self.loggers, str) else tuple(self.loggers)
        object.__setattr__(self, "loggers", names)
        for name in names:
            one_of(name, LOGGERS, "loggers")
        for name in ("minutes", "timeout"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
                msg = f"`{name}` must be a number of at least 0, got {value!r}."
                raise ValueError(msg)

    @property
    def has_state(self) -> bool:
        """Whether there is a state, of this or of other processes, to resume from."""
        if self.state is None:
            return False
        path = Path(self.state)
        return path.exists() or any(path.parent.glob(f"{glob.escape(path.name)}.[0-9]*"))

    def check_measured(self) -> None:
        """Raise ValueError if an option was given that does not apply to a set encoder."""
        possible: dict[str, tuple[Any, ...]] = {
            "strategy": ("auto", "ddp"),
            "precision": ("auto", "float32"),
            "compile": (False,),
            "log": (None,),
        }
        for name, values in possible.items():
            if getattr(self, name) not in values:
                msg = f"`Engine({name}={getattr(self, name)!r})` does not apply to the set "
                msg += "encoder, which is fitted in closed form, in float32. Leave it out, or pass "
                msg += "`encoder='transformer'`."
                raise ValueError(msg)
