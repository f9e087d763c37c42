"""Networks prepared for inference, and those whose embedding is a function of sums over peaks."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Protocol, cast

import torch
from torch import Tensor

from .peak_vectors import ENCODER, LABELS, Known, PeakVectors

if TYPE_CHECKING:
    from .model import Network
    from .set_encoder import SetEncoder

MIN_REMAINING = 0.05  # fraction of a cell's peaks that must remain for a subtraction to be accurate


class Folded(Protocol):
    """A network prepared for inference: the same embedding at a fraction of the cost.

    Attributes
    ----------
    chunk
        Number of cells to encode at a time.
    """

    chunk: int

    def __init__(self, network: Network, dtype: torch.dtype) -> None: ...

    def encode(self, ids: Tensor, offsets: Tensor, known: Known | None = None) -> Tensor:
        """Embedding of packed tokens, float32 (n_cells, dim)."""
        ...


class FoldedSums:
    """A network of sums over open peaks, whose peak vectors may be in lower precision.

    Attributes
    ----------
    chunk
        Number of cells to encode at a time: their sums fit into the cache of a CPU, and keep
        another device busy.
    """

    def __init__(self, network: Network, dtype: torch.dtype = torch.float32) -> None:
        self.network, self.labels = network, network.label_columns
        self.encoder = cast("SetEncoder", network.encoder)  # or a TrainedSetEncoder
        if dtype != torch.float32:
            self.encoder, self.labels = copy.deepcopy(self.encoder), copy.deepcopy(self.labels)
            for block in (self.encoder, self.labels):
                if block is not None:
                    block.vectors.weight.data = block.vectors.weight.data.to(dtype)
        self.left_out: dict[str, Tensor] = {}
        self.chunk = 512 if network.device.type == "cpu" else 2048

    @torch.inference_mode()
    def encode(self, ids: Tensor, offsets: Tensor, known: Known | None = None) -> Tensor:
        """Embedding of packed tokens, float32 (n_cells, dim); see :meth:`.model.Network.encode`."""
        return self.readout(self.sums(ids, offsets, known))

    @torch.inference_mode()
    def sums(self, ids: Tensor, offsets: Tensor, known: Known | None = None) -> Tensor:
        """Sums of peak vectors, then the number of peaks, (n_cells, n_columns + 1)."""
        known = known or {}
        parts = [self._sums(ENCODER, self.encoder.vectors, ids, offsets, known)]
        if self.labels is not None:
            parts.append(self._sums(LABELS, self.labels.vectors, ids, offsets, known))
        return torch.cat([*parts, offsets.diff()[:, None].to(parts[0])], dim=1)

    def _sums(
        self, block: str, vectors: PeakVectors, ids: Tensor, offsets: Tensor, known: Known
    ) -> Tensor:
        of_cells = known.get(block)
        if of_cells is None or not isinstance(vectors, PeakVectors):
            return vectors.sums(ids, offsets)
        if block not in self.left_out:  # computed for the first training cell
            self.left_out[block] = vectors.left_out_table()
        return vectors.sums(ids, offsets, of_cells, self.left_out[block])

    @torch.inference_mode()
    def readout(self, sums: Tensor) -> Tensor:
        """Embedding from sums."""
        if (
            len(sums) == 1
        ):  # torch multiplies a single row by another kernel, which rounds otherwise
            return self.readout(sums.expand(2, -1))[:1]
        width, n_open = self.network.config.width, sums[:, -1:]
        columns = sums[:, :-1].clone()
        columns[:, :width] /= self.encoder.vectors.divisor(n_open)
        if self.labels is not None:
            columns[:, width:] /= self.labels.vectors.divisor(n_open)
        return self.network.embed(self.encoder.features(columns[:, :width]), columns[:, width:])

    @torch.inference_mode()
    def subtract(
        self, sums: Tensor, ids: Tensor, offsets: Tensor, known: Known | None = None
    ) -> tuple[Tensor, Tensor]:
        """Sums without some tokens, and which of them are accurate, boolean (n_cells,).

        A difference is accurate if enough of the cell remains. `known` is that of the cells of
        `sums`, so that a training cell stays left out.
        """
        left = sums - self.sums(ids, offsets, known)
        return left, left[:, -1] >= MIN_REMAINING * sums[:, -1]
