"""The labels of bulk profiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..cells.content import hash_of
from ..cells.tokens import Tokens
from ..models import EpiFoundation
from ..nn import BulkHead
from .encode import tensors
from .labellers import CalibratedLabeller


class BulkLabeller(CalibratedLabeller):
    """The head of bulk profiles, which reads open peaks and not their embedding.

    Parameters
    ----------
    model
        The model that has the peaks, without labels.
    head
        The head.
    names
        Names of the types.
    """

    head: BulkHead

    def __init__(self, model: EpiFoundation, head: BulkHead, names: Sequence[str]) -> None:
        self.model, self.names = model, names
        self.head = head.to(model.device)

    @property
    def labels(self) -> Sequence[str]:
        """Names of the types."""
        return self.names

    @property
    def dim(self) -> int:
        """One score for each type."""
        return len(self.names)

    @property
    def revision(self) -> str:
        """What identifies the model, and the content of the profiles and of the simulated cells."""
        arrays = (tensor.cpu().numpy() for tensor in self.head.state_dict().values())
        return f"{self.model.revision} {hash_of(*self.names, *arrays)}"

    @property
    def report(self) -> Mapping[str, Any]:
        """Sharpness of the probabilities."""
        return {"sharpness": float(self.head.sharpness)}

    def embed(self, tokens: Tokens, embedding: torch.Tensor) -> torch.Tensor:
        """Scores of the types, from the open peaks."""
        return self.head.scores(*tensors(self.model, tokens))
