"""Sums over all cells, from which a set encoder is fitted.

Memberships are integers (units of 1 / 255) and expression is rounded to fixed point, so the sums
are exact: the same, to the last bit, for any division of the cells into blocks, files or processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import scipy.sparse as sp
import torch

from ..nn import add_up
from ..peaks.counted import WEIGHT, dense, hash_tokens
from .components import packed, with_values

FIXED = 2.0**16  # units of expression on a logarithmic scale
TRAIN, HELD = 0, 1
CHUNK_PEAKS = 32_768
MAX_RECENT = 2**24 // WEIGHT


class Statistics:
    """Sums over training cells and over validation cells, and a summary of each cell.

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
        Memberships per cell.
    n_genes
        Genes of each profile, by its name.
    device
        Device of sums over peaks.

    Attributes
    ----------
    memberships
        Memberships summed over the cells in which each peak is open, int32 (2, n_peaks, dim +
        n_labels), in units of 1 / 255; training cells, validation cells. Recent cells are summed in
        float32 first, see `recent`.
    totals
        Memberships summed over all cells, int64 (2, dim + n_labels).
    profiles
        Sums of expression by cluster, float64 (dim, n_genes), in units of 1 / 255 and of the
        profile.
    hashes, codes, weights, usable
        Of each cell: hash of its tokens; its memberships, see :class:`.counted.CountedCells`;
        whether it was counted.
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
        # Of two profiles, one is the real part and one the imaginary
        dtype = float if len(n_genes) < 2 else complex
        self._profiles = np.zeros((dim, max(n_genes.values(), default=0)), dtype)
        self.profiles = dict(zip(n_genes, (self._profiles.real, self._profiles.imag), strict=False))
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
        expression: sp.csr_matrix | None = None,
    ) -> None:
        """Count cells of the data, by their row numbers and open peaks.

        `memberships` are columns and weights, each (n_cells, n_kept); `keys` are those of the
        peaks, for hashes; `labels` are codes, -1 for none; `expression` is in integers, see
        :func:`whole_numbers`.
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
                values = known if whole else known[inside]
                self.totals[part] += values.sum(axis=0, dtype=np.float64).astype(np.int64)
                _add_by_peak(self.recent[part], pattern if whole else pattern[inside], values)
        self._add_profiles(known, expression)

    def _add_profiles(self, known: np.ndarray, expression: sp.csr_matrix | None) -> None:
        if expression is not None:
            clusters = sp.csr_matrix(known[:, : self.dim], dtype=np.float64).T.tocsr()
            self._profiles += (clusters @ expression).toarray()

    @property
    def memberships(self) -> torch.Tensor:
        """Sums of all cells so far."""
        recent = self.recent.int()
        return recent if self.older is None else recent.add_(self.older)

    def sums(self, parts: Sequence[int]) -> torch.Tensor:
        """Sums of training cells, validation cells or both, integers (n_peaks, dim + n_labels)."""
        if self.older is None:  # exact in float32, and without a copy of one part
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
        """Free the sums over peaks."""
        self.recent, self.older = self.recent.new_zeros(2, 0, self.recent.shape[2]), None

    def _make_room(self, n_cells: int) -> None:
        """Move sums to int32 if needed: those of at most 2^24 / 255 cells are exact in float32."""
        if self.n_recent + n_cells > MAX_RECENT:
            self.older, self.n_recent = self.memberships, 0
            self.recent.zero_()
        self.n_recent += n_cells

    def tensors(self) -> dict[str, torch.Tensor]:
        """All sums by name, which are additive over parts of the data.

        In signed types, which processes can sum. All but the memberships are views.
        """
        arrays = {f"profiles/{name}": values for name, values in self.profiles.items()}
        names = ("totals", "hashes", "codes", "weights", "usable")
        arrays |= {name: getattr(self, name) for name in names}
        signed = {"b1": "u1", "u2": "i2", "u8": "i8"}
        found = {"memberships": self.memberships}
        for name, array in arrays.items():
            view = array.view(signed.get(array.dtype.str[1:], array.dtype))
            found[name] = torch.from_numpy(view)
        return found

    def set(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Set the sums to the output of :meth:`tensors`."""
        self.older, self.n_recent = tensors["memberships"].to(self.recent.device), 0
        self.recent.zero_()
        for name, tensor in self.tensors().items():
            if name != "memberships":
                tensor.copy_(tensors[name])


def whole_numbers(
    rows: sp.csr_matrix, normalised: sp.csr_matrix, objective: str
) -> sp.csr_matrix | None:
    """Expression of cells in integers, of which profiles are sums; None without profiles.

    Two profiles, of `rows` and of their `normalised` values, have their non-zero values in the same
    places: they are real and imaginary part of complex numbers, so that one product sums both.
    """
    units = list(profile_units(objective).values())
    if not units:
        return None
    values = np.empty(rows.nnz, float if len(units) < 2 else complex)
    for part, matrix, unit in zip(
        (values.real, values.imag), (rows, normalised), units, strict=False
    ):
        np.multiply(matrix.data, unit, out=part, dtype=np.float64)
        np.rint(part, out=part)
    return with_values(rows, values)


def profile_units(objective: str) -> dict[str, float]:
    """Units of the profiles of an objective, by name."""
    return {"counts": {"counts": 1.0, "measured": FIXED}, "binary": {"binary": 1.0}}.get(
        objective, {}
    )


def _add_by_peak(sums: torch.Tensor, pattern: sp.csr_matrix, known: np.ndarray) -> None:
    """Add the profiles `known` of the cells in which each peak is open to `sums`, in place."""
    table = torch.from_numpy(known).to(sums.device)
    ids, offsets, _ = packed(pattern.tocsc(), sums.device)
    for start in range(0, len(sums), CHUNK_PEAKS):
        bounds = offsets[start : start + CHUNK_PEAKS + 1]
        first, last = int(bounds[0]), int(bounds[-1])
        sums[start : start + CHUNK_PEAKS] += add_up(table, ids[first:last], bounds - first)
