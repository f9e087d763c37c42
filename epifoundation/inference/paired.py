"""The RNA modality that predicted expression is written into, and its rows of the cells."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData

from .._validate import Data
from ..cells.pairing import rows_in
from ..cells.rows import runs_of
from ..cells.source import InMemory, Source
from .expression import rna_of

ROWS_PER_WRITE = 2**25  # values
CONSEQUENCE = "Predicted expression of all cells is written to `obsm` of the ATAC modality."


class PairedRNA(NamedTuple):
    """An RNA modality, and its rows of some cells.

    Attributes
    ----------
    adata
        The modality; only its names are read.
    rows
        Row of each cell, -1 for those without RNA.
    is_whole
        No cell of the data is without RNA.
    """

    adata: AnnData
    rows: np.ndarray
    is_whole: bool

    @classmethod
    def of(cls, data: Data, modality: str, rna_modality: str) -> PairedRNA | None:
        """The RNA of an object in memory; None if no cell has RNA."""
        rna = rna_of(data, rna_modality)
        if rna is None:
            return None
        source = InMemory(data, modality, "the data")
        rows = find_rows(source, InMemory(data, rna_modality, "the data"))
        if rows is None:
            return cls(rna, np.arange(source.n_obs), is_whole=True)
        has_rna = rows >= 0
        return cls(rna, rows, bool(has_rna.all())) if has_rna.any() or not len(rows) else None

    @classmethod
    def of_block(
        cls, names: pd.Index, genes: pd.DataFrame | None, *, is_whole: bool
    ) -> PairedRNA | None:
        """A row for each cell of a block, with these genes; None without genes."""
        if genes is None:
            return None
        return cls(
            AnnData(obs=pd.DataFrame(index=names), var=genes), np.arange(len(names)), is_whole
        )


def find_rows(source: Source, rna: Source) -> np.ndarray | None:
    """Rows of the cells in the RNA, as :func:`.rows_in`."""
    return rows_in(rna, source, CONSEQUENCE)


def spread(root: Any, name: str, rows: np.ndarray, n_rows: int) -> str:
    """Write a layer of `n_rows` rows, NaN without a cell; `rows` are those of the cells, or -1.

    Returns the place in the file `root`.
    """
    old, place = root["layers"][name], f"spread/{name}"
    cells = np.full(n_rows, -1)
    cells[rows[rows >= 0]] = np.flatnonzero(rows >= 0)
    shape, options = (n_rows, old.shape[1]), {"chunks": old.chunks}
    create = root.create_array if hasattr(root, "create_array") else root.create_dataset
    new = create(place, shape=shape, dtype=old.dtype, **options)
    new.attrs.update(old.attrs)
    step = max(ROWS_PER_WRITE // max(shape[1], 1), 1)
    for start in range(0, n_rows, step):
        wanted = cells[start : start + step]
        values = np.full((len(wanted), shape[1]), np.nan, old.dtype)
        order = np.argsort(wanted, kind="stable")[int((wanted < 0).sum()) :]
        at = 0
        for run in runs_of(wanted[order]):
            read = old[int(run[0]) : int(run[-1]) + 1]
            values[order[at : at + len(run)]] = read[run - run[0]]
            at += len(run)
        new[start : start + step] = values
    return place
