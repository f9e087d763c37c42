"""Callbacks of training: the best weights, and the state of training."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor

from ..nn import Network
from ..training.state import Clock, check_run
from .pretraining import gathered


class KeepBest(pl.Callback):
    """Keeps the weights of the best epoch, and stops after `patience` epochs without a better one.

    `template` is a network of the same configuration; `on_better` is called with network and number
    of each epoch that is the best so far.
    """

    def __init__(
        self, template: Network, patience: int, on_better: Callable[[Network, int], None]
    ) -> None:
        self.template = template
        self.patience = patience
        self.on_better = on_better
        self.best: dict[str, Tensor] | None = None
        self.history: list[dict[str, float]] = []

    @property
    def network(self) -> Network:
        """The network of the best epoch."""
        network = copy.deepcopy(self.template)
        network.load_state_dict(self.best or {})
        return network

    def on_train_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
        """Compare the epoch that just ended, which is validated already."""
        summed = torch.tensor(module.summed, device=module.device)
        total = trainer.strategy.reduce(summed, reduce_op="sum")
        module.summed = [0.0, 0.0]
        losses = {
            "train": float(total[0] / total[1]),
            "validation": float(trainer.callback_metrics["validation"]),
        }
        if not np.isfinite(losses["validation"]):
            msg = f"Training diverged in epoch {len(self.history)}: losses {losses}. Lower `lr`."
            raise FloatingPointError(msg)
        for logger in trainer.loggers:
            metrics = {"train": losses["train"], "epoch": len(self.history)}
            logger.log_metrics(metrics, step=trainer.global_step)
        self.history.append(losses)
        validation = [epoch["validation"] for epoch in self.history]
        best = int(np.argmin(validation))
        if best == len(validation) - 1:
            state = module.network.state_dict()
            self.best = {name: _whole(tensor) for name, tensor in state.items()}
            self.on_better(self.network, len(validation) - 1)
        elif len(validation) - 1 - best >= self.patience:
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint."""
        return {"history": self.history, "best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.history, self.best = state_dict["history"], state_dict["best"]


class KeepState(pl.Callback):
    """Writes the state of training to a file periodically; comes after :class:`KeepBest`.

    `run` identifies the run, in plain types. The state of another run is an error.
    """

    def __init__(self, path: Path, minutes: float, run: dict[str, Any]) -> None:
        self.path, self.clock, self.run = path, Clock(minutes), run
        self.found: list[dict[str, Any]] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write it if it is time.

        Not between batches whose gradients are summed, nor before the validation of an epoch.
        """
        is_step = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if not is_step or batch_idx + 1 >= trainer.num_training_batches:
            return
        if trainer.strategy.broadcast(self.clock.is_due()):  # the first process decides for all
            self._save(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
        """Write it."""
        self._save(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(self.path)
        self.clock.start()

    def on_save_checkpoint(
        self, trainer: pl.Trainer, module: Any, checkpoint: dict[str, Any]
    ) -> None:
        """Add what differs between processes: random state, and losses of the epoch so far."""
        mine = {"random": torch.get_rng_state(), "summed": module.summed}
        if module.device.type == "cuda":
            mine["cuda"] = torch.cuda.get_rng_state(module.device)
        checkpoint["epifoundation"] = {"run": self.run, "processes": gathered(mine)}

    def check(self) -> None:
        """Raise ValueError if the file is the state of another run, or not a state."""
        if not self.path.exists():
            return
        try:
            content = torch.load(self.path, weights_only=True, mmap=True, map_location="cpu")
            there = content["epifoundation"]["run"]
        except (UnpicklingError, KeyError, EOFError, RuntimeError) as error:
            msg = f"{str(self.path)!r} is not a state of training, or is damaged "
            msg += f"({str(error).splitlines()[0]}): delete it, or name another `state`."
            raise ValueError(msg) from error
        check_run(self.path, there, self.run)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, module: Any, checkpoint: dict[str, Any]
    ) -> None:
        """Read what differs between processes."""
        self.found = checkpoint["epifoundation"]["processes"]

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        """Set the random state, after all other draws."""
        self.clock.start()
        if self.found:
            mine = self.found[trainer.global_rank]
            torch.set_rng_state(mine["random"])
            module.summed = mine["summed"]
            if "cuda" in mine:
                torch.cuda.set_rng_state(mine["cuda"], module.device)


def _whole(tensor: Tensor) -> Tensor:
    """A copy of a tensor on the CPU, gathered from all processes."""
    full = getattr(tensor, "full_tensor", None)  # with FSDP
    return (tensor if full is None else full()).detach().cpu().clone()
