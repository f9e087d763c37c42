"""Work on blocks of cells divided among processes that were started together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor

from ..engine import Engine, World, naming_lost_processes

T = TypeVar("T")


class Processes:
    """Which of the processes this is, and how they put their results together."""

    def __init__(self, world: World) -> None:
        self.rank, self.size = world.rank, world.size

    def mine(self, items: Iterable[T]) -> list[T]:
        """The items that this process works on."""
        return [item for i, item in enumerate(items) if i % self.size == self.rank]

    def add_up(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Sums over all processes; sums of whole numbers, so their order makes no difference."""
        if self.size == 1:
            return dict(tensors)
        import torch.distributed as dist

        found = {name: part.cpu().clone(memory_format=torch.contiguous_format) for name, part in tensors.items()}
        for part in found.values():
            dist.all_reduce(part)
        return found

    def same(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Those of the first process, in all."""
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
        where = None  # torchrun says it
        if world.by_slurm:
            from lightning.pytorch.plugins.environments import SLURMEnvironment

            slurm = SLURMEnvironment(auto_requeue=False)
            where = f"tcp://{slurm.main_address}:{slurm.main_port}"
        timeout = timedelta(minutes=engine.timeout)
        dist.init_process_group("gloo", where, rank=world.rank, world_size=world.size, timeout=timeout)
    try:
        with naming_lost_processes(engine):
            yield Processes(world)
    finally:
        if begins:
            dist.destroy_process_group()
