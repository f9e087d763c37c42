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
        """An earlier table, of which the report would no longer be true."""
        return [f"obsm/{self.keys.expression}"]

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
    """Cells of a block x genes of the RNA modality, or of the model where there is no RNA."""

    def __init__(
        self, readout: ExpressionReadout, block: LoadedBlock, batches: np.ndarray | None
    ) -> None:
        model, positions, names, rna = (readout.model, readout.positions, block.names, block.rna)
        if rna is not None and positions is not None:
            found = model.genes.match(GeneVocabulary.from_var(rna.var))
            rna = rna if set(positions) <= set(found) else None
        self.keys, self.in_rna = readout.keys, rna is not None
        if rna is None:
            genes = np.arange(len(model.genes)) if positions is None else positions
            self.rows = np.arange(len(names))
        else:
            check_unique(rna.var_names, "gene names", "call `var_names_make_unique()`")
            check_unique(rna.obs_names, "cell names", "call `obs_names_make_unique()`")
            genes = model.genes.match(GeneVocabulary.from_var(rna.var))
            if (genes < 0).all():
                msg = (
                    f"None of the {rna.n_vars:,} genes of the RNA modality is one of the "
                    f"{len(model.genes):,} of the model: {list(rna.var_names[:3])} against "
                    f"{model.genes.names[:3]}; the predicted layer will be NaN."
                )
                warn(msg)
            if positions is not None:
                genes = np.where(np.isin(genes, positions), genes, -1)
            self.rows = rna.obs_names.get_indexer(names)
        self.columns = np.flatnonzero(genes >= 0)
        self.names = [model.genes.names[i] for i in genes[self.columns]]
        self.batches = None if batches is None else torch.from_numpy(batches).to(model.device)
        with torch.inference_mode():
            self.predict = readout.head.predictor(
                torch.from_numpy(genes[self.columns]).to(model.device)
            )
        self.values = np.empty(
            (len(names) if rna is None else rna.n_obs, len(genes)), dtype=np.float32
        )
        if rna is not None:  # genes that the model lacks, cells without ATAC
            self.values.fill(np.nan)

    @torch.inference_mode()
    def add(self, rows: slice, tokens: Tokens, embedding: torch.Tensor) -> None:
        """Predict for some cells; those without a row in the RNA modality are skipped."""
        batches = None if self.batches is None else self.batches[rows]
        predicted = self.predict(embedding, batches).cpu().numpy()
        places = self.rows[rows]
        self.values[np.ix_(places[places >= 0], self.columns)] = predicted[places >= 0]

    def write(self, atac: AnnData, rna: AnnData | None) -> None:
        """Write a layer of the RNA modality, or ``obsm`` of the ATAC modality."""
        if self.in_rna:
            cast("AnnData", rna).layers[self.keys.layer] = self.values
        else:
            atac.obsm[self.keys.expression] = table_of(self.values, atac.obs_names, self.names)
