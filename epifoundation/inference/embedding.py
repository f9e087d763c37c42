"""The embedding of cells, and the fraction of their open peaks that the model knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from anndata import AnnData

from .._keys import Keys
from .._version import __version__
from ..cells.tokens import Tokens
from ..models import EpiFoundation
from ..nn import ENCODER
from ..pp._map_peaks import recorded_mapping
from .expression import scale_of
from .reader import BlockReadout, LoadedBlock, Readout
from .tally import Tally


@dataclass(frozen=True)
class EmbeddingReadout(Readout):
    """The embedding and the fraction of known peaks.

    Parameters
    ----------
    model, keys
        The model, and names of the results.
    parameters
        Options of the call, for the report.
    keeps_expression
        Keep expression that an earlier call of :func:`epifoundation.tl.embed` predicted.
    """

    model: EpiFoundation
    keys: Keys
    parameters: Mapping[str, Any]
    keeps_expression: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """Whether expression and labels are computed."""
        return {name: self.parameters[name] for name in ("expression", "annotation")}

    def begin(self, block: LoadedBlock, batches: np.ndarray | None) -> EmbeddedCells:
        """Start a block of cells."""
        return EmbeddedCells(self, len(block.names))

    def stale(self, uns: Mapping[str, Any]) -> list[str]:
        """Results of an earlier model, except expression predicted by this one."""
        keys, report = self.keys, uns.get(self.keys.uns)
        names = [keys.cell_type, keys.confidence, keys.prediction_set, keys.novelty]
        names += [keys.in_training, keys.in_reference, keys.lineage, keys.lineage_confidence]
        names += [keys.resolved, keys.ontology]
        places = [f"obs/{name}" for name in names] + [
            f"obsm/{keys.probabilities}",
            f"uns/{keys.annotation}",
            f"uns/{keys.cell_type}_colors",
        ]
        if not recorded_mapping(report, self.model):  # `pp.map_peaks` was run with another model
            places += [f"obsm/{keys.peaks}", f"var/{keys.matched}"]
        of_model = dict(uns.get(keys.expression, {})).get("revision") == self.model.revision
        if self.keeps_expression and isinstance(report, Mapping):
            of_model |= report.get("revision") == self.model.revision
        if self._predicts or not of_model:
            places += [
                f"uns/{keys.expression}",
                f"obsm/{keys.expression}",
                f"rna/layers/{keys.layer}",
            ]
        return places

    def uns(self, peaks: dict[str, Any], tally: Tally) -> dict[str, Any]:
        """Model, options and the mapping of peaks."""
        report: dict[str, Any] = {
            "model": self.model.name,
            "revision": self.model.revision,
            "package_version": __version__,
            "peaks": peaks | {"cells_above_limit": tally.limited},
            "parameters": {**self.parameters, "unseen_batches": tally.unknown_batches},
        }
        # Columns of tables may have other names: see `table_of`
        if self.parameters["annotation"] and self.model.labels:
            report["labels"] = list(self.model.labels)
        if self._predicts:
            report["expression_scale"] = scale_of(self.model)
            report["genes"] = list(self.model.genes.names)
        return {self.keys.uns: report}

    @property
    def _predicts(self) -> bool:
        return bool(self.parameters["expression"]) and len(self.model.genes) > 0


class EmbeddedCells(BlockReadout):
    """Embedding and known peaks of the cells of a block."""

    def __init__(self, readout: EmbeddingReadout, n_cells: int) -> None:
        self.keys, self.model = readout.keys, readout.model
        self.embedding = np.empty((n_cells, self.model.network.dim), dtype=np.float32)
        self.coverage = np.full(n_cells, np.nan)
        self.learned = LearnedCells(self.model, ENCODER, n_cells)

    def add(self, rows: slice, tokens: Tokens, embedding: torch.Tensor) -> None:
        """Process some cells."""
        self.embedding[rows] = embedding.cpu().numpy()
        fraction = tokens.n_known / np.maximum(tokens.n_open, 1)
        self.coverage[rows] = np.where(tokens.n_open > 0, fraction, np.nan)
        self.learned.add(rows, tokens)

    def write(self, atac: AnnData, rna: AnnData | None) -> None:
        """Write the results."""
        atac.obsm[self.keys.embedding] = self.embedding
        atac.obs[self.keys.coverage] = self.coverage
        self.learned.write(atac, self.keys.in_training)


class LearnedCells:
    """The cells of a block that a block of columns of the model was computed from."""

    def __init__(self, model: EpiFoundation, block: str, n_cells: int) -> None:
        self.model, self.block = model, block
        self.is_learned = np.zeros(n_cells, bool)

    def add(self, rows: slice, tokens: Tokens) -> None:
        """Recognize some cells."""
        found = self.model.learned_from(self.block, tokens.ids, tokens.offsets)
        if found is not None:
            self.is_learned[rows] = found & (tokens.n_known > 0)

    def write(self, atac: AnnData, key: str) -> None:
        """Write a column of ``obs``, unless the model does not know its cells."""
        if self.block in self.model.cells:
            atac.obs[key] = self.is_learned
