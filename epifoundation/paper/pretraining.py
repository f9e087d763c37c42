"""The losses of a transformer, as a Lightning module."""

from __future__ import annotations

from math import cos, pi
from typing import Any, cast

import lightning.pytorch as pl
import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from ..nn import ENCODER, Network, PeakHead, TrainingConfig, TransformerEncoder, balance
from ..training.label_head import balanced_weights
from .minibatches import Batch, Loader

TEMPERATURES = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)  # of the logits of labels
PEAK_CELLS = 8  # of a batch, whose held-out peaks are predicted in addition to expression


class Pretraining(pl.LightningModule):
    """Expression from open peaks, held-out peaks from the others and, in fine-tuning, labels.

    The classifier of labels is used in training only. With labels, the validation loss is their
    cross-entropy at the best temperature: confidence is calibrated afterwards. `genes` are the
    positions of the genes of the data, None for all of the network; `label_counts` are the numbers
    of training cells of each label, None without labels.
    """

    genes: Tensor | None
    label_weights: Tensor | None

    def __init__(
        self,
        network: Network,
        training: TrainingConfig,
        genes: np.ndarray | None = None,
        label_counts: np.ndarray | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.options = training
        self.steps = 2  # of the schedule
        self.summed = [0.0, 0.0]  # sum of losses over the cells of this epoch, and their number
        self.is_sharded = False
        positions = None if genes is None else torch.from_numpy(genes)
        self.register_buffer("genes", positions, persistent=False)
        # Parameters are frozen before processes share their gradients
        self.peak_rate = training.peak_lr if training.peak_lr is not None else 0.05
        if not self.peak_rate:
            for weight in peak_tables(network):
                weight.requires_grad_(False)
        self.classifier, weights = None, None
        if label_counts is not None:
            self.classifier = nn.Linear(network.config.width, len(label_counts))
            balanced = balanced_weights(label_counts, training.label_balance)
            weights = torch.from_numpy(balanced.astype(np.float32))
        self.register_buffer("label_weights", weights, persistent=False)
        self.classified: list[tuple[Tensor, Tensor]] = []

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Loss on cells of which some peaks are held out."""
        loss = self._loss(batch, hold_out(batch.ids, batch.offsets, self.options.peak_dropout))
        n_cells = len(batch.offsets) - 1
        self.summed = [self.summed[0] + float(loss.detach()) * n_cells, self.summed[1] + n_cells]
        if self.trainer.loggers:
            self.log("loss", loss, on_step=True, on_epoch=False, batch_size=n_cells)
        return loss

    def on_train_epoch_start(self) -> None:
        """Set the epoch of the loader, whose first batch is not read yet."""
        cast("Loader", self.trainer.train_dataloader).epoch = self.current_epoch

    def configure_model(self) -> None:
        """Shard the weights over the processes, if the strategy does."""
        mesh = self.device_mesh
        if mesh is None or self.is_sharded:
            return
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        self.is_sharded = True
        fully_shard(self.network.get_submodule(ENCODER), mesh=mesh["data_parallel"])
        fully_shard(self, mesh=mesh["data_parallel"])
        for name in ("training_step", "validation_step"):
            register_fsdp_forward_method(self, name)

    def on_validation_start(self) -> None:
        """With sharded weights, use the running statistics of the first process in all."""
        if self.is_sharded:
            for buffer in self.buffers():
                torch.distributed.broadcast(buffer, 0)

    def validation_step(self, batch: Batch, _: int) -> None:
        """The loss of labels or expression of whole cells; without both, of every other peak."""
        head = self.network.expression
        if self.classifier is not None and batch.label is not None:
            known = batch.label >= 0
            logits = self.classifier(self.network.encode(batch.ids, batch.offsets))
            self.classified.append((logits[known], batch.label[known]))
            return
        if batch.target is None or head is None:
            # The same peaks each time, so that epochs can be compared
            every_other = torch.arange(len(batch.ids), device=batch.ids.device) % 2 == 0
            loss = self._loss(batch, keep_one(every_other, batch.offsets))
        else:
            embedding = self.network.encode(batch.ids, batch.offsets)
            weight = self._balance(batch.target, draw=False)
            loss = head.loss(embedding, batch.target, batch.batch, genes=self.genes, weight=weight)
        self.log(
            "validation", loss, prog_bar=True, batch_size=len(batch.offsets) - 1, sync_dist=True
        )

    def on_validation_epoch_end(self) -> None:
        """Cross-entropy of the labels at the best temperature."""
        if not self.classified:
            return
        parts = [torch.cat(each) for each in zip(*self.classified, strict=True)]
        self.classified.clear()
        logits, labels = (
            torch.cat([each.to(part.device) for each in gathered(part.cpu())]) for part in parts
        )
        loss = min(F.cross_entropy(logits / temperature, labels) for temperature in TEMPERATURES)
        self.log("validation", loss, prog_bar=True, sync_dist=True)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW and a schedule; the peak vectors have another rate."""
        config, rate = self.options, self.peak_rate
        peaks = [weight for weight in peak_tables(self.network) if weight.requires_grad]
        trained = [p for p in self.parameters() if p.requires_grad]
        others = [p for p in trained if not any(p is peak for peak in peaks)]
        groups = [
            {"params": others, "weight_decay": config.weight_decay},
            {"params": peaks, "weight_decay": 0.0},
        ]
        if config.schedule == "cosine-restarts":
            groups[0]["lr"], groups[1]["lr"] = config.lr, config.lr * rate
            optimizer = torch.optim.AdamW(groups)
            restarts = torch.optim.lr_scheduler.LambdaLR(optimizer, warm_restarts)
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": restarts, "interval": "epoch"},
            }
        optimizer = torch.optim.AdamW(groups, lr=config.lr)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, [config.lr, config.lr * rate], total_steps=self.steps, pct_start=0.15
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _loss(self, batch: Batch, keep: Tensor) -> Tensor:
        """Loss of the cells given the peaks in the mask `keep`; the other peaks are predicted."""
        network, zero = self.network, batch.offsets.new_zeros(1)
        cells = torch.repeat_interleave(batch.offsets.diff())
        counts = torch.bincount(cells[keep], minlength=len(batch.offsets) - 1)
        offsets = torch.cat([zero, counts]).cumsum(0)
        embedding = network.dropout(network.encode(batch.ids[keep], offsets))
        loss = self._loss_of_heads(embedding, batch, batch.ids[~keep], cells[~keep])
        return loss + self._loss_of_labels(embedding, batch.label)

    def _loss_of_labels(self, embedding: Tensor, labels: Tensor | None) -> Tensor | float:
        if self.classifier is None or labels is None:
            return 0.0
        logits, known, options = self.classifier(embedding), labels >= 0, self.options
        loss = 0 * logits.sum()  # a gradient is needed even if no cell has a label
        if known.any():
            loss = F.cross_entropy(
                logits[known],
                labels[known],
                self.label_weights,
                label_smoothing=options.label_smoothing,
            )
        return options.label_weight * loss

    def _loss_of_heads(
        self, embedding: Tensor, batch: Batch, hidden: Tensor, cells: Tensor
    ) -> Tensor:
        """Loss of the heads; `hidden` are held-out peaks of the rows `cells` of the embedding."""
        network, peaks = self.network, cast("PeakHead | None", self.network.peaks)
        if batch.target is None or network.expression is None:
            if peaks is None:
                return embedding.sum() * 0
            return peaks.loss(embedding, hidden, cells, batch.batch)
        weight = self._balance(batch.target, draw=True)
        loss = network.expression.loss(
            embedding, batch.target, batch.batch, genes=self.genes, weight=weight
        )
        if peaks is None or not self.options.peak_weight:
            return loss
        # Logits of all peaks cost more than the rest of the step: some of the cells are enough
        some = cells < PEAK_CELLS
        of_batch = None if batch.batch is None else batch.batch[:PEAK_CELLS]
        peak_loss = peaks.loss(embedding[:PEAK_CELLS], hidden[some], cells[some], of_batch)
        return loss + self.options.peak_weight * peak_loss

    def _balance(self, target: Tensor, *, draw: bool) -> Tensor | None:
        max_genes = self.options.balanced_genes
        return None if max_genes is None else balance(target, max_genes, draw=draw)


def warm_restarts(
    epoch: int, first: int = 15, warm_up: int = 5, decay: float = 0.9, low: float = 0.01
) -> float:
    """Learning rate, as a fraction of the largest: the paper's cosine with warm restarts.

    A cycle rises from `low` in `warm_up` epochs and falls back along a cosine; the next one falls
    for twice as long, from `decay` of the height.
    """
    height, fall = 1.0, first - warm_up
    while epoch >= warm_up + fall:
        epoch, fall, height = epoch - warm_up - fall, 2 * fall, decay * height
    if epoch < warm_up:
        return low + (height - low) * epoch / warm_up
    return low + (height - low) * (1 + cos(pi * (epoch - warm_up) / fall)) / 2


def peak_tables(network: Network) -> list[Tensor]:
    """The table of peak vectors, unless it is adapted."""
    encoder = cast("TransformerEncoder", network.encoder)
    table = encoder.get_submodule(encoder.table)
    return [table.weight] if isinstance(table, nn.Embedding) else []


def hold_out(ids: Tensor, offsets: Tensor, max_rate: float) -> Tensor:
    """Hold out peaks of each cell at a random rate below `max_rate`: a mask of those kept."""
    lengths = offsets.diff()
    rates = torch.rand(len(lengths), device=ids.device) * max_rate
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


def gathered(mine: Any) -> list[Any]:
    """The values of all processes, on the CPU."""
    if not (dist.is_available() and dist.is_initialized()):
        return [mine]
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, mine)
    return parts
