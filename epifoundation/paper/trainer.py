"""A Lightning trainer for the options of an :class:`epifoundation.Engine`."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..training.engine import Engine
from ..training.processes import World
from ..training.state import replaced

if TYPE_CHECKING:
    import torch
    from lightning.pytorch import Trainer


def make_trainer(
    engine: Engine,
    world: World,
    device: torch.device,
    *,
    in_bfloat16: bool,
    callbacks: list[Any],
    **options: Any,
) -> Trainer:
    """A Lightning trainer with further `options`."""
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
    # Heads without a target in a batch, and the label head, get no gradient
    return DDPStrategy(process_group_backend=backend, find_unused_parameters=True, timeout=timeout)


def _atomic_io() -> Any:
    """Checkpoints written atomically: Lightning's are moved from another disk."""
    import torch
    from lightning.fabric.plugins import TorchCheckpointIO

    class Atomic(TorchCheckpointIO):
        def save_checkpoint(
            self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
        ) -> None:
            with replaced(Path(path)) as temporary, temporary.open("wb") as file:
                torch.save(checkpoint, file)

    return Atomic()


def _loggers(engine: Engine) -> list[Any]:
    from lightning.pytorch import loggers

    made: list[Any] = []
    folder = str(engine.log)
    for name in engine.loggers:
        try:
            if name == "csv":
                made.append(loggers.CSVLogger(folder, None, name, flush_logs_every_n_steps=20))
            elif name == "tensorboard":
                made.append(loggers.TensorBoardLogger(folder, name=None, version=name))
            else:
                made.append(loggers.WandbLogger(save_dir=folder))
        except ModuleNotFoundError as error:
            msg = f"The logger {name!r} needs a package that is not installed ({error}): "
            msg += f"`pip install {name}`, or leave it out of `loggers`."
            raise ImportError(msg) from error
    return made


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence Lightning's remarks about hardware."""
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
            "Grad strides do not match bucket view strides.*",  # DDP copies a small tensor
            ".*torch.jit.script_method.*",  # from torch.compile
            ".*exists and is not empty.*",  # the folder of logs, when training continues
        ):
            warnings.filterwarnings("ignore", message=message)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
