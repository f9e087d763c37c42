"""How training is run: on which processes, at which precision, what is kept of it.

Lightning does it; its options are set here.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._validate import one_of

if TYPE_CHECKING:
    import torch
    from lightning.pytorch import Trainer

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
        object.__setattr__(self, "loggers", (self.loggers,) if isinstance(self.loggers, str) else tuple(self.loggers))
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
            if value != getattr(default, name) and (name, value) not in (("strategy", "ddp"), ("precision", "float32")):
                msg = (
                    f"`Engine({name}={value!r})` has no meaning here: the set encoder is measured in closed form, in float32. Leave it out, "
                    "or pass `encoder='transformer'`."
                )
                raise ValueError(msg)


@dataclass(frozen=True)
class World:
    """The processes that train together: which one this is, and how many there are, here and on all machines."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    by_slurm: bool = False

    @classmethod
    def from_environment(cls) -> World:
        """What the launcher put into the environment."""

        def number(name: str, default: int) -> int:
            return int(os.environ.get(name, default))

        if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
            rank, size = number("RANK", 0), number("WORLD_SIZE", 1)
            return cls(rank, size, number("LOCAL_RANK", rank), number("LOCAL_WORLD_SIZE", size))
        is_step = os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive") and "SLURM_PROCID" in os.environ
        if is_step and number("SLURM_NTASKS", 1) > 1:
            size, nodes = number("SLURM_NTASKS", 1), number("SLURM_NNODES", 1)
            local = number("SLURM_NTASKS_PER_NODE", size // nodes)
            return cls(number("SLURM_PROCID", 0), size, number("SLURM_LOCALID", 0), local, by_slurm=True)
        return cls()


def make_trainer(
    engine: Engine, world: World, device: torch.device, *, in_bfloat16: bool, callbacks: list[Any], **options: Any
) -> Trainer:
    """A Lightning trainer; `options` are its own."""
    import lightning.pytorch as pl
    from lightning.pytorch.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

    wanted = {"auto": in_bfloat16, "float32": False, "bfloat16": True}[engine.precision]
    plugins: list[Any] = [_atomic_io()]
    devices: Any = [device.index] if device.type == "cuda" and device.index is not None else 1
    strategy: Any = "auto"
    if world.size > 1 or engine.strategy != "auto":
        strategy = _strategy(engine, world, device)
        devices = world.local_size
        if world.by_slurm:
            plugins.append(SLURMEnvironment(auto_requeue=False))
        elif world.size > 1:
            os.environ.setdefault("LOCAL_RANK", str(world.local_rank))
            plugins.append(TorchElasticEnvironment())
    return pl.Trainer(
        accelerator="gpu" if device.type == "cuda" else device.type,
        devices=devices,
        num_nodes=max(world.size // world.local_size, 1),
        strategy=strategy,
        precision="bf16-mixed" if wanted else "32-true",
        callbacks=callbacks,
        logger=_loggers(engine) if engine.log is not None and world.rank == 0 else False,
        log_every_n_steps=1,
        use_distributed_sampler=False,
        plugins=plugins,
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=None if engine.log is None else str(engine.log),
        **options,
    )


def _strategy(engine: Engine, world: World, device: torch.device) -> Any:
    from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy

    backend = "nccl" if device.type == "cuda" else "gloo"
    timeout = timedelta(minutes=engine.timeout)
    if engine.strategy == "fsdp":
        return ModelParallelStrategy(
            data_parallel_size=world.size,
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
            process_group_backend=backend,
            timeout=timeout,
        )
    # Heads without a target in a batch, and the label head, get no gradient.
    return DDPStrategy(process_group_backend=backend, find_unused_parameters=True, timeout=timeout)


def _atomic_io() -> Any:
    """Checkpoints that are there whole or not at all: Lightning's own are moved from another disk."""
    import torch
    from lightning.fabric.plugins import TorchCheckpointIO

    class Atomic(TorchCheckpointIO):
        def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
            with replaced(Path(path)) as beside, beside.open("wb") as file:
                torch.save(checkpoint, file)

    return Atomic()


def _loggers(engine: Engine) -> list[Any]:
    from lightning.pytorch import loggers

    made: list[Any] = []
    for name in engine.loggers:
        try:
            if name == "csv":
                made.append(loggers.CSVLogger(str(engine.log), name=None, version="csv", flush_logs_every_n_steps=20))
            elif name == "tensorboard":
                made.append(loggers.TensorBoardLogger(str(engine.log), name=None, version="tensorboard"))
            else:
                made.append(loggers.WandbLogger(save_dir=str(engine.log)))
        except ModuleNotFoundError as error:
            msg = f"The logger {name!r} needs a package that is not installed ({error}): `pip install {name}`, or leave it out of `loggers`."
            raise ImportError(msg) from error
    return made


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


@contextlib.contextmanager
def naming_lost_processes(engine: Engine) -> Iterator[None]:
    """Say what happened where another process ended."""
    import torch.distributed as dist

    try:
        yield
    except RuntimeError as error:
        of_peers = re.search(r"gloo|NCCL|Connection (closed|reset) by peer|Timed out waiting", str(error))
        if not (dist.is_available() and dist.is_initialized() and of_peers):
            raise
        kept = (
            f"The state of training is kept in {str(engine.state)!r}: start all of them again to go on from it."
            if engine.state is not None
            else "Start all of them again; with `Engine(state=...)` they would go on from where they were."
        )
        msg = f"Another process of this training ended, was killed, or stopped answering: {str(error).splitlines()[0]}. {kept}"
        raise ConnectionError(msg) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hold back what Lightning says about hardware: one was chosen."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        for message in (
            ".*does not have many workers.*",
            ".*The number of training batches.*",
            ".*isinstance\\(treespec, LeafSpec\\).*",
            ".*`srun` command is available.*",
            "Grad strides do not match bucket view strides.*",  # of DDP: costs a copy of a small tensor
            ".*torch.jit.script_method.*",  # of torch.compile itself
            ".*exists and is not empty.*",  # the folder of logs, when training goes on
        ):
            warnings.filterwarnings("ignore", message=message)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
