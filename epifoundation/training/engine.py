"""How training is run: on which processes, at which precision, what is kept of it.

Lightning does it; its options are set here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .._validate import one_of

STRATEGIES = ("auto", "ddp", "fsdp")
PRECISIONS = ("auto", "float32", "bfloat16")
LOGGERS = ("csv", "tensorboard", "wandb")


@dataclass(frozen=True)
class Engine:
    """How :func:`epifoundation.tl.pretrain` and :func:`epifoundation.tl.finetune` run.

    A set encoder, which is measured and not trained, has `state`, `minutes` and `timeout`; the other options are of
    transformers. Its state is the sums over cells so far.

    How many processes there are is told by what started them: ``torchrun`` (or ``python -m torch.distributed.run``) or Slurm's ``srun``
    with ``--ntasks-per-node``; without either there is one.

    Parameters
    ----------
    strategy
        ``"auto"``: ``"ddp"`` with several processes. ``"ddp"``: each process holds the whole model. ``"fsdp"``: each holds a part of it, for
        vocabularies that are too large for one device.
    precision
        ``"auto"``: float32 on a CPU and for the set encoder, bfloat16 for a transformer on a CUDA device that has it. ``"bfloat16"``: what
        Lightning calls ``"bf16-mixed"``.
    compile
        Compile the encoder (``torch.compile``): takes seconds to minutes first.
    state
        A file that gets the whole state of training every `minutes` and after each epoch: weights, optimiser, schedule, position in the
        data, random state. Where it is there already, training goes on from it, which gives the losses of a run without interruption;
        data, options and seed must be the same. None: no file.
    minutes
        Between two states; 0 for one after each step.
    log
        A folder for `loggers`. None: no logs.
    loggers
        What to log to: ``"csv"``, ``"tensorboard"``, ``"wandb"``; the last two must be installed.
    timeout
        Minutes after which a process gives up waiting for another one that does not answer.

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
        object.__setattr__(
            self,
            "loggers",
            (self.loggers,) if isinstance(self.loggers, str) else tuple(self.loggers),
        )
        for name in self.loggers:
            one_of(name, LOGGERS, "loggers")
        for name in ("minutes", "timeout"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
                msg = f"`{name}` must be a number of at least 0, got {value!r}."
                raise ValueError(msg)

    def check_measured(self) -> None:
        """Raise ValueError if an option was given that has no meaning for a set encoder, which is not trained by gradient."""
        default = Engine()
        for name in ("strategy", "precision", "compile", "log"):
            value = getattr(self, name)
            if value != getattr(default, name) and (name, value) not in (
                ("strategy", "ddp"),
                ("precision", "float32"),
            ):
                msg = (
                    f"`Engine({name}={value!r})` has no meaning here: the set encoder is measured in closed form, in float32. Leave it out, "
                    "or pass `encoder='transformer'`."
                )
                raise ValueError(msg)
