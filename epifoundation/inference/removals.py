"""Remove every open peak of a cell on its own, for links and for scans of knock-outs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import scipy.sparse as sp
import torch
from tqdm import tqdm

from .._settings import settings
from ..cells.rows import iter_rows
from ..cells.source import Source
from ..cells.tokens import open_peaks
from ..models import EpiFoundation
from ..nn import Folded, FoldedSums, Known

Predict: TypeAlias = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]
READ_CELLS = 64  # cells that are read at a time
MAX_REMOVALS = 16_384  # removals at a time, by subtraction
MAX_TOKENS = 2**20  # tokens at a time, if cells are encoded again


class Removals(NamedTuple):
    """Cells without one of their open peaks.

    `cells` and `peaks`, (n,), are rows and columns of the matrix; `before` and `after`, (n, dim),
    the embedding with and without that peak.
    """

    cells: np.ndarray
    peaks: np.ndarray
    before: torch.Tensor
    after: torch.Tensor

    def predict(
        self, predict: Predict, batch: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
        """Predictions for each cell, for each removal, and the row of the cell of each removal.

        `batch` has the batch of each row of the matrix.
        """
        cells, first, row = np.unique(self.cells, return_index=True, return_inverse=True)
        of_cells, of_removals = (None if batch is None else batch[at] for at in (cells, self.cells))
        with torch.inference_mode():
            one_per_cell = self.before[torch.from_numpy(first).to(self.before.device)]
            return predict(one_per_cell, of_cells), predict(self.after, of_removals), row


class _Cells(NamedTuple):
    """Packed tokens of some cells, and the tokens that each removal removes."""

    ids: np.ndarray
    offsets: np.ndarray
    cell: np.ndarray  # of each removal
    peak: np.ndarray
    removed: np.ndarray  # tokens, packed
    bounds: np.ndarray  # where those of each removal begin


def iter_removals(
    model: EpiFoundation,
    source: Source,
    projection: sp.csr_matrix | None,
    *,
    peaks: np.ndarray | None = None,
    folded: Folded | None = None,
    bar: tqdm | None = None,
) -> Iterator[Removals]:
    """Remove each open peak from each cell.

    Parameters
    ----------
    model, source, projection, folded
        As for :func:`.encode.encode_cells`.
    peaks
        Columns of the matrix to remove, boolean (n_peaks,); None for all.
    bar
        Progress bar that advances by the cells; if None, a new one.

    Yields
    ------
    Removals, cell by cell. A peak is skipped if the model does not know it, or if another open peak
    of the cell overlaps the same peak of the model. A cell without remaining peaks is NaN.
    """
    folded = folded or model.network.folded()
    new = tqdm(
        total=source.n_obs,
        desc="Knock-outs",
        unit=" cells",
        disable=bar is not None or not settings.progress,
    )
    shown = new if bar is None else bar
    with new:
        for at, rows in iter_rows(source, chunk=READ_CELLS):
            cells = _find(open_peaks(rows), projection, peaks)
            if len(cells.cell):
                ids, offsets = _tensors(model, cells.ids, cells.offsets)
                known = model.known(cells.ids, cells.offsets)  # training cells stay left out
                before = folded.encode(ids, offsets, known)
                if isinstance(folded, FoldedSums):
                    parts = _subtracted(model, folded, cells, known)
                else:
                    parts = _encoded(model, folded, cells, known)
                for part, after in parts:
                    of = cells.cell[part]
                    of_cells = before[torch.from_numpy(of).to(before.device)]
                    yield Removals(at.start + of, cells.peak[part], of_cells, after)
            shown.update(rows.shape[0])


def _find(
    pattern: sp.csr_matrix, projection: sp.csr_matrix | None, peaks: np.ndarray | None
) -> _Cells:
    """Tokens of cells, and for each open peak the tokens that no other open peak maps to."""
    pattern = pattern.copy() if not pattern.has_sorted_indices else pattern
    pattern.sort_indices()
    cell = np.repeat(np.arange(pattern.shape[0]), np.diff(pattern.indptr))
    peak = pattern.indices.astype(np.int64)
    if projection is None:
        ids, offsets = peak, pattern.indptr.astype(np.int64)
        wanted = np.ones(len(peak), bool) if peaks is None else peaks[peak]
        cell, peak = cell[wanted], peak[wanted]
        return _Cells(ids, offsets, cell, peak, peak, np.arange(len(peak) + 1))
    ones = sp.csr_matrix(
        (np.ones(pattern.nnz, np.float32), pattern.indices, pattern.indptr), shape=pattern.shape
    )
    mapped = ones @ projection
    mapped.sort_indices()
    n = mapped.shape[1]
    token_of = np.repeat(np.arange(mapped.shape[0]), np.diff(mapped.indptr)) * n + mapped.indices
    if peaks is not None:
        cell, peak = cell[peaks[peak]], peak[peaks[peak]]
    degree = np.diff(projection.indptr)[peak]
    removal, within = unroll(degree)
    tokens = projection.indices[projection.indptr[peak][removal] + within].astype(np.int64)
    alone = mapped.data[np.searchsorted(token_of, cell[removal] * n + tokens)] == 1
    tokens, removal = tokens[alone], removal[alone]
    size = np.bincount(removal, minlength=len(peak))
    has_effect = size > 0
    bounds = np.append(0, np.cumsum(size[has_effect]))
    ids, offsets = mapped.indices.astype(np.int64), mapped.indptr.astype(np.int64)
    return _Cells(ids, offsets, cell[has_effect], peak[has_effect], tokens, bounds)


def _subtracted(
    model: EpiFoundation, folded: FoldedSums, cells: _Cells, known: Known
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Embeddings without a peak: its vector is subtracted from the sum of the cell."""
    sums = folded.sums(*_tensors(model, cells.ids, cells.offsets), known)
    for start in range(0, len(cells.cell), MAX_REMOVALS):
        part = slice(start, min(start + MAX_REMOVALS, len(cells.cell)))
        yield part, _subtract(model, folded, cells, sums, known, part)


@torch.inference_mode()
def _subtract(
    model: EpiFoundation,
    folded: FoldedSums,
    cells: _Cells,
    sums: torch.Tensor,
    known: Known,
    part: slice,
) -> torch.Tensor:
    low, high = cells.bounds[part.start], cells.bounds[part.stop]
    removed, bounds = _tensors(
        model, cells.removed[low:high], cells.bounds[part.start : part.stop + 1] - low
    )
    of = torch.from_numpy(cells.cell[part]).to(model.device)
    of_cells = {name: each[of] for name, each in known.items()}
    left, accurate = folded.subtract(sums[of], removed, bounds, of_cells)
    after = folded.readout(left)
    again = np.flatnonzero(~accurate.cpu().numpy())
    if len(again):
        some = of[torch.from_numpy(again).to(model.device)]
        still = {name: each[some] for name, each in known.items()}
        encoded = folded.encode(*_tensors(model, *_without(cells, part.start + again)), still)
        after[torch.from_numpy(again).to(model.device)] = encoded
    return after


def _encoded(
    model: EpiFoundation, folded: Any, cells: _Cells, known: Known
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Embeddings without a peak, by encoding the remaining peaks."""
    size = np.diff(cells.offsets)[cells.cell]
    block = np.cumsum(size) // MAX_TOKENS
    edges = np.flatnonzero(np.diff(block, prepend=-1, append=block[-1] + 1))
    for start, stop in pairwise(edges):
        parts = []
        for i in range(start, stop, folded.chunk):
            some = np.arange(i, min(i + folded.chunk, stop))
            of = torch.from_numpy(cells.cell[some]).to(model.device)
            still = {name: each[of] for name, each in known.items()}
            parts.append(folded.encode(*_tensors(model, *_without(cells, some)), still))
        yield slice(int(start), int(stop)), torch.cat(parts)


def _without(cells: _Cells, removals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Packed tokens that remain after some removals."""
    of = cells.cell[removals]
    owner, within = unroll(np.diff(cells.offsets)[of])
    ids = cells.ids[cells.offsets[of][owner] + within]
    gone, within = unroll(np.diff(cells.bounds)[removals])
    tokens = cells.removed[cells.bounds[removals][gone] + within]
    n = int(cells.ids.max(initial=0)) + 1
    kept = ~np.isin(owner * n + ids, gone * n + tokens)
    return ids[kept], np.append(0, np.cumsum(np.bincount(owner[kept], minlength=len(of))))


def unroll(sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each entry of packed lists, its list and its position in it."""
    owner = np.repeat(np.arange(len(sizes)), sizes)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes)


def _tensors(
    model: EpiFoundation, ids: np.ndarray, offsets: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(
        torch.from_numpy(np.ascontiguousarray(a, dtype=np.int64)).to(model.device)
        for a in (ids, offsets)
    )  # type: ignore[return-value]
