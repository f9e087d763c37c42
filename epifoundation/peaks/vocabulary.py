"""The peaks and genes of a model, and the mapping of other peaks onto them."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp

from .._columns import check_storable
from ..genome import COLUMNS, canonical_build, overlaps, parse_intervals, read_intervals
from .bed import read_bed
from .named import read_peak_set

GENE_IDS = ("gene_ids", "gene_id")  # columns of `var` with identifiers: 10x, others


@dataclass(frozen=True, eq=False)
class PeakVocabulary:
    """An ordered set of genomic intervals; the position of a peak is its token.

    Parameters
    ----------
    intervals
        Columns ``chrom``, ``start``, ``end``; 0-based, half-open, no duplicates.
    genome
        Name of the genome build (``"hg38"`` or ``"GRCh38"``, ``"mm10"``, ...), or ``"unknown"``.
    is_atlas
        The peaks are those of many tissues, of which data have a small part: coverage is measured
        on the peaks of the data, not on these.

    Raises
    ------
    ValueError
        An interval is empty, reversed, negative or a duplicate.

    Examples
    --------
    >>> import epifoundation as ep
    >>> peaks = ep.PeakVocabulary.from_names(["chr1:100-200", "chr1:300-400"], genome="hg38")
    >>> len(peaks)
    2
    >>> peaks.projection(ep.genome.parse_intervals(["chr1:150-340"])).toarray()
    array([[1., 0.]], dtype=float32)
    """

    intervals: pd.DataFrame
    genome: str = "unknown"
    is_atlas: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "intervals", read_intervals(self.intervals))
        object.__setattr__(self, "genome", canonical_build(self.genome))
        duplicated = self.intervals.duplicated()
        if duplicated.any():
            chrom, start, end = self.intervals[duplicated].iloc[0]
            msg = f"{int(duplicated.sum()):,} peaks occur twice, first {chrom}:{start}-{end}; "
            msg += "drop the copies."
            raise ValueError(msg)

    @classmethod
    def from_names(cls, names: Iterable[str], *, genome: str = "unknown") -> PeakVocabulary:
        """From names such as ``chr1:100-200``."""
        return cls(parse_intervals(names), genome)

    @classmethod
    def from_var(cls, var: pd.DataFrame, *, genome: str = "unknown") -> PeakVocabulary:
        """From ``var`` of an ATAC modality: its columns, or else its names."""
        return cls(read_intervals(var), genome)

    @classmethod
    def read_bed(cls, path: str | Path, *, genome: str = "unknown") -> PeakVocabulary:
        """From the first three columns of a BED file, plain or gzip; duplicates are dropped."""
        return cls(read_bed(path)[COLUMNS].drop_duplicates(), genome)

    @classmethod
    def named(cls, name: str) -> PeakVocabulary:
        """A public peak set, which is downloaded once: all cCREs of the ENCODE registry.

        Parameters
        ----------
        name
            ``"encode-ccre-hg38"`` (2.35 million peaks) or ``"encode-ccre-mm10"`` (about one
            million). Functions with an argument `peaks` take the name, too.
        """
        return cls(*read_peak_set(name))

    def write_bed(self, path: str | Path) -> None:
        """Write a gzip BED file; the same peaks give the same bytes."""
        text = self.intervals.to_csv(sep="\t", header=False, index=False)
        # Level and time are fixed: the sha256 of the file is part of a model
        Path(path).write_bytes(gzip.compress(text.encode(), compresslevel=9, mtime=0))

    def __len__(self) -> int:
        return len(self.intervals)

    @property
    def names(self) -> pd.Index:
        """``chr1:100-200`` of every peak."""
        frame = self.intervals
        start, end = (frame[side].astype(str) for side in ("start", "end"))
        return pd.Index(frame["chrom"] + ":" + start + "-" + end)

    def same_as(self, intervals: pd.DataFrame) -> bool:
        """Whether `intervals` are these peaks in this order, so that no mapping is needed."""
        if len(self) != len(intervals):
            return False
        return all(np.array_equal(self.intervals[c], intervals[c]) for c in COLUMNS)

    def projection(self, intervals: pd.DataFrame, *, min_fraction: float = 0.0) -> sp.csr_matrix:
        """Map other intervals onto the vocabulary.

        Parameters
        ----------
        intervals
            Columns ``chrom``, ``start``, ``end``.
        min_fraction
            Minimal overlap, as a fraction of the shorter of the two intervals. 0: one base.

        Returns
        -------
        Sparse matrix with at most a one in each row, (n_intervals, n_vocabulary): the column
        indices of a row of ``X @ projection`` are the tokens of the cell. An interval maps to the
        overlapping peak whose centre is nearest, so one that is in the vocabulary maps to itself.
        """
        pairs = overlaps(intervals, self.intervals, min_fraction=min_fraction)
        query, target = (
            frame[["start", "end"]].to_numpy(np.int64)[rows]
            for frame, rows in ((intervals, pairs[:, 0]), (self.intervals, pairs[:, 1]))
        )
        # Twice the distance of the centres; the same interval comes before one around it
        distance = np.abs(query.sum(axis=1) - target.sum(axis=1))
        differs = (query != target).any(axis=1)
        order = np.lexsort((pairs[:, 1], differs, distance, pairs[:, 0]))
        is_first = np.diff(pairs[order, 0], prepend=-1) != 0
        rows, columns = pairs[order[is_first]].T
        shape = (len(intervals), len(self))
        ones = np.ones(len(rows), dtype=np.float32)
        return sp.csr_matrix((ones, (rows, columns)), shape=shape)


@dataclass(frozen=True, eq=False)
class GeneVocabulary:
    """An ordered set of genes: symbols and, if known, stable identifiers.

    Parameters
    ----------
    names
        Gene symbols, without duplicates.
    ids
        Stable identifiers (Ensembl), same length, or None.

    Examples
    --------
    >>> import epifoundation as ep
    >>> genes = ep.GeneVocabulary(["CD3D", "MS4A1"])
    >>> genes.positions(["MS4A1", "GAPDH"]).tolist()
    [1, -1]
    """

    names: Sequence[str]
    ids: Sequence[str] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", [str(name) for name in self.names])
        check_storable(self.names, "gene name")  # pandas with pyarrow refuses some of them itself
        index = pd.Index(self.names)
        if index.has_duplicates:
            copy = index[index.duplicated()][0]
            msg = f"Gene names must be unique, {copy!r} occurs twice: "
            msg += "call `var_names_make_unique()`."
            raise ValueError(msg)
        if self.ids is not None:
            object.__setattr__(self, "ids", [str(i) for i in self.ids])
            if len(self.ids) != len(self.names):
                msg = f"Expected one identifier per gene ({len(self.names)}), got {len(self.ids)}."
                raise ValueError(msg)

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def from_var(cls, var: pd.DataFrame) -> GeneVocabulary:
        """From ``var`` of an RNA modality: its names, and identifiers from ``gene_ids``."""
        key = next((name for name in GENE_IDS if name in var.columns), None)
        ids = None if key is None else var[key].astype(str).tolist()
        return cls(var.index.astype(str).tolist(), ids)

    def positions(self, names: Iterable[str]) -> np.ndarray:
        """Position of each name (symbol, or else identifier) in the vocabulary, -1 if unknown."""
        # As objects: the text of pyarrow refuses half of a surrogate pair
        names = pd.Index([str(name) for name in names], dtype=object)
        found = pd.Index(self.names).get_indexer(names)
        if self.ids is not None and not pd.Index(self.ids).has_duplicates:
            found = np.where(found >= 0, found, pd.Index(self.ids).get_indexer(names))
        return found

    def match(self, genes: GeneVocabulary) -> np.ndarray:
        """Position of each of `genes` by symbol, or else by identifier, -1 if unknown."""
        found = self.positions(genes.names)
        if genes.ids is None:
            return found
        return np.where(found >= 0, found, self.positions(genes.ids))

    def take(self, positions: np.ndarray) -> GeneVocabulary:
        """The genes at these positions."""
        ids = None if self.ids is None else [self.ids[int(i)] for i in positions]
        return GeneVocabulary([self.names[int(i)] for i in positions], ids)

    def write_tsv(self, path: str | Path) -> None:
        """Write the columns ``gene`` and, if known, ``id``."""
        frame = pd.DataFrame({"gene": self.names} | ({} if self.ids is None else {"id": self.ids}))
        frame.to_csv(path, sep="\t", index=False)

    @classmethod
    def read_tsv(cls, path: str | Path) -> GeneVocabulary:
        """The inverse of :meth:`write_tsv`.

        Raises
        ------
        ValueError
            The file is not text, has no column ``gene``, or names a gene twice.
        """
        try:
            with Path(path).open(encoding="utf-8", newline="") as file:
                header, *rows = [row for row in csv.reader(file, delimiter="\t") if row]
        except (ValueError, csv.Error) as error:
            msg = f"{str(path)!r} is not a tab-separated text file with a header: {error}."
            raise ValueError(msg) from error
        if "gene" not in header or any(len(row) != len(header) for row in rows):
            msg = f"{str(path)!r} must have a column 'gene', and all its columns in each line; "
            raise ValueError(f"{msg}it has the columns {header!r:.80}.")
        table = dict(zip(header, zip(*rows, strict=True), strict=bool(rows)))
        return cls(table.get("gene", ()), table.get("id", () if "id" in header else None))
