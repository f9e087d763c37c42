"""The network: an encoder, columns for labels, and heads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from .config import ModelConfig, Sizes
from .encoders import ENCODERS, Encoder, Folded
from .expression_head import ExpressionHead
from .heads import HEADS
from .label_head import LabelHead
from .measured_head import LinearMeasuredHead, MeasuredHead
from .peak_heads import MeasuredPeakHead, PeakHead
from .peak_vectors import ENCODER, LABELS, Known
from .profile_heads import ProfileLabelHead
from .query_head import QueryHead
from .set_encoder import LabelColumns, SetEncoder


class Network(nn.Module):
    """Encoder, columns for labels and heads; all but the encoder may be None.

    The embedding has the columns of the encoder, then those for labels.
    """

    encoder: Encoder
    label_columns: LabelColumns | None
    # Or a ProfileExpressionHead, which predicts and is not trained
    expression: ExpressionHead | QueryHead | None
    measured: LinearMeasuredHead | MeasuredHead | None
    peaks: PeakHead | MeasuredPeakHead | None
    label: LabelHead | ProfileLabelHead | None

    def __init__(self, config: ModelConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config, self.sizes = config, sizes
        # This order fixes which random weights a seed gives; append only
        parts: dict[str, Callable[[ModelConfig, Sizes], Any]] = {
            "peaks": HEADS["peaks"],
            ENCODER: ENCODERS[config.encoder],
            "label_columns": LabelColumns if sizes.n_label_landmarks else lambda *_: None,
        }
        for name, make in (parts | HEADS).items():
            self.add_module(name, make(config, sizes))
        if config.is_measured:  # a function of the encoder's vectors, without weights
            self.peaks = MeasuredPeakHead(cast("SetEncoder", self.encoder).vectors)
        self.dropout = nn.Dropout(config.dropout or 0.0)

    @property
    def dim(self) -> int:
        """Columns of the embedding."""
        return self.config.width + (self.sizes.n_labels if self.label_columns is not None else 0)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(iter(self.state_dict().values())).device

    def with_sizes(self, sizes: Sizes, tensors: Mapping[str, Tensor]) -> Network:
        """A copy of `sizes` on the CPU, with some tensors replaced or added."""
        with torch.random.fork_rng():  # all random weights are replaced
            network = Network(self.config, sizes)
        state = {name: tensor.cpu() for name, tensor in self.state_dict().items()} | dict(tensors)
        network.load_state_dict({name: state[name] for name in network.state_dict()})
        return network.eval().requires_grad_(False)

    def encode(self, ids: Tensor, offsets: Tensor, known: Known | None = None) -> Tensor:
        """Embedding of packed tokens, (n_cells, dim); NaN for a cell without open peaks.

        Parameters
        ----------
        ids, offsets
            Positions of open peaks (n_tokens,) and the start of each cell (n_cells + 1,).
        known
            Memberships of training cells by block (``"encoder"``, ``"labels"``), (n_cells, width),
            NaN for other cells. Training cells are left out of the vectors of their peaks.
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
        expected = self.label_columns.readout(torch.cat([features, columns], dim=1))
        return torch.cat([embedding, expected], dim=1)

    def folded(self, dtype: torch.dtype = torch.float32) -> Folded:
        """The network prepared for inference; results are float32 in any `dtype`."""
        return self.encoder.folded(self, dtype)
