"""Fine-tuning: labels beside expression and peaks."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..nn import Network, TrainingConfig
from ..training.label_head import balanced_weights
from .minibatches import Batch
from .pretraining import Pretraining

TEMPERATURES = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)


class Finetuning(Pretraining):
    """The losses of pretraining, and that of a classifier of labels.

    The classifier serves in training only. With labels, the validation loss is theirs at the best temperature: it is the order and the
    distance of cells that is wanted, and how sure one may be is settled by what is fitted afterwards.

    Parameters
    ----------
    network, config, genes
        As in pretraining.
    label_counts
        Training cells of each label; None without labels.
    """

    label_weights: Tensor | None

    def __init__(
        self,
        network: Network,
        config: TrainingConfig,
        genes: np.ndarray | None = None,
        *,
        label_counts: np.ndarray | None = None,
    ) -> None:
        super().__init__(network, config, genes)
        dim = network.config.width
        self.classifier = None if label_counts is None else nn.Linear(dim, len(label_counts))
        weights = (
            None
            if label_counts is None
            else torch.from_numpy(balanced_weights(label_counts, config.label_balance).astype(np.float32))
        )
        self.register_buffer("label_weights", weights, persistent=False)
        self.seen: list[tuple[Tensor, Tensor]] = []

    def _read_off(self, embedding: Tensor, batch: Batch, hidden: Tensor, cells: Tensor) -> Tensor:
        loss = super()._read_off(embedding, batch, hidden, cells)
        config = self.hyper
        if self.classifier is not None and batch.label is not None:
            logits, known = self.classifier(embedding), batch.label >= 0
            of_labels = 0 * logits.sum()  # so that there is a gradient where no cell has one
            if known.any():
                of_labels = F.cross_entropy(
                    logits[known], batch.label[known], self.label_weights, label_smoothing=config.label_smoothing
                )
            loss = loss + config.label_weight * of_labels
        return loss

    def validation_step(self, batch: Batch, index: int) -> None:
        """With labels, keep what the classifier says of whole cells; without, as in pretraining."""
        if self.classifier is None or batch.label is None:
            super().validation_step(batch, index)
            return
        known = batch.label >= 0
        logits = self.classifier(self.network.encode(batch.ids, batch.offsets))
        self.seen.append((logits[known], batch.label[known]))

    def on_validation_epoch_end(self) -> None:
        """Negative log-likelihood of the labels at the best of some temperatures."""
        if not self.seen:
            return
        logits, labels = (torch.cat(parts) for parts in zip(*self.seen, strict=True))
        self.seen.clear()
        if self.trainer.world_size > 1:
            logits, labels = gathered(logits), gathered(labels)
        loss = min(F.cross_entropy(logits / temperature, labels) for temperature in TEMPERATURES)
        self.log("validation", loss, prog_bar=True, sync_dist=True)


def gathered(part: Tensor) -> Tensor:
    """The rows that all processes have, which may differ in number."""
    import torch.distributed as dist

    parts: list[Tensor] = [part] * dist.get_world_size()
    dist.all_gather_object(parts, part.cpu())
    return torch.cat([each.to(part.device) for each in parts])
