"""Packed tokens: the open peaks of several cells, one after the other, and offsets of cells."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def add_up(table: Tensor, ids: Tensor, offsets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Weighted sums of the rows `ids` of a table, between offsets, float32 (n_sums, width)."""
    if not len(ids):
        return table.new_zeros(len(offsets) - 1, table.shape[1], dtype=torch.float32)
    weights = None if weights is None else weights.to(table.dtype)
    summed = F.embedding_bag(
        ids,
        table,
        offsets.to(ids.dtype),
        mode="sum",
        include_last_offset=True,
        per_sample_weights=weights,
    )
    return summed.float()


def take(ids: Tensor, offsets: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
    """The packed tokens of some cells, in the order of `cells`."""
    lengths = offsets.diff()[cells]
    ends = lengths.cumsum(0)
    starts = torch.cat([ends.new_zeros(1), ends])
    of = torch.repeat_interleave(lengths)
    places = torch.arange(len(of), device=ids.device) - starts[:-1][of] + offsets[:-1][cells][of]
    return ids[places], starts
