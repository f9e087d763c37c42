"""Count fragments by cell and peak, block by block."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp

from .._warn import warn
from ..genome import Axis
from ..peaks.mapping import genome_build, incompatible_builds
from ..peaks.vocabulary import PeakVocabulary
from ._read_barcodes import check_found
from ._read_fragments import Fragments

Counting = Literal["insertion", "fragment"]


class FragmentCounter:
    """Counts of cells on peaks, summed over blocks of fragments.

    Attributes
    ----------
    rows
        Row of each cell: the requested ones, or else all in the files.
    n_fragments, n_in_peaks
        Fragments of each row: all, and those counted in a peak.
    n_lines, n_unknown
        Fragments in the files: all, and those on contigs without a peak.
    """

    def __init__(self, peaks: PeakVocabulary, names: pd.Index | None, counting: Counting) -> None:
        self.axis = Axis(peaks.intervals)
        self.genome, self.counting = genome_build(peaks), counting
        self.requested = names
        self.rows: dict[str, int] = {}
        if names is not None:
            self.rows = dict(zip(names, range(len(names)), strict=True))
        self.n_fragments = self.n_in_peaks = np.zeros(len(self.rows), np.int64)
        self.n_lines = self.n_unknown = 0
        self.reach: dict[str, int] = {}  # end of the last fragment on each contig
        self.first: dict[str, str] = {}  # first barcode of each sample
        self._sums: list[sp.csr_matrix] = []

    def add(self, block: Fragments, prefix: str) -> None:
        """Count the fragments of a block."""
        if not len(block.start):
            return
        self._check_build(block)
        self.first.setdefault(prefix, block.barcodes[0])
        row = self._rows_of(prefix + block.barcodes)[block.barcode]
        contig = self.axis.contigs.get_indexer(block.chroms)[block.chrom]
        self.n_lines += len(row)
        self.n_unknown += int((contig < 0).sum())
        is_cell = row >= 0
        here = np.flatnonzero(is_cell & (contig >= 0))
        start, end = block.start[here], block.end[here]
        if self.counting == "insertion":
            start = np.concatenate([start, end - 1])
            end = start + 1
        hit, peak = self.axis.overlaps(np.resize(contig[here], len(start)), start, end)
        fragment = np.resize(here, len(start))[hit]
        size = len(self.rows)
        n_in_file = np.bincount(row[is_cell], minlength=size)
        n_in_peaks = np.bincount(row[np.unique(fragment)], minlength=size)
        self.n_fragments = _grown(self.n_fragments, size) + n_in_file
        self.n_in_peaks = _grown(self.n_in_peaks, size) + n_in_peaks
        shape = (size, len(self.axis.start))
        ones = np.ones(len(fragment), np.int32)
        part = sp.coo_matrix((ones, (row[fragment], peak)), shape=shape).tocsr()
        # Each partial sum is at least twice as large as the next, so that an entry is copied only
        # a logarithmic number of times
        while self._sums and self._sums[-1].nnz <= 2 * part.nnz:
            last = self._sums.pop()
            last.resize(shape)
            part = last + part
        self._sums.append(part)

    def counts(self) -> sp.csr_matrix:
        """The whole matrix, (n_rows, n_peaks)."""
        total = sp.csr_matrix((len(self.rows), len(self.axis.start)), dtype=np.int32)
        while self._sums:
            part = self._sums.pop()
            part.resize(total.shape)
            total = total + part
        return total

    def check(self, prefixes: list[str], *, kept: str) -> None:
        """Raise ValueError if no cell or no fragment in a peak was found; warn of missing cells.

        `kept` says in the warning what becomes of their rows.
        """
        if self.requested is not None:
            is_found = self.n_fragments > 0
            missing = check_found(self.requested, is_found, self.first, prefixes)
            if len(missing):
                msg = f"{len(missing):,} of {len(self.requested):,} barcodes have no fragment, "
                msg += f"first {missing[0]!r}: their rows are {kept}."
                warn(msg)
        if not self.n_in_peaks.any():
            msg = (
                f"None of the {self.n_lines:,} fragments of the cells falls into a peak; "
                f"{self.n_unknown:,} are on contigs without any: {list(self.reach)[:3]}, peaks on "
                f"{list(self.axis.contigs[:3])}. Are they of the same genome build and organism?"
            )
            raise ValueError(msg)

    def _rows_of(self, names: pd.Index) -> np.ndarray:
        if self.requested is not None:
            return self.requested.get_indexer(names)
        rows = [self.rows.setdefault(name, len(self.rows)) for name in names]
        return np.array(rows, dtype=np.int64)

    def _check_build(self, block: Fragments) -> None:
        """Raise ValueError if fragments lie past the end of a contig, and fit another build."""
        for code, end in pd.Series(block.end).groupby(block.chrom).max().items():
            name = block.chroms[code]
            self.reach[name] = max(self.reach.get(name, 0), end)
        reach = pd.DataFrame({"chrom": list(self.reach), "end": list(self.reach.values())})
        builds, wrong = incompatible_builds(reach, self.genome)
        if builds:
            chrom, end = reach[wrong].iloc[0]
            msg = (
                f"The fragments are of {' or '.join(builds)}, the peaks are of {self.genome}: on "
                f"{chrom} they reach to {end:,}, past its end there. Count on peaks of their "
                "build, and embed with `mapping=ep.PeakMapping(liftover=...)` and the chain file "
                f"to {self.genome}."
            )
            raise ValueError(msg)


def _grown(values: np.ndarray, size: int) -> np.ndarray:
    return np.concatenate([values, np.zeros(size - len(values), values.dtype)])
