"""How training is run: processes, precision, checkpoints and logs, which Lightning handles."""

from __future__ import annotations

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

    A set encoder, which is measured and not trained, has `state`, `minutes` and `timeout`; the
    other options are for transformers. Its state is the sums over cells so far.

    The number of processes comes from the launcher: ``torchrun`` (or ``python -m
    torch.distributed.run``) or Slurm's ``srun`` with ``--ntasks-per-node``; one without either.

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
        A file to which the whole state of training is written every `minutes` and after each epoch:
        weights, optimiser, schedule, position in the data, random state. If it exists, training
        continues from it, with the same losses as a run without interruption; data, options and
        seed must be the same. None: no file.
    minutes
        Time between two states; 0 for one after each step.
    log
        A folder for `loggers`. None: no logs.
    loggers
        ``"csv"``, ``"tensorboard"``, ``"wandb"``; the last two must be installed.
    timeout
        Minutes after which a process stops waiting for another one that does not answer.

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

    def check_measured(self) -> None:
        """Raise ValueError if an option was given that has no meaning for a set encoder."""
        possible: dict[str, tuple[Any, ...]] = {
            "strategy": ("auto", "ddp"),
            "precision": ("auto", "float32"),
            "compile": (False,),
            "log": (None,),
        }
        for name, values in possible.items():
            if getattr(self, name) not in values:
                msg = f"`Engine({name}={getattr(self, name)!r})` has no meaning here: the set "
                msg += "encoder is measured in closed form, in float32. Leave it out, or pass "
                msg += "`encoder='transformer'`."
                raise ValueError(msg)
