"""The reader embeds cells once; each readout computes its results from the embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from .._keys import Keys
from ..cells.source import Source
from ..cells.tokens import Tokens
from ..models import EpiFoundation
from ..nn import Folded, has_bfloat16
from ..peaks.mapping import PeakMap
from .encode import encode_cells
from .expression import known_batches
from .paired import PairedRNA
from .tally import Tally

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class LoadedBlock(NamedTuple):
    """Cells to read, their names and batches, and the RNA modality for predicted genes."""

    cells: Source
    names: pd.Index
    batch: pd.Series | None
    rna: PairedRNA | None
    show: bool = True  # a progress bar


class BlockReadout(Protocol):
    """The results of one readout for the cells of a block."""

    def add(self, rows: slice, tokens: Tokens, embedding: torch.Tensor) -> None:
        """Process some cells: rows of the block, their open peaks and their embedding."""

    def finish(self, tally: Tally) -> None:
        """Complete the results after the last cells of the block."""
        return

    def write(self, atac: AnnData, rna: AnnData | None) -> None:
        """Write the results into ``obs``, ``obsm`` and ``layers``."""


class Readout(Protocol):
    """One kind of result that is computed from the embedding of cells."""

    @property
    def options(self) -> dict[str, Any]:
        """Options that are part of the fingerprint of a run; JSON types."""
        return {}

    def begin(self, block: LoadedBlock, batches: np.ndarray | None) -> BlockReadout:
        """Start a block; `batches` are codes of the model's batches, -1 for none."""

    def stale(self, uns: Mapping[str, Any]) -> list[str]:
        """Results of an earlier run to delete, if this run does not overwrite them.

        Their places, such as ``"obs/name"`` or ``"rna/layers/name"``.
        """
        return []

    def uns(self, peaks: dict[str, Any], tally: Tally) -> dict[str, Any]:
        """Reports on the run, by key of ``uns``."""
        return {}


class BlockResults(NamedTuple):
    """Results of a block."""

    outputs: list[BlockReadout]
    tally: Tally


@dataclass(frozen=True)
class Reader:
    """Reads cells with a model, for one or several readouts.

    Parameters
    ----------
    model
        The model that embeds.
    keys
        Names of the results.
    readouts
        Results to compute.
    genes
        Genes to predict if there is no RNA; empty if expression is not predicted.
    batch_key
        Column of ``obs`` with batches of the model.
    chunk
        Cells encoded at a time; None: chosen by the encoder.
    dtype
        ``"auto"``, ``"float32"`` or ``"bfloat16"``.
    """

    model: EpiFoundation
    keys: Keys
    readouts: Sequence[Readout]
    genes: Sequence[str] = ()
    batch_key: str | None = None
    chunk: int | None = None
    dtype: str = "auto"

    @cached_property
    def folded(self) -> Folded:
        """The encoder, prepared once for all blocks."""
        dtype = DTYPES.get(self.dtype, torch.float32)
        if (
            self.dtype == "auto"
            and self.model.config.is_trained
            and has_bfloat16(self.model.device)
        ):
            dtype = torch.bfloat16
        return self.model.network.folded(dtype)

    @property
    def options(self) -> dict[str, Any]:
        """Options that are part of the fingerprint of a run; JSON types."""
        found: dict[str, Any] = {
            "batch_key": self.batch_key,
            "dtype": self.dtype,
            "genes": list(self.genes),
        }
        for readout in self.readouts:
            found |= readout.options
        return found

    def compute(self, block: LoadedBlock, mapping: PeakMap) -> BlockResults:
        """Compute the results of a block; thread-safe."""
        tally, batches = Tally(), None
        if block.batch is not None:
            batches, tally.unknown_batches = known_batches(block.batch, self.model)
            tally.in_unknown_batch = int((batches < 0).sum())
        outputs = [readout.begin(block, batches) for readout in self.readouts]
        for rows, tokens, embedding in encode_cells(
            self.model,
            block.cells,
            mapping.projection,
            chunk=self.chunk,
            show=block.show,
            folded=self.folded,
        ):
            for output in outputs:
                output.add(rows, tokens, embedding)
            tally.count(tokens, self.model.config.max_peaks)
        for output in outputs:
            output.finish(tally)
        return BlockResults(outputs, tally)

    def write(self, found: BlockResults, atac: AnnData, rna: AnnData | None) -> None:
        """Write the results of all readouts."""
        for output in found.outputs:
            output.write(atac, rna)

    def stale(self, uns: Mapping[str, Any]) -> list[str]:
        """Results of an earlier run to remove."""
        return [place for readout in self.readouts for place in readout.stale(uns)]

    def with_kept(self, uns: dict[str, Any], old: Mapping[str, Any]) -> dict[str, Any]:
        """Reports, with unit and genes of expression that an earlier run predicted and is kept."""
        new, was = uns.get(self.keys.uns), old.get(self.keys.uns)
        if new is None or "expression_scale" in new or not isinstance(was, Mapping):
            return uns
        if was.get("revision") != self.model.revision or "expression_scale" not in was:
            return uns
        kept = {name: was[name] for name in ("expression_scale", "genes") if name in was}
        return uns | {self.keys.uns: new | kept}

    def uns(self, peaks: dict[str, Any], tally: Tally) -> dict[str, Any]:
        """Reports on the run, by key of ``uns``."""
        return {
            key: report
            for readout in self.readouts
            for key, report in readout.uns(peaks, tally).items()
        }
