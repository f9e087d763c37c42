"""What a set encoder is measured from: sums over cells, in one pass over all of them.

Memberships are whole numbers (units of 1 / 255) and expression is rounded to fixed point, so the sums are exact: the same, to
the last bit, in whatever blocks, files and processes the cells come.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from ..counted import WEIGHT, dense, hash_tokens
from ..nn import add_up
from .components import packed, with_values

FIXED = 2.0**16  # units of expression on a logarithmic scale
TRAIN, HELD = 0, 1
MAX_RECENT = 2**24 // WEIGHT


class Statistics:
    """Sums over cells, of training cells and of validation cells apart, and what is kept of each cell.

    Parameters
    ----------
    n_cells
        Cells of the data.
    n_peaks
        Peaks.
    dim
        Clusters.
    n_labels
        Labels.
    n_kept
        Memberships that a cell has.
    n_genes
        Genes of each profile, by its name.
    device
        Where sums over peaks are computed.

    Attributes
    ----------
    memberships
        Sum of the memberships of the cells in which each peak is open, int32 (2, n_peaks, dim + n_labels), in units of
        1 / 255; of training cells and of validation cells. Recent cells are summed in float32 first, see `recent`.
    totals
        Sum of the memberships of all cells, int64 (2, dim + n_labels).
    profiles
        Sums of expression by cluster, float64 (dim, n_genes), in units of 1 / 255 and of the profile.
    hashes, codes, weights, usable
        Of each cell: hash of its tokens; its memberships, see :class:`epifoundation.counted.CountedCells`; whether it was
        counted.
    """

    def __init__(
        self,
        n_cells: int,
        n_peaks: int,
        dim: int,
        n_labels: int,
        *,
        n_kept: int,
        n_genes: Mapping[str, int],
        device: torch.device,
    ) -> None:
        self.dim, self.n_labels = dim, n_labels
        self.recent = torch.zeros(2, n_peaks, dim + n_labels, device=device)
        self.older: torch.Tensor | None = None
        self.n_recent = 0
        self.totals = np.zeros((2, dim + n_labels), np.int64)
        self.profiles = {name: np.zeros((dim, n)) for name, n in n_genes.items()}
        self.hashes = np.zeros(n_cells, np.uint64)
        self.codes = np.zeros((n_cells, n_kept), np.uint8 if dim <= 256 else np.uint16)
        self.weights = np.zeros((n_cells, max(n_kept - 1, 0)), np.uint8)
        self.usable = np.zeros(n_cells, bool)

    def add(
        self,
        rows: np.ndarray,
        pattern: sp.csr_matrix,
        memberships: tuple[np.ndarray, np.ndarray],
        *,
        keys: np.ndarray,
        is_held: np.ndarray,
        labels: np.ndarray | None = None,
        expression: Mapping[str, sp.csr_matrix] | None = None,
    ) -> None:
        """Count some cells.

        Parameters
        ----------
        rows
            Their row numbers in the data.
        pattern
            Their open peaks.
        memberships
            Columns and weights of their memberships, each (n_cells, n_kept).
        keys
            Of the peaks, for hashes.
        is_held
            Which of them are validation cells.
        labels
            Codes of their labels, -1 for none.
        expression
            What profiles are of, in whole numbers.
        """
        if len(rows) > MAX_RECENT:
            msg = f"At most {MAX_RECENT:,} cells are counted at a time, got {len(rows):,}."
            raise ValueError(msg)
        codes, weights = memberships
        self.hashes[rows] = hash_tokens(pattern.indices, pattern.indptr, keys)
        self.codes[rows], self.weights[rows], self.usable[rows] = codes, weights, True
        known = np.zeros((len(rows), self.dim + self.n_labels), dtype=np.float32)
        known[:, : self.dim] = dense(codes, weights, self.dim, unit=1)
        if labels is not None:
            labelled = np.flatnonzero(labels >= 0)
            known[labelled, self.dim + labels[labelled]] = WEIGHT
        self._make_room(len(rows))
        for part, inside in ((TRAIN, np.flatnonzero(~is_held)), (HELD, np.flatnonzero(is_held))):
            if len(inside):
                whole = len(inside) == len(rows)
                there = known if whole else known[inside]
                self.totals[part] += there.sum(axis=0, dtype=np.float64).astype(np.int64)
                self.recent[part] += _by_peak(pattern if whole else pattern[inside], there, self.recent.device)
        if expression:
            clusters = sp.csr_matrix(known[:, : self.dim], dtype=np.float64).T.tocsr()
            names = list(expression)
            # Two profiles have their values in the same places: one product of complex numbers is both
            both = expression[names[0]]
            if len(names) > 1:
                both = with_values(both, both.data + 1j * expression[names[1]].data)
            found = (clusters @ both).toarray()
            for name, part in zip(names, (found.real, found.imag), strict=False):
                self.profiles[name] += part

    @property
    def memberships(self) -> torch.Tensor:
        """Sums of all cells so far."""
        recent = self.recent.int()
        return recent if self.older is None else recent.add_(self.older)

    def sums(self, parts: Sequence[int]) -> torch.Tensor:
        """Sums of training cells, of validation cells or of both, whole numbers (n_peaks, dim + n_labels)."""
        if self.older is None:  # exact in float32, without a copy where that is possible
            return self.recent[parts[0]] if len(parts) == 1 else self.recent.sum(dim=0)
        total = self.recent[parts[0]].int()
        for part in parts[1:]:
            total += self.recent[part].int()
        for part in parts:
            total += self.older[part]
        return total

    def is_open(self) -> np.ndarray:
        """Peaks that are open in a counted cell, boolean (n_peaks,)."""
        found = self.recent[:, :, : self.dim].amax(dim=(0, 2)) > 0
        if self.older is not None:
            found |= self.older[:, :, : self.dim].amax(dim=(0, 2)) > 0
        return found.cpu().numpy()

    def forget(self) -> None:
        """Let go of the sums over peaks."""
        self.recent, self.older = self.recent.new_zeros(2, 0, self.recent.shape[2]), None

    def _make_room(self, n_cells: int) -> None:
        """Sums of at most 2^24 / 255 cells are exact in float32: move them to whole numbers before there are more."""
        if self.n_recent + n_cells > MAX_RECENT:
            self.older, self.n_recent = self.memberships, 0
            self.recent.zero_()
        self.n_recent += n_cells

    def arrays(self) -> dict[str, Any]:
        """All sums by name: tensors and arrays that add up over parts of the data."""
        profiles = {f"profiles/{name}": values for name, values in self.profiles.items()}
        names = ("memberships", "totals", "hashes", "codes", "weights", "usable")
        return {name: getattr(self, name) for name in names} | profiles

    def set(self, arrays: Mapping[str, Any]) -> None:
        """Take over what :meth:`arrays` gave."""
        self.older, self.n_recent = torch.as_tensor(arrays["memberships"]).to(self.recent.device), 0
        self.recent.zero_()
        for name, there in self.arrays().items():
            if name != "memberships":
                there[...] = arrays[name]


def whole_numbers(rows: sp.csr_matrix, normalised: sp.csr_matrix, objective: str) -> dict[str, sp.csr_matrix]:
    """Expression of cells as what profiles are sums of, float64 in whole numbers: by name, as the objective has it.

    `normalised`: for counts, ``log1p`` of counts per 10,000.
    """
    if objective != "counts":
        return {name: _rounded(rows, unit) for name, unit in profile_units(objective).items()}
    return {"counts": with_values(rows, rows.data.astype(np.float64)), "measured": _rounded(normalised, FIXED)}


def profile_units(objective: str) -> dict[str, float]:
    """Units of the profiles that there are for an objective, by name."""
    return {"counts": {"counts": 1.0, "measured": FIXED}, "binary": {"binary": 1.0}}.get(objective, {})


def _rounded(rows: sp.csr_matrix, unit: float) -> sp.csr_matrix:
    values = rows.data.astype(np.float64)
    values *= unit
    return with_values(rows, np.rint(values, out=values))


def _by_peak(pattern: sp.csr_matrix, known: np.ndarray, device: torch.device) -> torch.Tensor:
    """Sum of what is known of the cells in which each peak is open, float32 (n_peaks, width)."""
    ids, offsets, _ = packed(pattern.tocsc(), device)
    return add_up(torch.from_numpy(known).to(device), ids, offsets)
