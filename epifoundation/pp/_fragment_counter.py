"""Fragments onto peaks: which cut or overlap falls where, added up by cell and peak."""

from __future__ import annotations

import warnings
from typing import Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp

from ..genome import Axis
from ..vocabulary import PeakVocabulary
from ._mapping import foreign_to, told_build
from ._read_fragments import Fragments

Counting = Literal["insertion", "fragment"]


class FragmentCounter:
    """Counts of cells on peaks, added up block by block.

    Attributes
    ----------
    rows
        Row of each cell: those that are asked for, or else all that were seen.
    n_fragments, n_in_peaks
        Of each row, in all, and with a count in any peak.
    n_lines, n_unknown
        Fragments of the files, and those on contigs without a peak.
    """

    def __init__(self, peaks: PeakVocabulary, names: pd.Index | None, counting: Counting) -> None:
        self.axis = Axis(peaks.intervals)
        self.genome, self.counting = told_build(peaks), counting
        self.wanted = names
        self.rows: dict[str, int] = {} if names is None else dict(zip(names, range(len(names)), strict=True))
        self.n_fragments = self.n_in_peaks = np.zeros(len(self.rows), np.int64)
        self.n_lines = self.n_unknown = 0
        self.reach: dict[str, int] = {}  # the last base of each contig
        self.first: dict[str, str] = {}  # barcode of each sample
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
        cell = np.flatnonzero(row >= 0)
        here = np.flatnonzero((row >= 0) & (contig >= 0))
        start, end = block.start[here], block.end[here]
        if self.counting == "insertion":
            start = np.concatenate([start, end - 1])
            end = start + 1
        hit, peak = self.axis.overlaps(np.resize(contig[here], len(start)), start, end)
        of = np.resize(here, len(start))[hit]  # which fragment
        size = len(self.rows)
        self.n_fragments = _grown(self.n_fragments, size) + np.bincount(row[cell], minlength=size)
        self.n_in_peaks = _grown(self.n_in_peaks, size) + np.bincount(row[np.unique(of)], minlength=size)
        shape = (size, len(self.axis.start))
        part = sp.coo_matrix((np.ones(len(of), np.int32), (row[of], peak)), shape=shape).tocsr()
        # A few sums, each at least twice the next: so every count is moved only a logarithm of times.
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
        """Raise where no cell was found or nothing fell into a peak, and warn of cells that are missing, whose rows are `kept`."""
        if self.wanted is not None:
            missing = self.wanted[self.n_fragments == 0]
            for prefix in prefixes:
                own, lost = (names[names.str.startswith(prefix)] for names in (self.wanted, missing))
                if len(own) and len(own) == len(lost):
                    msg = (
                        f"None of the {len(own):,} barcodes is in the file: first {own[0]!r}, and {prefix + self.first[prefix]!r} there. "
                        "Do they lack a suffix such as '-1', or are they of another sample, or those of the RNA?"
                    )
                    raise ValueError(msg)
            if len(missing):
                msg = f"{len(missing):,} of {len(self.wanted):,} barcodes have no fragment, first {missing[0]!r}: their rows are {kept}."
                warnings.warn(msg, UserWarning, stacklevel=3)
        if not self.n_in_peaks.any():
            msg = (
                f"None of the {self.n_lines:,} fragments of the cells falls into a peak; {self.n_unknown:,} are on contigs without any: "
                f"{list(self.reach)[:3]}, peaks on {list(self.axis.contigs[:3])}. Are they of the same genome build and organism?"
            )
            raise ValueError(msg)

    def _rows_of(self, names: pd.Index) -> np.ndarray:
        if self.wanted is not None:
            return self.wanted.get_indexer(names)
        return np.array([self.rows.setdefault(name, len(self.rows)) for name in names], dtype=np.int64)

    def _check_build(self, block: Fragments) -> None:
        """Raise as soon as a fragment lies past the end of its chromosome, if another build has room for all."""
        for code, end in pd.Series(block.end).groupby(block.chrom).max().items():
            name = block.chroms[code]
            self.reach[name] = max(self.reach.get(name, 0), end)
        reach = pd.DataFrame({"chrom": list(self.reach), "end": list(self.reach.values())})
        found, wrong = foreign_to(reach, self.genome)
        if found:
            chrom, end = reach[wrong].iloc[0]
            msg = (
                f"The fragments are of {' or '.join(found)}, the peaks are of {self.genome}: on {chrom} they reach to {end:,}, past its end there. "
                f"Count on peaks of their build, and embed with `liftover=` and the chain file to {self.genome}."
            )
            raise ValueError(msg)


def _grown(values: np.ndarray, size: int) -> np.ndarray:
    return np.concatenate([values, np.zeros(size - len(values), values.dtype)])
