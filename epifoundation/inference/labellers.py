"""What labels cells: the label head of a model, or another class with the same members."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol, cast

import torch

from ..cells.tokens import Tokens
from ..models import EpiFoundation
from ..nn import BulkHead, Folded, LabelHead, ProfileLabelHead
from .encode import tensors


class Labeller(Protocol):
    """Probabilities of labels, and thresholds for prediction sets and unknown cells.

    Attributes
    ----------
    model
        Its device, and the cells that labels were learned from.
    """

    model: EpiFoundation

    @property
    def labels(self) -> Sequence[str]:
        """Names of the labels."""

    @property
    def dim(self) -> int:
        """Columns of the embedding that :meth:`embed` returns."""

    @property
    def revision(self) -> str:
        """What identifies everything that the labels depend on."""

    @property
    def report(self) -> Mapping[str, Any]:
        """Parts of the report in ``uns``: JSON types and tables."""

    def embed(self, tokens: Tokens, embedding: torch.Tensor) -> torch.Tensor:
        """The embedding that is labelled, from open peaks and their embedding by the model."""

    def probabilities(self, embedding: torch.Tensor) -> torch.Tensor:
        """Probabilities, (n_cells, n_labels); NaN for a cell without open peaks."""

    def novelty(self, embedding: torch.Tensor) -> torch.Tensor:
        """How much cells differ from the reference, (n_cells,)."""

    def set_threshold(self, alpha: float) -> float:
        """Largest conformal score of a label in a prediction set."""

    def novelty_threshold(self, unknown: float) -> float:
        """Largest novelty of a cell that is not labelled ``"unknown"``; infinite for 0."""


class CalibratedLabeller(Labeller):
    """A labeller whose head has the scores of calibration cells."""

    head: LabelHead | ProfileLabelHead | BulkHead

    def probabilities(self, embedding: torch.Tensor) -> torch.Tensor:
        """Calibrated probabilities, (n_cells, n_labels)."""
        return self.head(embedding)

    def novelty(self, embedding: torch.Tensor) -> torch.Tensor:
        """How little the head explains, as it defines that, (n_cells,)."""
        return self.head.score_novelty(embedding)

    def set_threshold(self, alpha: float) -> float:
        """Conformal quantile of the calibration cells."""
        return threshold(self.head.conformal, alpha)

    def novelty_threshold(self, unknown: float) -> float:
        """Quantile of the novelty of the calibration cells."""
        return threshold(self.head.novelty, unknown) if unknown else math.inf


class HeadLabeller(CalibratedLabeller):
    """The calibrated label head of a model.

    Parameters
    ----------
    model
        The model that labels: the model that embeds, or one fitted to the labels of a reference.
    embedder
        The model that embeds.
    """

    head: LabelHead | ProfileLabelHead

    def __init__(self, model: EpiFoundation, embedder: EpiFoundation) -> None:
        self.model = model
        self.head = cast("LabelHead | ProfileLabelHead", model.network.label)
        # A model fitted to RNA has the encoder of the other, and no columns of labels
        self._reads_embedding = model is embedder or model.network.label_columns is None

    @property
    def labels(self) -> Sequence[str]:
        """Names of the labels."""
        return self.model.labels

    @property
    def dim(self) -> int:
        """Columns of the embedding of the model that labels."""
        return self.model.network.dim

    @property
    def revision(self) -> str:
        """Revision of the model that labels, which depends on the reference."""
        return self.model.revision

    @property
    def report(self) -> Mapping[str, Any]:
        """Temperature of the head, if it has one."""
        if isinstance(self.head, ProfileLabelHead):
            return {}
        return {"temperature": float(self.head.temperature)}

    @cached_property
    def _folded(self) -> Folded:
        return self.model.network.folded()

    def embed(self, tokens: Tokens, embedding: torch.Tensor) -> torch.Tensor:
        """The embedding by the model that labels."""
        if self._reads_embedding:
            return embedding[:, : self.dim]
        known = self.model.known(tokens.ids, tokens.offsets)
        return self._folded.encode(*tensors(self.model, tokens), known)


class EvidenceLabeller(HeadLabeller):
    """A label head of which one label is that of cells without evidence for another.

    Novelty makes no cell unknown: it is relative to simulated cells, not to labelled ones.
    """

    def novelty_threshold(self, unknown: float) -> float:
        """Infinite."""
        return math.inf


def threshold(scores: torch.Tensor, fraction: float) -> float:
    """Conformal quantile: at most a `fraction` of cells exceed it; `scores` are ascending."""
    rank = math.ceil((len(scores) + 1) * (1 - fraction))
    return float(scores[rank - 1]) if rank <= len(scores) else math.inf
