"""Pretraining on Lightning: the module, what is kept while it runs, and one function that runs it."""

from __future__ import annotations

import copy
import signal
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, cos, pi
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from ..engine import Clock, Engine, World, make_trainer, quiet, told_of_processes
from ..nn import Network, PeakHead, TrainingConfig, TransformerEncoder, balance, has_bfloat16
from .minibatches import Batch, Loader, MinibatchCells, in_order

PEAK_CELLS = 8  # of a batch, whose held-out peaks are predicted beside expression


class Pretraining(pl.LightningModule):
    """Expression from open peaks, and held-out peaks from the others."""

    genes: Tensor | None

    def __init__(self, network: Network, config: TrainingConfig, genes: np.ndarray | None = None) -> None:
        super().__init__()
        self.network = network
        self.hyper = config
        self.steps = 2  # of the schedule
        self.summed = [0.0, 0.0]  # loss of the cells of this epoch, and how many they are
        self.is_sharded = False
        self.register_buffer("genes", None if genes is None else torch.from_numpy(genes), persistent=False)
        # What does not learn is known before processes share their gradients.
        self.peak_rate = config.peak_lr if config.peak_lr is not None else 0.05
        if not self.peak_rate:
            for weight in peak_tables(network):
                weight.requires_grad_(False)

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Loss on cells of which some peaks are held out."""
        loss = self._loss(batch, hold_out(batch.ids, batch.offsets, self.hyper.peak_dropout))
        n_cells = len(batch.offsets) - 1
        self.summed = [self.summed[0] + float(loss.detach()) * n_cells, self.summed[1] + n_cells]
        if self.trainer.loggers:
            self.log("loss", loss, on_step=True, on_epoch=False, batch_size=n_cells)
        return loss

    def on_train_epoch_start(self) -> None:
        """Tell the loader, whose first batch is not read yet, which epoch it is."""
        cast("Loader", self.trainer.train_dataloader).epoch = self.current_epoch

    def configure_model(self) -> None:
        """Spread the weights over the processes, where the strategy wants that."""
        mesh = self.device_mesh
        if mesh is None or self.is_sharded:
            return
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        self.is_sharded = True
        fully_shard(self.network.encoder, mesh=mesh["data_parallel"])
        fully_shard(self, mesh=mesh["data_parallel"])
        for name in ("training_step", "validation_step"):
            register_fsdp_forward_method(self, name)

    def on_validation_start(self) -> None:
        """Running statistics of the first process in all, which nothing else does where weights are spread."""
        if self.is_sharded:
            for buffer in self.buffers():
                torch.distributed.broadcast(buffer, 0)

    def validation_step(self, batch: Batch, _: int) -> None:
        """The expression loss of whole cells; without RNA, the loss of every other peak."""
        head = self.network.expression
        if batch.target is None or head is None:
            # The same peaks each time, so that epochs can be compared.
            every_other = torch.arange(len(batch.ids), device=batch.ids.device) % 2 == 0
            loss = self._loss(batch, keep_one(every_other, batch.offsets))
        else:
            embedding = self.network.encode(batch.ids, batch.offsets)
            weight = self._balance(batch.target, draw=False)
            loss = head.loss(embedding, batch.target, batch.batch, genes=self.genes, weight=weight)
        self.log("validation", loss, prog_bar=True, batch_size=len(batch.offsets) - 1, sync_dist=True)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW and a schedule; the peak vectors learn at a rate of their own."""
        config, rate = self.hyper, self.peak_rate
        peaks = [weight for weight in peak_tables(self.network) if weight.requires_grad]
        others = [p for p in self.parameters() if p.requires_grad and not any(p is peak for peak in peaks)]
        groups = [
            {"params": others, "weight_decay": config.weight_decay},
            {"params": peaks, "weight_decay": 0.0},
        ]
        if config.schedule == "cosine-restarts":
            groups[0]["lr"], groups[1]["lr"] = config.lr, config.lr * rate
            optimizer = torch.optim.AdamW(groups)
            restarts = torch.optim.lr_scheduler.LambdaLR(optimizer, warm_restarts)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": restarts, "interval": "epoch"}}
        optimizer = torch.optim.AdamW(groups, lr=config.lr)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, [config.lr, config.lr * rate], total_steps=self.steps, pct_start=0.15
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _loss(self, batch: Batch, keep: Tensor) -> Tensor:
        """Loss of the cells given their peaks where `keep`; the other peaks are predicted."""
        network = self.network
        cells = torch.repeat_interleave(batch.offsets.diff())
        kept = torch.cat([batch.offsets.new_zeros(1), torch.bincount(cells[keep], minlength=len(batch.offsets) - 1)])
        embedding = network.dropout(network.encode(batch.ids[keep], kept.cumsum(0)))
        return self._read_off(embedding, batch, batch.ids[~keep], cells[~keep])

    def _read_off(self, embedding: Tensor, batch: Batch, hidden: Tensor, cells: Tensor) -> Tensor:
        """Loss of what the heads say; `hidden` peaks are those of the rows `cells` of the embedding."""
        network, peaks = self.network, cast("PeakHead | None", self.network.peaks)
        if batch.target is None or network.expression is None:
            return embedding.sum() * 0 if peaks is None else peaks.loss(embedding, hidden, cells, batch.batch)
        weight = self._balance(batch.target, draw=True)
        loss = network.expression.loss(embedding, batch.target, batch.batch, genes=self.genes, weight=weight)
        if peaks is None or not self.hyper.peak_weight:
            return loss
        # Logits of all peaks cost more than all else together, and here they are not the main thing: some of the cells do.
        some = cells < PEAK_CELLS
        of_batch = None if batch.batch is None else batch.batch[:PEAK_CELLS]
        peak_loss = peaks.loss(embedding[:PEAK_CELLS], hidden[some], cells[some], of_batch)
        return loss + self.hyper.peak_weight * peak_loss

    def _balance(self, target: Tensor, *, draw: bool) -> Tensor | None:
        most = self.hyper.balanced_genes
        return None if most is None else balance(target, most, draw=draw)


class KeepBest(pl.Callback):
    """Holds the weights of the best epoch, tells of them, and stops when it lies too far back."""

    def __init__(self, like: Network, patience: int, on_better: Callable[[Network, int], None]) -> None:
        self.like = like
        self.patience = patience
        self.on_better = on_better
        self.best: dict[str, Tensor] | None = None
        self.history: list[dict[str, float]] = []

    @property
    def network(self) -> Network:
        """The network of the best epoch."""
        network = copy.deepcopy(self.like)
        network.load_state_dict(self.best or {})
        return network

    def on_train_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
        """Compare the epoch that just ended; its validation has been run."""
        total = trainer.strategy.reduce(torch.tensor(module.summed, device=module.device), reduce_op="sum")
        module.summed = [0.0, 0.0]
        losses = {"train": float(total[0] / total[1]), "validation": float(trainer.callback_metrics["validation"])}
        if not np.isfinite(losses["validation"]):
            msg = f"Training diverged in epoch {len(self.history)}: losses {losses}. Lower `lr`."
            raise FloatingPointError(msg)
        for logger in trainer.loggers:
            logger.log_metrics({"train": losses["train"], "epoch": len(self.history)}, step=trainer.global_step)
        self.history.append(losses)
        validation = [epoch["validation"] for epoch in self.history]
        best = int(np.argmin(validation))
        if best == len(validation) - 1:
            self.best = {name: _whole(tensor) for name, tensor in module.network.state_dict().items()}
            self.on_better(self.network, len(validation) - 1)
        elif len(validation) - 1 - best >= self.patience:
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"history": self.history, "best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.history, self.best = state_dict["history"], state_dict["best"]


class KeepState(pl.Callback):
    """Keeps the whole state of training in a file, from time to time; comes after :class:`KeepBest`.

    `of`: what the run is of. The state of another run is an error.
    """

    def __init__(self, path: Path, minutes: float, of: dict[str, Any]) -> None:
        self.path, self.clock, self.of = path, Clock(minutes), of
        self.found: list[dict[str, Any]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Keep it where it is time: not between batches whose gradients are summed, nor before the last validation of an epoch."""
        is_step = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if is_step and batch_idx + 1 < trainer.num_training_batches and self.clock.is_due(trainer):
            self._keep(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
        """Keep it."""
        self._keep(trainer)

    def _keep(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(self.path)
        self.clock.start()

    def on_save_checkpoint(self, trainer: pl.Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        """Add what differs between processes: the random state, and the losses of the epoch so far."""
        mine = {"random": torch.get_rng_state(), "summed": module.summed}
        if module.device.type == "cuda":
            mine["cuda"] = torch.cuda.get_rng_state(module.device)
        checkpoint["epifoundation"] = {"of": self.of, "processes": _gathered(mine)}

    def check(self) -> None:
        """Raise where there is the state of another run, or no state."""
        if not self.path.exists():
            return
        try:
            content = torch.load(self.path, weights_only=True, mmap=True, map_location="cpu")
            there = content["epifoundation"]["of"]
        except (UnpicklingError, KeyError, EOFError, RuntimeError) as error:
            msg = f"{str(self.path)!r} is no state of training, or is damaged ({str(error).splitlines()[0]}): delete it, or name another `state`."
            raise ValueError(msg) from error
        differ = [name for name in {**there, **self.of} if there.get(name) != self.of.get(name)]
        if differ:
            name = differ[0]
            msg = (
                f"{str(self.path)!r} is the state of another run: {name} was {there.get(name)!r}, is {self.of.get(name)!r}. Go on with the "
                "data, the options and the seed that it began with, delete it, or name another `state`."
            )
            raise ValueError(msg)

    def on_load_checkpoint(self, trainer: pl.Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        """Take what differs between processes."""
        self.found = checkpoint["epifoundation"]["processes"]

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        """Take up the random state, after all else that draws from it."""
        self.clock.start()
        if self.found:
            mine = self.found[trainer.global_rank]
            torch.set_rng_state(mine["random"])
            module.summed = mine["summed"]
            if "cuda" in mine:
                torch.cuda.set_rng_state(mine["cuda"], module.device)


@dataclass(frozen=True)
class Fitted:
    """What :func:`fit` gives back: the best network, the losses by epoch, and whether it was interrupted."""

    network: Network
    history: list[dict[str, float]]
    interrupted: bool


def fit(
    network: Network,
    train: Callable[[int, int, World], Loader],
    validation: MinibatchCells,
    config: TrainingConfig,
    *,
    n_cells: int,
    seed: int,
    device: torch.device,
    progress: bool,
    of: dict[str, Any],
    engine: Engine | None = None,
    genes: np.ndarray | None = None,
    module: Callable[..., Pretraining] = Pretraining,
    on_better: Callable[[Network, int], None] = lambda network, epoch: None,
) -> Fitted:
    """Train what of `network` is to learn by a `module`, and return its best state on the validation cells.

    `train`: what makes a loader of batch size, seed and processes. `of`: what the run is of, for its state.
    The caller's random state is left as it was. An interruption (Ctrl-C) after the first epoch ends training
    with the best network so far; before that it is raised.
    """
    engine, world = engine or Engine(), World.told()
    _check_shares(config, world, n_cells, len(validation))
    keep = KeepBest(copy.deepcopy(network).cpu(), config.patience, on_better)
    callbacks: list[Any] = [keep]
    state = None if engine.state is None else Path(engine.state)
    if state is not None:
        keep_state = KeepState(state, engine.minutes, of | {"processes": world.size, "strategy": engine.strategy})
        keep_state.check()
        callbacks.append(keep_state)
    loaders = (
        train(config.batch_size, seed, world),
        in_order(validation, config.batch_size, world),
    )
    n_epochs = config.epochs(n_cells)
    with quiet(), torch.random.fork_rng(), torch.enable_grad(), told_of_processes(engine):
        torch.manual_seed(seed + world.rank)
        network.train()
        if engine.compile:
            network.encoder.compile()
        trainer = make_trainer(
            engine,
            world,
            device,
            in_bfloat16=_trains_in_bfloat16(network, device),
            callbacks=callbacks,
            max_epochs=n_epochs,
            accumulate_grad_batches=config.accumulate,
            gradient_clip_val=1.0,
            enable_progress_bar=progress and world.rank == 0,
        )
        trained = module(network, config, genes)
        # Lightning's own count of them would look at the loader before its position is restored.
        trained.steps = max(ceil(len(loaders[0]) / config.accumulate) * n_epochs, 2)
        interrupted = _run(trainer, trained, loaders, state if state is not None and state.exists() else None)
    if keep.best is None:
        raise KeyboardInterrupt
    return Fitted(keep.network.eval().requires_grad_(False), keep.history, interrupted)


def _check_shares(config: TrainingConfig, world: World, n_cells: int, n_held: int) -> None:
    """Raise where there are more processes than cells for them."""
    for what, n in (
        ("cells of a batch (`batch_size`)", config.batch_size),
        ("training cells", n_cells),
        ("validation cells", n_held),
    ):
        if world.size > n:
            msg = f"There are {world.size:,} processes and {n:,} {what}: start fewer."
            raise ValueError(msg)


def _whole(tensor: Tensor) -> Tensor:
    """A copy on the CPU, of all its parts."""
    full = getattr(tensor, "full_tensor", None)  # of FSDP
    return (tensor if full is None else full()).detach().cpu().clone()


def _gathered(mine: dict[str, Any]) -> list[dict[str, Any]]:
    """What each of the processes has."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return [mine]
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, mine)
    return parts


def warm_restarts(epoch: int, first: int = 15, warm_up: int = 5, decay: float = 0.9, least: float = 0.01) -> float:
    """Learning rate in `epoch`, as a fraction of the largest: the paper's cosine with warm restarts.

    A cycle rises from `least` in `warm_up` epochs and falls back along a cosine; the next one falls for twice as long from
    `decay` of the height.
    """
    height, fall = 1.0, first - warm_up
    while epoch >= warm_up + fall:
        epoch, fall, height = epoch - warm_up - fall, 2 * fall, decay * height
    if epoch < warm_up:
        return least + (height - least) * epoch / warm_up
    return least + (height - least) * (1 + cos(pi * (epoch - warm_up) / fall)) / 2


def _trains_in_bfloat16(network: Network, device: torch.device) -> bool:
    """Where the attention over packed cells has a kernel for it."""
    return has_bfloat16(device)


def peak_tables(network: Network) -> list[Tensor]:
    """The vectors of peaks, where they are a table of numbers to learn."""
    table = network.encoder.get_submodule(TransformerEncoder.table)
    return [table.weight] if isinstance(table, nn.Embedding) else []


def hold_out(ids: Tensor, offsets: Tensor, most: float) -> Tensor:
    """Draw for each cell a rate below `most` and hold its peaks out at that rate: a mask of those kept."""
    lengths = offsets.diff()
    rates = torch.rand(len(lengths), device=ids.device) * most
    keep = torch.rand(len(ids), device=ids.device) >= torch.repeat_interleave(rates, lengths)
    return keep_one(keep, offsets)


def keep_one(keep: Tensor, offsets: Tensor) -> Tensor:
    """Keep the first peak of each cell that would lose them all."""
    counts = torch.zeros(len(keep) + 1, dtype=torch.long, device=keep.device)
    counts[1:] = keep.cumsum(0)
    emptied = counts[offsets[1:]] == counts[offsets[:-1]]
    keep = keep.clone()
    keep[offsets[:-1][emptied]] = True
    return keep


def _run(trainer: pl.Trainer, module: Pretraining, loaders: tuple[Loader, Loader], state: Path | None) -> bool:
    """Fit; True when it was interrupted.

    Lightning turns Ctrl-C into SystemExit and leaves the process deaf to any further one. Here the session goes on.
    """
    from lightning.pytorch.trainer.states import TrainerStatus
    from lightning.pytorch.utilities.exceptions import SIGTERMException

    try:
        handler = signal.getsignal(signal.SIGINT)
        trainer.fit(module, *loaders, ckpt_path=state)
    except SIGTERMException as error:  # which would end the process as if all were well
        raise SystemExit(128 + signal.SIGTERM) from error
    except SystemExit:
        if trainer.state.status != TrainerStatus.INTERRUPTED:
            raise
        signal.signal(signal.SIGINT, handler)
        return True
    return False
