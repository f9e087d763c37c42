"""The network: one encoder, the columns for labels beside it, and the heads that its sizes ask for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn

from .config import ModelConfig, Sizes
from .folded import FoldedSums, FoldedTransformer
from .heads import ExpressionHead, LabelHead, MeasuredPeakHead, PeakHead
from .measured_head import LinearMeasuredHead, MeasuredHead
from .query_head import QueryHead
from .set_encoder import LabelColumns, SetEncoder
from .trained_set_encoder import TrainedSetEncoder
from .transformer_encoder import TransformerEncoder

Known: TypeAlias = Mapping[
    str, Tensor
]  # what is known of counted cells, see :meth:`Network.encode`
ENCODER, LABELS = "encoder", "labels"


class Network(nn.Module):
    """Encoder, columns for labels and heads. `label_columns`, `peaks`, `expression`, `measured` and `label` may be None.

    The embedding has the columns of the encoder, and those for labels behind them.
    """

    expression: ExpressionHead | QueryHead | None
    measured: LinearMeasuredHead | MeasuredHead | None
    peaks: PeakHead | MeasuredPeakHead | None
    encoder: SetEncoder | TrainedSetEncoder | TransformerEncoder

    def __init__(self, config: ModelConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config = config
        self.sizes = sizes
        n_batches = sizes.n_batches if sizes.peaks_by_batch else 0
        self.peaks = None
        if config.predicts_peaks and not config.is_measured:
            self.peaks = PeakHead(config.width, sizes.n_peaks, n_batches)
        if config.is_measured:
            measured = SetEncoder(
                sizes.n_peaks, config.width, sizes.n_encoder_landmarks, sizes.n_removed
            )
            self.encoder, self.peaks = measured, MeasuredPeakHead(measured.vectors)
        elif config.encoder == "transformer":
            self.encoder = TransformerEncoder(
                config, sizes.n_peaks, sizes.n_chromosomes, sizes.n_removed
            )
        else:
            self.encoder = TrainedSetEncoder(config, sizes.n_peaks, sizes.n_removed)
        self.label_columns = (
            LabelColumns(sizes.n_peaks, config.width, sizes.n_labels, sizes.n_label_landmarks)
            if sizes.n_label_landmarks
            else None
        )
        self.dropout = nn.Dropout(config.dropout or 0.0)
        self.expression = _expression_head(config, sizes) if sizes.n_genes else None
        self.measured = None
        if sizes.has_measured:
            self.measured = LinearMeasuredHead(config.width, sizes.n_genes)
        elif sizes.n_landmarks:
            self.measured = MeasuredHead(config.width, sizes.n_landmarks, sizes.n_genes)
        self.label = (
            LabelHead(
                self.dim,
                sizes.n_labels,
                sizes.n_label_layers,
                sizes.n_calibration,
                sizes.n_reference,
            )
            if sizes.n_labels
            else None
        )

    @property
    def dim(self) -> int:
        """Columns of the embedding."""
        return self.config.width + (self.sizes.n_labels if self.label_columns is not None else 0)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(iter(self.state_dict().values())).device

    def with_sizes(self, sizes: Sizes, tensors: Mapping[str, Tensor]) -> Network:
        """The same network on the CPU, with some tensors replaced or added; `sizes` are those of the result."""
        with torch.random.fork_rng():  # no weight stays as it is drawn
            network = Network(self.config, sizes)
        state = {name: tensor.cpu() for name, tensor in self.state_dict().items()} | dict(tensors)
        network.load_state_dict({name: state[name] for name in network.state_dict()})
        return network.eval().requires_grad_(False)

    def with_head(self, name: str, head: nn.Module, sizes: Sizes) -> Network:
        """The same network, on the CPU, with `head` as what is called `name`; `sizes` are those of both."""
        return self.with_sizes(
            sizes, {f"{name}.{key}": tensor for key, tensor in head.state_dict().items()}
        )

    def encode(self, ids: Tensor, offsets: Tensor, known: Known | None = None) -> Tensor:
        """Embedding of packed tokens, (n_cells, dim); NaN for a cell without open peaks.

        Parameters
        ----------
        ids, offsets
            Positions of open peaks (n_tokens,) and where each cell begins (n_cells + 1,).
        known
            What is known of cells that were counted, by block (``"encoder"``, ``"labels"``), (n_cells, width), NaN for
            cells that were not; they are left out of the vectors of their peaks.
        """
        known = known or {}
        features = self.encoder(ids, offsets, known.get(ENCODER))
        columns = None
        if self.label_columns is not None:
            columns = self.label_columns.vectors(ids, offsets, known.get(LABELS))
        return self.embed(features, columns)

    def embed(self, features: Tensor, columns: Tensor | None) -> Tensor:
        """Embedding from the columns of the encoder and, if there are any, those for labels."""
        embedding = self.encoder.embed(features)
        if self.label_columns is None or columns is None:
            return embedding
        return torch.cat(
            [embedding, self.label_columns.readout(torch.cat([features, columns], dim=1))], dim=1
        )

    def folded(self, dtype: torch.dtype = torch.float32) -> FoldedSums | FoldedTransformer:
        """The same function made for inference, at a fraction of the cost; results are float32 in any `dtype`."""
        if isinstance(self.encoder, TransformerEncoder):
            return FoldedTransformer(self, dtype)
        return FoldedSums(self, dtype)


def _expression_head(config: ModelConfig, sizes: Sizes) -> ExpressionHead | QueryHead:
    if config.decoder == "linear":
        return ExpressionHead(config.width, sizes.n_genes, sizes.n_batches, config.objective)
    return QueryHead(
        config.width,
        sizes.n_genes,
        sizes.n_batches,
        config.objective,
        n_chromosomes=sizes.n_chromosomes,
        n_bins=sizes.n_bins,
        dropout=config.dropout or 0.0,
        values=config.values,
    )
