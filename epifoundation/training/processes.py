"""Blocks of cells divided among processes that were started together."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor

from .engine import Engine

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """Rank of this process and number of processes, on this machine and on all of them."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    by_slurm: bool = False

    @classmethod
    def from_environment(cls) -> World:
        """Read from the environment that the launcher has set."""

        def number(name: str, default: int) -> int:
            return int(os.environ.get(name, default))

        if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
            rank, size = number("RANK", 0), number("WORLD_SIZE", 1)
            return cls(rank, size, number("LOCAL_RANK", rank), number("LOCAL_WORLD_SIZE", size))
        is_interactive = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
        size, nodes = number("SLURM_NTASKS", 1), number("SLURM_NNODES", 1)
        if "SLURM_PROCID" in os.environ and not is_interactive and size > 1:
            rank, local_rank = number("SLURM_PROCID", 0), number("SLURM_LOCALID", 0)
            local_size = number("SLURM_NTASKS_PER_NODE", size // nodes)
            return cls(rank, size, local_rank, local_size, by_slurm=True)
        return cls()


class Processes:
    """Divides items among the processes, and combines their results."""

    def __init__(self, world: World) -> None:
        self.rank, self.size = world.rank, world.size

    def mine(self, items: Iterable[T]) -> list[T]:
        """The items of this process."""
        return [item for i, item in enumerate(items) if i % self.size == self.rank]

    def add_up(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Sums over all processes; of integers, so their order makes no difference."""
        if self.size == 1:
            return dict(tensors)
        import torch.distributed as dist

        found = {
            name: part.cpu().clone(memory_format=torch.contiguous_format)
            for name, part in tensors.items()
        }
        for part in found.values():
            dist.all_reduce(part)
        return found

    def same(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of the first process, in all of them."""
        if self.size > 1:
            import torch.distributed as dist

            for name in sorted(tensors):
                tensors[name] = tensors[name].contiguous()
                dist.broadcast(tensors[name], 0)
        return tensors


@contextmanager
def connected(engine: Engine, world: World) -> Iterator[Processes]:
    """The processes, connected while they work together."""
    import torch.distributed as dist

    if world.size == 1:
        yield Processes(world)
        return
    begins = not dist.is_initialized()
    if begins:
        where = None  # set by torchrun
        if world.by_slurm:
            from lightning.pytorch.plugins.environments import SLURMEnvironment

            slurm = SLURMEnvironment(auto_requeue=False)
            where = f"tcp://{slurm.main_address}:{slurm.main_port}"
        timeout = timedelta(minutes=engine.timeout)
        dist.init_process_group(
            "gloo", where, rank=world.rank, world_size=world.size, timeout=timeout
        )
    try:
        with naming_lost_processes(engine):
            yield Processes(world)
    finally:
        if begins:
            dist.destroy_process_group()


@contextmanager
def naming_lost_processes(engine: Engine) -> Iterator[None]:
    """Raise ConnectionError with the reason if another process ended."""
    import torch.distributed as dist

    try:
        yield
    except RuntimeError as error:
        pattern = r"gloo|NCCL|Connection (closed|reset) by peer|Timed out waiting"
        is_connected = dist.is_available() and dist.is_initialized()
        if not is_connected or not re.search(pattern, str(error)):
            raise
        msg = "Another process of this training ended, was killed, or stopped answering: "
        msg += f"{str(error).splitlines()[0]}. Start all processes again"
        if engine.state is None:
            msg += "; with `Engine(state=...)` they would continue where they stopped."
        else:
            msg += f": they continue from the state of training in {str(engine.state)!r}."
        raise ConnectionError(msg) from error
