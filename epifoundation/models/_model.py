"""The public model class: a network, the names of its inputs and outputs, and its metadata."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save as save_arrays
from safetensors.torch import save

from ..nn import ModelConfig, Network
from ..peaks.counted import CountedCells, hash_tokens, peak_keys
from ..peaks.vocabulary import GeneVocabulary, PeakVocabulary
from ._adapter import Adapter
from ._checks import (
    check_cells,
    check_genome,
    check_labels,
    check_names,
    check_tensors,
    check_terms,
    check_training,
)
from ._pushing import HubMixin
from ._revision import former_revision, revision_of


@dataclass(frozen=True, eq=False)
class EpiFoundation(HubMixin):
    """A pretrained model.

    :func:`epifoundation.tl.pretrain` and :func:`epifoundation.models.from_pretrained` return it.
    :func:`dataclasses.replace` makes another one with other parts.

    Parameters
    ----------
    network
        Encoder and heads.
    peaks
        Peaks of the input.
    genes
        Predicted genes; empty for a model pretrained on ATAC alone.
    labels
        Cell types for annotation; empty without a label head.
    training
        Training parameters and results, as JSON types.
    name
        Name, path or repository from which the model was loaded.
    card
        Text of the model card.
    adapter
        Changes made by fine-tuning, if they can be saved as a small file.
    cells
        Training cells of the peak vectors, by block of columns (``"encoder"``,
        ``"labels"``). They are recognized in new data and left out of the vectors of their own
        peaks, so that they are embedded like new cells.
    lineages, ontology
        Of labels: lineage or tissue, for coarser probabilities; Cell Ontology identifiers.

    Raises
    ------
    TypeError
        `network`, `peaks` or `genes` are of another class.
    ValueError
        The number of peaks, genes or labels is not that of the network; labels are not unique,
        non-empty strings; weights are not finite.

    Examples
    --------
    >>> import epifoundation as ep
    >>> model = ep.models.from_pretrained("pbmc-51loci")
    >>> len(model.peaks), len(model.genes), len(model.labels)
    (5724, 51, 13)
    """

    network: Network
    peaks: PeakVocabulary
    genes: GeneVocabulary
    labels: list[str] = field(default_factory=list)
    training: dict[str, Any] = field(default_factory=dict)
    name: str = "unsaved"
    card: str = ""
    adapter: Adapter | None = None
    cells: Mapping[str, CountedCells] = field(default_factory=dict)
    lineages: Mapping[str, str] = field(default_factory=dict)
    ontology: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        kinds = {"network": Network, "peaks": PeakVocabulary, "genes": GeneVocabulary}
        kinds |= {"name": str, "card": str}
        for name, kind in kinds.items():
            if not isinstance(getattr(self, name), kind):
                given = type(getattr(self, name)).__name__
                msg = f"`{name}` must be a {kind.__name__}, got {given}."
                raise TypeError(msg)
        object.__setattr__(self, "labels", check_labels(self.labels))
        sizes = self.network.sizes
        for name in ("peaks", "genes", "labels"):
            found, expected = len(getattr(self, name)), getattr(sizes, f"n_{name}")
            if found != expected:
                msg = f"`{name}` has {found:,} {name}, but the network has {expected:,}; "
                msg += "pass those with which it was fitted."
                raise ValueError(msg)
        check_names(self.genes.names, "genes")
        check_genome(self.peaks.genome)
        check_training(self.training, sizes)
        check_terms(self.labels, self.lineages, self.ontology)
        check_cells(self.cells, self.config, len(self.labels))
        check_tensors(self.network)
        # No dropout, no gradients
        self.network.eval().requires_grad_(False)

    @property
    def config(self) -> ModelConfig:
        """Architecture."""
        return self.network.config

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.network.device

    @cached_property
    def revision(self) -> str:
        """First 12 digits of a sha256 of everything that results depend on.

        These are weights, training cells, labels, genes, peaks and architecture, but not the name
        and the card.
        """
        return revision_of(self)

    @cached_property
    def _former_revision(self) -> str:
        """The revision in earlier versions, of weights and training cells only.

        Adapters that were saved then name their base by it.
        """
        return former_revision(
            hashlib.sha256(self.weights).hexdigest(), hashlib.sha256(self.cell_bytes).hexdigest()
        )

    @property
    def weights(self) -> bytes:
        """The weights in safetensors format."""
        state = self.network.state_dict()
        return save({name: tensor.cpu().contiguous() for name, tensor in state.items()})

    @property
    def cell_bytes(self) -> bytes:
        """The recognized cells in safetensors format; empty if there are none."""
        arrays = {
            f"{block}.{name}": np.ascontiguousarray(getattr(cells, name))
            for block, cells in self.cells.items()
            for name in ("hashes", "codes", "weights")
        }
        return save_arrays(arrays) if arrays else b""

    @cached_property
    def _keys(self) -> np.ndarray:
        return peak_keys(self.peaks)

    def known(self, ids: np.ndarray, offsets: np.ndarray) -> dict[str, torch.Tensor]:
        """Stored memberships of recognized cells, by block, for :meth:`.nn.Network.encode`.

        Parameters
        ----------
        ids, offsets
            Packed tokens of cells: positions of open peaks (n_tokens,) and the offset of each cell
            (n_cells + 1,).
        """
        if not self.cells:
            return {}
        hashes = hash_tokens(ids, offsets, self._keys)
        width = {"encoder": self.config.width, "labels": len(self.labels)}
        found = {block: cells.find(hashes, width[block]) for block, cells in self.cells.items()}
        return {
            block: torch.from_numpy(each).to(self.device)
            for block, each in found.items()
            if each is not None
        }

    def learned_from(self, block: str, ids: np.ndarray, offsets: np.ndarray) -> np.ndarray | None:
        """Whether a block of columns was computed from each cell; None if it is not known.

        Parameters
        ----------
        block
            ``"encoder"`` or ``"labels"``.
        ids, offsets
            As in :meth:`known`.
        """
        if block not in self.cells:
            return None
        return self.cells[block].contain(hash_tokens(ids, offsets, self._keys))

    def to(self, device: str | torch.device) -> EpiFoundation:
        """Move the weights to a device, in place."""
        self.network.to(device)
        return self

    def save_pretrained(
        self, directory: str | Path, *, overwrite: bool = False, cells: bool = True
    ) -> Path:
        """Write the model to a directory: JSON, safetensors, BED and TSV, no pickle.

        All files are replaced at once: if the process is killed, the directory has the old model or
        the new one.

        Parameters
        ----------
        directory
            Target; parents are created.
        overwrite
            Replace an existing model. A directory with other files is never replaced.
        cells
            Also save the training cells, as a hash of the open peaks and a few memberships of each,
            at most 30 bytes. Without them, these cells are not recognized and are separated from
            new cells; the card says so.

        Returns
        -------
        The directory.

        Raises
        ------
        FileExistsError
            The directory is not empty, and `overwrite` is False or it is not a model.

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

        model = self if cells or not self.cells else replace(self, cells={})
        return write(model, Path(directory), overwrite=overwrite)

    def save_adapter(self, directory: str | Path, *, overwrite: bool = False) -> Path:
        """Write the changes that fine-tuning made, a few MB, without the base model.

        :func:`epifoundation.models.from_pretrained` reads it; the base model is found by its name
        or passed as ``base=``.

        Parameters
        ----------
        directory
            Target; parents are created.
        overwrite
            Replace an existing model or adapter. A directory with other files is never replaced.

        Returns
        -------
        The directory.

        Raises
        ------
        ValueError
            The model was not fine-tuned, or fine-tuned with ``rank=None``.
        FileExistsError
            The directory is not empty, and `overwrite` is False or it is not a model.

        Examples
        --------
        >>> import tempfile
        >>> import epifoundation as ep
        >>> mdata = ep.datasets.pbmc_multiome()[:600].copy()
        >>> model = ep.tl.finetune(mdata["atac"], "pbmc-51loci", label_key="cell_type")
        >>> path = model.save_adapter(tempfile.mkdtemp() + "/mine")
        >>> ep.models.from_pretrained(path).revision == model.revision
        True
        """
        from ._directory import write

        if self.adapter is None:
            msg = "The model has no adapter; `ep.tl.finetune(..., rank=8)` makes one. "
            msg += "Save the whole model with `save_pretrained`."
            raise ValueError(msg)
        return write(self, Path(directory), overwrite=overwrite, adapter=self.adapter)

    def __repr__(self) -> str:
        parts = [
            f"{self.name!r}, encoder={self.config.encoder!r}",
            f"dim={self.config.width}",
            f"peaks={len(self.peaks):,} ({self.peaks.genome})",
            f"genes={len(self.genes):,} ({self.config.objective})",
            f"labels={len(self.labels)}",
        ]
        return f"EpiFoundation({', '.join(parts)})"
