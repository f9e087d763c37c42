"""Networks made ready for inference: the same functions, computed once for all cells where that is possible."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from .packed import take
from .peak_vectors import PeakVectors
from .set_encoder import SetEncoder
from .trained_set_encoder import TrainedSetEncoder
from .transformer_encoder import TransformerEncoder, limit, run

if TYPE_CHECKING:
    from .model import Known, Network

MIN_REMAINING = 0.05  # share of a cell's peaks that must remain for a subtraction to be accurate


class FoldedSums:
    """A network whose embedding is a function of sums over open peaks, with tables of peaks in a precision of choice.

    Attributes
    ----------
    chunk
        Cells at a time. Their sums stay in the cache of a processor; another device is kept busy.
    """

    def __init__(self, network: Network, dtype: torch.dtype = torch.float32) -> None:
        self.network, self.labels = network, network.label_columns
        self.encoder = cast("SetEncoder | TrainedSetEncoder", network.encoder)
        if dtype != torch.float32:
            self.encoder, self.labels = copy.deepcopy(self.encoder), copy.deepcopy(self.labels)
            for tables in (self.encoder, self.labels):
                for name in ("vectors", "peak"):
                    if hasattr(tables, name):
                        table = getattr(tables, name)
                        table.weight.data = table.weight.data.to(dtype)
        self.left_out: dict[str, Tensor] = {}
        self.chunk = 512 if network.device.type == "cpu" else 2048

    @torch.inference_mode()
    def encode(self, ids: Tensor, offsets: Tensor, known: Known | None = None) -> Tensor:
        """Embedding of packed tokens, float32 (n_cells, dim); see :meth:`.model.Network.encode`."""
        return self.readout(self.sums(ids, offsets, known))

    @torch.inference_mode()
    def sums(self, ids: Tensor, offsets: Tensor, known: Known | None = None) -> Tensor:
        """Sums of the vectors of packed tokens, and their number in the last column, (n_cells, n_columns + 1)."""
        known = known or {}
        if isinstance(self.encoder, SetEncoder):
            parts = [self._sums("encoder", self.encoder.vectors, ids, offsets, known)]
        else:
            parts = [self.encoder.sums(ids, offsets)]
        if self.labels is not None:
            parts.append(self._sums("labels", self.labels.vectors, ids, offsets, known))
        return torch.cat([*parts, offsets.diff()[:, None].to(parts[0])], dim=1)

    def _sums(
        self, block: str, vectors: PeakVectors, ids: Tensor, offsets: Tensor, known: Known
    ) -> Tensor:
        of_cells = known.get(block)
        if of_cells is None:
            return vectors.sums(ids, offsets)
        if block not in self.left_out:  # made when the first counted cell comes
            self.left_out[block] = vectors.left_out_table()
        return vectors.sums(ids, offsets, of_cells, self.left_out[block])

    @torch.inference_mode()
    def readout(self, sums: Tensor) -> Tensor:
        """From sums to the embedding."""
        if (
            len(sums) == 1
        ):  # one row takes another way through a matrix product, which rounds differently
            return self.readout(sums.expand(2, -1))[:1]
        columns = sums[:, :-1] / sums[:, -1:].sqrt()
        width = self.network.config.width
        return self.network.embed(self.encoder.features(columns[:, :width]), columns[:, width:])

    @torch.inference_mode()
    def subtract(
        self, sums: Tensor, ids: Tensor, offsets: Tensor, known: Known | None = None
    ) -> tuple[Tensor, Tensor]:
        """Sums without some tokens, and where enough remains for the difference to be accurate, boolean (n_cells,).

        `known` is that of the cells of `sums`, so that a cell that was counted stays left out.
        """
        left = sums - self.sums(ids, offsets, known)
        return left, left[:, -1] >= MIN_REMAINING * sums[:, -1]


class FoldedTransformer:
    """A network with a transformer made ready for inference, in a precision of choice.

    The token table is folded, the last block computed for the CLS tokens alone, and cells are taken in groups of similar
    length. `chunk`: cells at a time that keep the device busy.
    """

    def __init__(self, network: Network, dtype: torch.dtype = torch.float32) -> None:
        encoder = cast("TransformerEncoder", network.encoder)
        self.network, self.encoder, self.dtype = network, encoder, dtype
        self.tokens = encoder.tokens.fold()
        self.blocks = (
            encoder.blocks if dtype == torch.float32 else copy.deepcopy(encoder.blocks).to(dtype)
        )
        on_cpu = encoder.norm.weight.device.type == "cpu"
        self.group, self.chunk = (4_096, 64) if on_cpu else (131_072, 1_024)  # tokens, cells

    @torch.inference_mode()
    def encode(self, ids: Tensor, offsets: Tensor, known: Known | None = None) -> Tensor:
        """Embedding of packed tokens, float32 (n_cells, dim); see :meth:`.model.Network.encode`."""
        features, labels = self._encode(ids, offsets), self.network.label_columns
        columns = (
            None if labels is None else labels.vectors(ids, offsets, (known or {}).get("labels"))
        )
        return self.network.embed(features, columns)

    def _encode(self, ids: Tensor, offsets: Tensor) -> Tensor:
        ids, offsets = limit(ids.long(), offsets.long(), self.encoder.max_peaks)
        lengths = offsets.diff()
        result = torch.full(
            (len(lengths), self.encoder.norm.weight.shape[0]), torch.nan, device=ids.device
        )
        order = lengths.argsort()
        order = order[lengths[order] > 0]
        if not len(order):
            return result
        for cells in order.split(_group_sizes(lengths[order], self.group)):
            some, starts = self.encoder.with_cls(*take(ids, offsets, cells))
            states = run(self.blocks, self.tokens(some).to(self.dtype), starts)
            result[cells] = self.encoder.norm(states.float())
        return result


def _group_sizes(lengths: Tensor, most: int) -> list[int]:
    """How many cells to take at a time, ascending in length, for at most `most` tokens or one cell."""
    sizes, tokens = [0], 0
    for length in lengths.tolist():
        if sizes[-1] and tokens + length > most:
            sizes.append(0)
            tokens = 0
        sizes[-1] += 1
        tokens += length
    return sizes
