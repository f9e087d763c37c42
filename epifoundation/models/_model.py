"""The model that users hold: a network, what its inputs and outputs are called, and how it came about."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from ..nn import ModelConfig, Network
from ..vocabulary import GeneVocabulary, PeakVocabulary
from ._adapter import Adapter


@dataclass(eq=False)
class EpiFoundation:
    """A pretrained model: made by :func:`epifoundation.tl.pretrain` or :func:`epifoundation.models.from_pretrained`.

    Parameters
    ----------
    network
        Encoder and heads.
    peaks
        The peaks it reads.
    genes
        The genes it predicts; empty for a model pretrained on ATAC alone.
    labels
        The cell types it annotates; empty when it has no label head.
    training
        How it was trained: JSON types.
    name
        Registry name, path or repository it was loaded from.
    card
        Text of the model card.
    adapter
        What fine-tuning changed, where it was of low rank.

    Examples
    --------
    >>> import epifoundation as ep
    >>> model = ep.models.from_pretrained("pbmc-51loci")
    >>> model.config.dim, len(model.peaks), len(model.genes), len(model.labels)
    (64, 5724, 51, 13)
    """

    network: Network
    peaks: PeakVocabulary
    genes: GeneVocabulary
    labels: list[str] = field(default_factory=list)
    training: dict[str, Any] = field(default_factory=dict)
    name: str = "unsaved"
    card: str = ""
    adapter: Adapter | None = None

    def __post_init__(self) -> None:
        # Nothing outside `training.py` learns: dropout off, no graphs.
        self.network.eval().requires_grad_(False)

    @property
    def config(self) -> ModelConfig:
        """Architecture."""
        return self.network.config

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.network.parameters()).device

    @cached_property
    def revision(self) -> str:
        """First 12 digits of the sha256 of the weights."""
        return revision_of(hashlib.sha256(self.weights).hexdigest())

    @property
    def weights(self) -> bytes:
        """The weights in safetensors format."""
        state = self.network.state_dict()
        return save({name: tensor.cpu().contiguous() for name, tensor in state.items()})

    def to(self, device: str | torch.device) -> EpiFoundation:
        """Move the weights to a device, in place."""
        self.network.to(device)
        return self

    def save_pretrained(self, directory: str | Path, *, overwrite: bool = False) -> Path:
        """Write the model to a directory: JSON, safetensors, BED and TSV, no pickle.

        The directory appears whole or not at all: files are written beside it and moved into place.

        Parameters
        ----------
        directory
            Where to; its parents are made.
        overwrite
            Replace a model that is there. Any other directory with files in it is never replaced.

        Returns
        -------
        The directory.

        Raises
        ------
        FileExistsError
            The directory is not empty, and it is no model or `overwrite` is False.

        Examples
        --------
        >>> import tempfile
        >>> import epifoundation as ep
        >>> model = ep.models.from_pretrained("pbmc-51loci")
        >>> path = model.save_pretrained(tempfile.mkdtemp() + "/copy")
        >>> ep.models.from_pretrained(path).revision == model.revision
        True
        """
        from ._directory import write

        return write(self, Path(directory), overwrite=overwrite)

    def save_adapter(self, directory: str | Path, *, overwrite: bool = False) -> Path:
        """Write what fine-tuning changed, without the model that it changed: a few MB.

        :func:`epifoundation.models.from_pretrained` reads it and looks for that model by its name, or takes it as ``base=``.

        Parameters
        ----------
        directory
            Where to; its parents are made.
        overwrite
            Replace a model or an adapter that is there. Any other directory with files in it is never replaced.

        Returns
        -------
        The directory.

        Raises
        ------
        ValueError
            The model was not fine-tuned, or with ``rank=None``.
        FileExistsError
            The directory is not empty, and it is no model or `overwrite` is False.

        Examples
        --------
        >>> import tempfile
        >>> import epifoundation as ep
        >>> mdata = ep.datasets.pbmc_multiome()[:600].copy()
        >>> training = ep.TrainingConfig(max_epochs=1, n_neighbors=1)
        >>> model = ep.tl.finetune(mdata["atac"], label_key="cell_type", training=training)
        >>> path = model.save_adapter(tempfile.mkdtemp() + "/mine")
        >>> ep.models.from_pretrained(path).revision == model.revision
        True
        """
        from ._directory import write

        if self.adapter is None:
            msg = "There is no adapter: only `ep.tl.finetune(..., rank=8)` makes one. Save the whole with `save_pretrained`."
            raise ValueError(msg)
        return write(self, Path(directory), overwrite=overwrite, adapter=self.adapter)

    def __repr__(self) -> str:
        parts = [
            f"{self.name!r}",
            f"encoder={self.config.encoder!r}",
            f"dim={self.config.dim}",
            f"peaks={len(self.peaks):,} ({self.peaks.genome})",
            f"genes={len(self.genes):,} ({self.config.objective})",
            f"labels={len(self.labels)}",
        ]
        return f"EpiFoundation({', '.join(parts)})"


def revision_of(sha256: str) -> str:
    """The part of a checksum that is shown."""
    return sha256[:12]
