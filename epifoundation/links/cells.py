"""Cells whose peaks are linked to genes: open peaks, and measured expression if there is any."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData

from .._pairing import CellNames, check_axis, match_cells
from .._warn import warn
from ..cells.rows import LoadedRows, read_counts
from ..cells.source import InMemory, Source
from ..inference.expression import batch_codes
from ..models import EpiFoundation
from ..nn import Folded
from ..peaks.vocabulary import GeneVocabulary


class LinkCells(NamedTuple):
    """Open peaks of cells, how they map, the prepared encoder, and measured expression.

    Attributes
    ----------
    matrix
        Cells x peaks of the data.
    projection
        Peaks x vocabulary; None if they are the same.
    folded
        The encoder.
    names
        Names of the cells.
    batch
        Code of the batch of each cell, or None.
    measured
        Expression of the requested genes, (n_cells, n_genes), NaN in cells without RNA; or None.
    total
        Counts of all genes of the model, (n_cells,); or None.
    """

    matrix: sp.csr_matrix
    projection: sp.csr_matrix | None
    folded: Folded
    names: pd.Index
    batch: np.ndarray | None
    measured: np.ndarray | None
    total: np.ndarray | None

    @property
    def source(self) -> Source:
        """The cells, for reading."""
        return LoadedRows(self.matrix, self.names)

    def take(self, rows: np.ndarray) -> LinkCells:
        """Some of the cells."""
        part = [
            None if each is None else each[rows] for each in (self.batch, self.measured, self.total)
        ]
        return LinkCells(self.matrix[rows], self.projection, self.folded, self.names[rows], *part)

    @property
    def has_rna(self) -> np.ndarray:
        """Whether the expression of each cell was measured, (n_cells,)."""
        if self.measured is None:
            return np.zeros(len(self.names), dtype=bool)
        return ~np.isnan(self.measured).any(axis=1)

    def n_open(self) -> np.ndarray:
        """Number of cells in which each peak is open, (n_peaks,)."""
        return np.asarray((self.matrix > 0).sum(axis=0)).ravel()

    def batch_on(self, model: EpiFoundation) -> torch.Tensor | None:
        """The batches, on the device of the model."""
        return None if self.batch is None else torch.from_numpy(self.batch).to(model.device)


def family_of(model: EpiFoundation) -> str:
    """The likelihood of predicted expression."""
    return "gaussian" if model.config.values else model.config.objective


def gather_cells(
    source: Source,
    rna: AnnData | None,
    model: EpiFoundation,
    projection: sp.csr_matrix | None,
    genes: np.ndarray,
    batch_key: str | None,
    layer: str | None,
    rna_modality: str = "rna",
) -> LinkCells:
    """Read all cells; `genes` are positions in the model, `rna` their measured expression.

    Cells are matched by name; without any in both, nothing is measured, with a warning.

    Raises
    ------
    ValueError
        The model was trained on counts, and the RNA modality does not contain counts.
    """
    matrix, names = read_counts(source), source.names(0, source.n_obs)
    batch = None if batch_key is None else batch_codes(source, batch_key, model)
    measured = total = None
    if rna is not None:
        found = GeneVocabulary.from_var(rna.var).match(model.genes)
        n_missing = int((found[genes] < 0).sum())
        if n_missing:
            msg = (
                f"The RNA modality lacks {n_missing:,} of the {len(genes):,} genes, so measured "
                "expression is not used."
            )
            warn(msg)
        else:
            what = f"{f'Layer {layer!r}' if layer else '`X`'} of the RNA modality"
            of_rna = InMemory(rna, "rna", "the RNA modality")
            counts = read_counts(of_rna, layer=layer, what=what, signed=True)
            measured = counts[:, found[genes]].toarray().astype(np.float64)
            known = counts[:, found[found >= 0]]
            is_counts = not ((known.data < 0).any() or (known.data % 1 != 0).any())
            if family_of(model) == "counts" and not is_counts:
                msg = (
                    "The RNA modality does not contain counts, but the model was trained on "
                    "counts: pass `layer=`, a layer of raw counts, or `measured=False` to use the "
                    "model alone."
                )
                raise ValueError(msg)
            total = np.asarray(known.sum(axis=1), np.float64).ravel()
            check_axis(source.axis, source.name)
            row = match_cells(
                CellNames.of(names, source.modality),
                CellNames.of(rna.obs_names, rna_modality),
                "Measured expression is used for cells that are in both only.",
            )
            has_rna = row >= 0
            measured = np.where(has_rna[:, None], measured[row], np.nan) if has_rna.any() else None
            total = np.where(has_rna, total[row], 0.0) if has_rna.any() else None
    return LinkCells(matrix, projection, model.network.folded(), names, batch, measured, total)
