"""The RNA of the cells of a source, matched by name."""

from __future__ import annotations

import numpy as np

from .._pairing import CellNames, check_axis, match_cells
from .source import Source

CELLS_PER_READ = 2**16


def rows_in(
    rna: Source, source: Source, consequence: str, *, needed: bool = False
) -> np.ndarray | None:
    """Row of each cell of a source in its RNA, -1 for none; None if all are in the same order.

    `consequence` and `needed` as in :func:`epifoundation._pairing.match_cells`, which warns if few
    cells are in both.
    """
    check_axis(source.axis, source.name)
    n_cells, step = source.n_obs, CELLS_PER_READ
    if rna.n_obs == n_cells and all(
        source.names(i, min(i + step, n_cells)).equals(rna.names(i, min(i + step, n_cells)))
        for i in range(0, n_cells, step)
    ):
        return None
    cells, others = (
        CellNames.of(each.names(0, each.n_obs), each.modality) for each in (source, rna)
    )
    return match_cells(cells, others, consequence, name=source.name, needed=needed)
