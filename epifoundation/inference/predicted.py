"""Predicted expression of cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from anndata import AnnData

from .._columns import table_of
from .._keys import Keys
from .._validate import check_unique
from .._version import __version__
from .._warn import warn
from ..cells.tokens import Tokens
from ..models import EpiFoundation
from ..nn import ExpressionHead, LinearMeasuredHead, MeasuredHead, QueryHead
from ..peaks.vocabulary import GeneVocabulary
from .expression import MEASURED_SCALE, scale_of
from .reader import BlockReadout, LoadedBlock, Readout
from .tally import Tally

AnyExpressionHead: TypeAlias = ExpressionHead | QueryHead | LinearMeasuredHead | MeasuredHead


@dataclass(frozen=True)
class ExpressionReadout(Readout):
    """Predicted expression.

    Parameters
    ----------
    model, keys
        The model, and names of the results.
    head
        The head that predicts.
    scale
        ``"mean"`` or ``"measured"``.
    names, positions
        Genes to predict and their positions in the model; None for all.
    batch_key
        Column of batches, for the report.
    has_report
        Write a report, besides that of the embedding.
    """

    model: EpiFoundation
    keys: Keys
    head: AnyExpressionHead
    scale: str = "mean"
    names: Sequence[str] = ()
    positions: np.ndarray | None = None
    batch_key: str | None = None
    has_report: bool = True

    @property
    def options(self) -> dict[str, Any]:
        """Scale of the expression."""
        return {"scale": self.scale}

    def begin(self, block: LoadedBlock, batches: np.ndarray | None) -> ExpressedCells:
        """Start a block of cells."""
        return ExpressedCells(self, block, batches)

    def stale(self, uns: Mapping[str, Any]) -> list[str]:
        """Expression that was predicted before, in either modality."""
        return [f"obsm/{self.keys.expression}", f"rna/layers/{self.keys.layer}"]

    def uns(self, peaks: dict[str, Any], tally: Tally) -> dict[str, Any]:
        """Model, scale and genes."""
        if not self.has_report:
            return {}
        report = {
            "model": self.model.name,
            "revision": self.model.revision,
            "package_version": __version__,
            "scale": MEASURED_SCALE if self.scale == "measured" else scale_of(self.model),
            "genes": list(self.names) or list(self.model.genes.names),
            "batch_key": self.batch_key or "",
            "unseen_batches": tally.unknown_batches,
            "peaks": peaks,
        }
        return {self.keys.expression: report}


class ExpressedCells(BlockReadout):
    """Cells of a block x genes: of the RNA modality, and of the model if cells have no RNA."""

    def __init__(
        self, readout: ExpressionReadout, block: LoadedBlock, batches: np.ndarray | None
    ) -> None:
        model, positions, rna = readout.model, readout.positions, block.rna
        if rna is not None and positions is not None:
            found = model.genes.match(GeneVocabulary.from_var(rna.adata.var))
            rna = rna if set(positions) <= set(found) else None
        self.keys = readout.keys
        self.batches = None if batches is None else torch.from_numpy(batches).to(model.device)
        self.in_atac: _Predicted | None = None
        self.in_rna: _Predicted | None = None
        if rna is None or not rna.is_whole:
            genes = np.arange(len(model.genes)) if positions is None else positions
            self.names = [model.genes.names[int(i)] for i in genes]
            rows = np.arange(len(block.names))
            self.in_atac = _Predicted(readout, genes, rows, len(rows))
        if rna is not None:
            genes = _genes_of(rna.adata, model, positions)
            self.in_rna = _Predicted(readout, genes, rna.rows, rna.adata.n_obs)

    @torch.inference_mode()
    def add(self, rows: slice, tokens: Tokens, embedding: torch.Tensor) -> None:
        """Predict for some cells."""
        batches = None if self.batches is None else self.batches[rows]
        for predicted in (self.in_atac, self.in_rna):
            if predicted is not None:
                predicted.add(rows, embedding, batches)

    def write(self, atac: AnnData, rna: AnnData | None) -> None:
        """Write a layer of the RNA modality, ``obsm`` of the ATAC modality, or both."""
        if self.in_rna is not None:
            cast("AnnData", rna).layers[self.keys.layer] = self.in_rna.values
        if self.in_atac is not None:
            values = self.in_atac.values
            atac.obsm[self.keys.expression] = table_of(values, atac.obs_names, self.names)


class _Predicted:
    """Predicted expression, NaN in rows without a cell and columns without a gene.

    Parameters
    ----------
    readout
        What is predicted.
    genes
        Position in the model of each column, -1 for none.
    rows
        Row of each cell, -1 for none.
    n_rows
        Number of rows.
    """

    def __init__(
        self, readout: ExpressionReadout, genes: np.ndarray, rows: np.ndarray, n_rows: int
    ) -> None:
        self.rows, self.columns = rows, np.flatnonzero(genes >= 0)
        self.values = np.full((n_rows, len(genes)), np.nan, np.float32)
        known = torch.from_numpy(genes[self.columns]).to(readout.model.device)
        with torch.inference_mode():
            self.predict = readout.head.predictor(known)

    def add(self, cells: slice, embedding: torch.Tensor, batches: torch.Tensor | None) -> None:
        """Predict for some cells that have a row."""
        predicted = self.predict(embedding, batches).cpu().numpy()
        rows = self.rows[cells]
        self.values[np.ix_(rows[rows >= 0], self.columns)] = predicted[rows >= 0]


def _genes_of(rna: AnnData, model: EpiFoundation, positions: np.ndarray | None) -> np.ndarray:
    """Position in the model of each gene of the RNA, -1 for those not predicted."""
    check_unique(rna.var_names, "gene names", "call `var_names_make_unique()`")
    genes = model.genes.match(GeneVocabulary.from_var(rna.var))
    if (genes < 0).all():
        msg = (
            f"None of the {rna.n_vars:,} genes of the RNA modality is one of the "
            f"{len(model.genes):,} of the model: {list(rna.var_names[:3])} against "
            f"{model.genes.names[:3]}; the predicted layer will be NaN."
        )
        warn(msg)
    return genes if positions is None else np.where(np.isin(genes, positions), genes, -1)
