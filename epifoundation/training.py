"""Pretraining on Lightning: the data set, the module, and one function that runs them."""

from __future__ import annotations

import contextlib
import copy
import logging
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import cos, pi
from typing import Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import scipy.sparse as sp
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from .nn import Network, TrainingConfig, balance, has_bfloat16


class Batch(NamedTuple):
    """Some cells: packed tokens, expression target, code of batch and of label (None where there is none)."""

    ids: Tensor
    offsets: Tensor
    target: Tensor | None
    batch: Tensor | None = None
    label: Tensor | None = None


class Cells(Dataset):
    """Cells in memory; a list of rows becomes one :class:`Batch`.

    Parameters
    ----------
    pattern
        Open peaks, (n_cells, n_vocabulary).
    target
        Expression, (n_cells, n_genes), sparse or dense, or None.
    pooling
        Row-stochastic neighbour weights, (n_cells, n_cells): the target of a cell is ``pooling @ target``.
    batch, label
        Code of batch and label of each cell, or None.
    """

    def __init__(
        self,
        pattern: sp.csr_matrix,
        target: sp.csr_matrix | np.ndarray | None = None,
        pooling: sp.csr_matrix | None = None,
        batch: np.ndarray | None = None,
        label: np.ndarray | None = None,
    ) -> None:
        self.pattern, self.target, self.pooling, self.batch, self.label = pattern, target, pooling, batch, label

    def __len__(self) -> int:
        return self.pattern.shape[0]

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        rows = np.asarray(indices)
        tokens = self.pattern[rows]
        return Batch(
            torch.from_numpy(tokens.indices.astype(np.int64)),
            torch.from_numpy(tokens.indptr.astype(np.int64)),
            self._target(rows),
            None if self.batch is None else torch.from_numpy(self.batch[rows]),
            None if self.label is None else torch.from_numpy(self.label[rows]),
        )

    def _target(self, rows: np.ndarray) -> Tensor | None:
        if self.target is None:
            return None
        target = self.target[rows] if self.pooling is None else self.pooling[rows] @ self.target
        dense = target.toarray() if sp.issparse(target) else target  # a batch of cells x genes
        return torch.from_numpy(np.asarray(dense, dtype=np.float32))


class Pretraining(pl.LightningModule):
    """Expression from open peaks, and held-out peaks from the others."""

    takes_last = False  # the last epoch rather than the best
    genes: Tensor | None

    def __init__(self, network: Network, config: TrainingConfig, genes: np.ndarray | None = None) -> None:
        super().__init__()
        self.network = network
        self.hyper = config
        self.register_buffer("genes", None if genes is None else torch.from_numpy(genes), persistent=False)

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Loss on cells of which some peaks are held out."""
        loss = self._loss(batch, hold_out(batch.ids, batch.offsets, self.hyper.peak_dropout))
        self.log("train", loss, on_step=False, on_epoch=True, batch_size=len(batch.offsets) - 1)
        return loss

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
        self.log("validation", loss, prog_bar=True, batch_size=len(batch.offsets) - 1)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW and a schedule; the peak vectors learn more slowly than what reads them."""
        config, encoder = self.hyper, self.network.encoder
        table = encoder.get_submodule(encoder.table)
        peaks = [table.weight] if isinstance(table, nn.Embedding) else []
        others = [p for p in self.parameters() if p.requires_grad and not any(p is peak for peak in peaks)]
        groups = [
            {"params": others, "weight_decay": config.weight_decay},
            {"params": peaks, "weight_decay": 0.0},
        ]
        if config.schedule == "cosine-restarts":
            groups[0]["lr"], groups[1]["lr"] = config.lr, config.lr * config.peak_lr
            optimizer = torch.optim.AdamW(groups)
            restarts = torch.optim.lr_scheduler.LambdaLR(optimizer, warm_restarts)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": restarts, "interval": "epoch"}}
        optimizer = torch.optim.AdamW(groups, lr=config.lr)
        steps = max(int(self.trainer.estimated_stepping_batches), 2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, [config.lr, config.lr * config.peak_lr], total_steps=steps, pct_start=0.15
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
        network = self.network
        peak_loss = embedding.new_zeros(())
        if network.peaks is not None:
            peak_loss = network.peaks.loss(embedding, hidden, cells, batch.batch)
        if batch.target is None or network.expression is None:
            return peak_loss
        weight = self._balance(batch.target, draw=True)
        loss = network.expression.loss(embedding, batch.target, batch.batch, genes=self.genes, weight=weight)
        return loss + self.hyper.peak_weight * peak_loss

    def _balance(self, target: Tensor, *, draw: bool) -> Tensor | None:
        most = self.hyper.balanced_genes
        return None if most is None else balance(target, most, draw=draw)


class KeepBest(pl.Callback):
    """Holds the network of the best epoch, tells of it, and stops when it lies too far back."""

    def __init__(self, patience: int, on_better: Callable[[Network, int], None]) -> None:
        self.patience = patience
        self.on_better = on_better
        self.best: Network | None = None
        self.history: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
        """Compare the epoch that just ended; its validation has been run."""
        losses = {name: float(trainer.callback_metrics[name]) for name in ("train", "validation")}
        if not np.isfinite(losses["validation"]):
            msg = f"Training diverged in epoch {len(self.history)}: losses {losses}. Lower `lr`."
            raise FloatingPointError(msg)
        self.history.append(losses)
        validation = [epoch["validation"] for epoch in self.history]
        best = int(np.argmin(validation))
        if best == len(validation) - 1 or module.takes_last:
            network: Network = copy.deepcopy(module.network).cpu()
            self.best = network
            self.on_better(network, len(validation) - 1)
        elif len(validation) - 1 - best >= self.patience:
            trainer.should_stop = True


@dataclass(frozen=True)
class Fitted:
    """What :func:`fit` gives back: the best network, the losses by epoch, whether it was interrupted."""

    network: Network
    history: list[dict[str, float]]
    interrupted: bool


def fit(
    network: Network,
    train: Cells,
    validation: Cells,
    config: TrainingConfig,
    *,
    seed: int,
    device: torch.device,
    progress: bool,
    genes: np.ndarray | None = None,
    module: Callable[..., Pretraining] = Pretraining,
    on_better: Callable[[Network, int], None] = lambda network, epoch: None,
) -> Fitted:
    """Train what of `network` is to learn by a `module`, and return its best state on the validation cells.

    The caller's random state is left as it was. An interruption (Ctrl-C) after the first epoch ends training
    with the best network so far; before that it is raised.
    """
    keep = KeepBest(config.patience, on_better)
    generator = torch.Generator().manual_seed(seed)
    # An incomplete last batch of very few cells would be a noisy step.
    loaders = (
        DataLoader(
            train,
            batch_size=config.batch_size,
            shuffle=True,
            generator=generator,
            collate_fn=_as_is,
            drop_last=len(train) > config.batch_size,
        ),
        # A transformer holds the states of all tokens of a batch: what fits in training fits here.
        DataLoader(
            validation, batch_size=256 if network.config.encoder == "set" else config.batch_size, collate_fn=_as_is
        ),
    )
    with _quiet(), torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(seed)
        network.train()
        trainer = pl.Trainer(
            accelerator="gpu" if device.type == "cuda" else device.type,
            devices=[device.index] if device.type == "cuda" and device.index is not None else 1,
            precision="bf16-mixed" if _trains_in_bfloat16(network, device) else "32-true",
            max_epochs=config.epochs(len(train), network.config.objective),
            accumulate_grad_batches=config.accumulate,
            gradient_clip_val=1.0,
            callbacks=[keep],
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=progress,
            num_sanity_val_steps=0,
        )
        interrupted = _run(trainer, module(network, config, genes), loaders)
    if keep.best is None:
        raise KeyboardInterrupt
    return Fitted(keep.best.eval().requires_grad_(False), keep.history, interrupted)


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
    return network.config.encoder == "transformer" and has_bfloat16(device)


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


def _run(trainer: pl.Trainer, module: Pretraining, loaders: tuple[DataLoader, DataLoader]) -> bool:
    """Fit; True when it was interrupted.

    Lightning turns Ctrl-C into SystemExit and leaves the process deaf to any further one. Here the session goes on.
    """
    from lightning.pytorch.trainer.states import TrainerStatus

    try:
        handler = signal.getsignal(signal.SIGINT)
        trainer.fit(module, *loaders)
    except SystemExit:
        if trainer.state.status != TrainerStatus.INTERRUPTED:
            raise
        signal.signal(signal.SIGINT, handler)
        return True
    return False


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what Lightning says about workers and hardware: the cells are in memory, one device was chosen."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*The number of training batches.*")
        warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\).*")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _as_is(batch: Any) -> Any:
    return batch
