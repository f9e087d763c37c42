"""The network: one encoder and the heads that its sizes ask for."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .config import ModelConfig, Sizes
from .heads import ExpressionHead, LabelHead, PeakHead
from .set_encoder import SetEncoder, pool


class Network(nn.Module):
    """Encoder and heads. `expression` and `label` are None where the model has no genes or labels."""

    def __init__(self, config: ModelConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config = config
        self.sizes = sizes
        self.encoder = SetEncoder(config, sizes.n_peaks)
        self.dropout = nn.Dropout(config.dropout)
        self.peaks = PeakHead(config.dim, sizes.n_peaks)
        self.expression = (
            ExpressionHead(config.dim, sizes.n_genes, sizes.n_batches, config.objective) if sizes.n_genes else None
        )
        self.label = LabelHead(config.dim, sizes.n_labels) if sizes.n_labels else None

    def encode(self, ids: Tensor, offsets: Tensor) -> Tensor:
        """Cell embeddings of packed tokens by the training path, (n_cells, dim)."""
        return self.encoder(ids, offsets)

    def folded(self) -> FoldedEncoder:
        """The same function made for inference, at a fraction of the cost."""
        return FoldedEncoder(self.encoder)


class FoldedEncoder:
    """A :class:`SetEncoder` with the table of all its peaks made once."""

    def __init__(self, encoder: SetEncoder) -> None:
        self.encoder = encoder
        self.table = encoder.fold()

    @torch.inference_mode()
    def encode(self, ids: Tensor, offsets: Tensor) -> Tensor:
        """Cell embeddings of packed tokens, (n_cells, dim)."""
        sums = pool(self.table, ids, offsets)
        if len(sums) == 1:  # one row takes another way through a matrix product, which rounds differently
            return self.encoder.readout(sums.expand(2, -1))[:1]
        return self.encoder.readout(sums)
