"""The network: one encoder and the heads that its sizes ask for."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .config import ModelConfig, Sizes
from .heads import ExpressionHead, LabelHead, PeakHead
from .measured_head import MeasuredHead
from .query_head import QueryHead
from .set_encoder import FoldedSet, SetEncoder
from .transformer_encoder import FoldedTransformer, TransformerEncoder


class Network(nn.Module):
    """Encoder and heads. `peaks`, `expression`, `measured` and `label` are None where the model has none."""

    expression: ExpressionHead | QueryHead | None

    def __init__(self, config: ModelConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config = config
        self.sizes = sizes
        self.encoder: SetEncoder | TransformerEncoder = (
            SetEncoder(config, sizes.n_peaks, sizes.n_removed)
            if config.encoder == "set"
            else TransformerEncoder(config, sizes.n_peaks, sizes.n_chromosomes, sizes.n_removed)
        )
        self.dropout = nn.Dropout(config.dropout)
        n_batches = sizes.n_batches if sizes.peaks_by_batch else 0
        self.peaks = PeakHead(config.dim, sizes.n_peaks, n_batches) if config.predicts_peaks else None
        self.expression = _expression_head(config, sizes) if sizes.n_genes else None
        self.measured = MeasuredHead(config.dim, sizes.n_landmarks, sizes.n_genes) if sizes.n_landmarks else None
        self.label = (
            LabelHead(config.dim, sizes.n_labels, sizes.n_label_layers, sizes.n_calibration, sizes.n_reference)
            if sizes.n_labels
            else None
        )

    def with_head(self, name: str, head: nn.Module, sizes: Sizes) -> Network:
        """The same network, on the CPU, with `head` as what is called `name`; `sizes` are those of both."""
        with torch.random.fork_rng():  # no weight stays as it is drawn
            network = Network(self.config, sizes)
        state = {key: tensor for key, tensor in self.state_dict().items() if not key.startswith(f"{name}.")}
        network.load_state_dict(state | {f"{name}.{key}": tensor for key, tensor in head.state_dict().items()})
        return network

    def encode(self, ids: Tensor, offsets: Tensor, own: Tensor | None = None) -> Tensor:
        """Cell embeddings of packed tokens by the training path, (n_cells, dim); `own` as in :class:`SetEncoder`."""
        return self.encoder(ids, offsets, own)

    def folded(self, dtype: torch.dtype = torch.float32) -> FoldedSet | FoldedTransformer:
        """The same function made for inference, at a fraction of the cost; results are float32 in any `dtype`."""
        if isinstance(self.encoder, SetEncoder):
            return FoldedSet(self.encoder, dtype)
        return FoldedTransformer(self.encoder, dtype)


def _expression_head(config: ModelConfig, sizes: Sizes) -> ExpressionHead | QueryHead:
    if config.decoder == "linear":
        return ExpressionHead(config.dim, sizes.n_genes, sizes.n_batches, config.objective)
    return QueryHead(
        config.dim,
        sizes.n_genes,
        sizes.n_batches,
        config.objective,
        n_chromosomes=sizes.n_chromosomes,
        n_bins=sizes.n_bins,
        dropout=config.dropout,
        values=config.values,
    )
