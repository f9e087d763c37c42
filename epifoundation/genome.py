"""Genomic intervals: read, compared with another set, their build told and changed. 0-based, half-open throughout."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

COLUMNS = ["chrom", "start", "end"]
STYLES = "chr1:100-200, chr1-100-200, chr1_100_200 or 1:100-200"
BUILDS = ("hg38", "hg19", "hs1", "mm10", "mm39", "mm9")  # of which bioframe brings the chromosome lengths
ALIASES = {  # as Ensembl, NCBI and others say
    "grch38": "hg38",
    "grch37": "hg19",
    "b37": "hg19",
    "hs37d5": "hg19",
    "t2t-chm13": "hs1",
    "chm13": "hs1",
    "t2t-chm13v2.0": "hs1",
    "grcm38": "mm10",
    "grcm39": "mm39",
    "ncbim37": "mm9",
    "mgscv37": "mm9",
}
RNA = ("Gene Expression", "GEX")  # kinds of features that are no peaks, by 10x and by others
TOLERANCE = 2e-4  # of the intervals may lie where a build has no sequence
# The chromosome may itself hold the separators (chr1_KI270706v1_random): it takes all but the last two numbers.
_NAME = r"^(.*[^:_-])[:_-]([\d,]+)[_-]([\d,]+)$"


def parse_intervals(names: Iterable[str]) -> pd.DataFrame:
    """Read intervals from peak names.

    Parameters
    ----------
    names
        ``chr1:100-200``, ``chr1-100-200``, ``chr1_100_200`` or ``1:100-200``; thousands separators are
        allowed. A chromosome without prefix gets ``chr``.

    Returns
    -------
    Columns ``chrom``, ``start``, ``end`` (0-based, half-open), in the order of `names`.

    Raises
    ------
    ValueError
        A name is no interval, or is empty or reversed.

    Examples
    --------
    >>> import epifoundation as ep
    >>> ep.genome.parse_intervals(["chr1:100-200", "X_5_10"])
      chrom  start  end
    0  chr1    100  200
    1  chrX      5   10
    """
    series = pd.Series(list(names), dtype=object).astype(str)
    parts = series.str.extract(_NAME)
    missing = parts[0].isna()
    if missing.any():
        msg = (
            f"{int(missing.sum()):,} of {len(series):,} peak names are no genomic intervals, first {series[missing].iloc[0]!r}. "
            f"Expected {STYLES}; rename `var_names` or give `var` the columns {COLUMNS}."
        )
        raise ValueError(msg)
    return _check_intervals(parts[0], *(parts[i].str.replace(",", "", regex=False) for i in (1, 2)))


def read_intervals(var: pd.DataFrame) -> pd.DataFrame:
    """Read the intervals of a peak table.

    Parameters
    ----------
    var
        ``var`` of an ATAC modality. Columns ``chrom``, ``start``, ``end`` come first, then a 10x
        ``interval`` column, then the index.

    Returns
    -------
    Columns ``chrom``, ``start``, ``end`` (0-based, half-open), in the order of `var`.

    Raises
    ------
    ValueError
        Neither columns nor names hold intervals.

    Examples
    --------
    >>> import epifoundation as ep
    >>> ep.genome.read_intervals(ep.datasets.pbmc_multiome()["atac"].var).shape[1]
    3
    """
    if set(COLUMNS) <= set(var.columns):
        frame = var[COLUMNS].reset_index(drop=True)
        return _check_intervals(frame["chrom"], frame["start"], frame["end"])
    kinds = var["feature_types"].astype(str) if "feature_types" in var.columns else pd.Series(dtype=str)
    genes = kinds.isin(RNA)
    if genes.any():  # what 10x writes into one matrix
        others = sorted(set(kinds[~genes]))
        cure = (
            f"keep the others: `adata[:, adata.var['feature_types'] == {others[0]!r}].copy()`"
            if others
            else "pass the peaks"
        )
        msg = (
            f"The matrix holds {' and '.join(sorted(set(kinds)))}: {int(genes.sum()):,} of its {len(var):,} columns are genes, not peaks; "
            f"{cure}, or read the file with muon, which parts them."
        )
        raise ValueError(msg)
    return parse_intervals(var["interval"] if "interval" in var.columns else var.index)


def canonical_build(name: str) -> str:
    """The name of a genome build as UCSC has it.

    Parameters
    ----------
    name
        Such as ``"GRCh38"``; upper or lower case.

    Returns
    -------
    One of ``BUILDS``; any other name as it is.

    Examples
    --------
    >>> import epifoundation as ep
    >>> ep.genome.canonical_build("GRCh38"), ep.genome.canonical_build("dm6")
    ('hg38', 'dm6')
    """
    lower = str(name).strip().lower()
    lower = ALIASES.get(lower.split(".p")[0], lower)  # with or without the patch, as GRCh38.p14
    return lower if lower in BUILDS else str(name)


def overlaps(query: pd.DataFrame, target: pd.DataFrame, *, min_fraction: float = 0.0) -> np.ndarray:
    """Find all pairs of overlapping intervals.

    Parameters
    ----------
    query, target
        Columns ``chrom``, ``start``, ``end``.
    min_fraction
        Least overlap, as a fraction of the shorter of the two intervals. 0 asks for one base.

    Returns
    -------
    Row numbers in `query` and `target`, shape (n_pairs, 2).

    Examples
    --------
    >>> import epifoundation as ep
    >>> a = ep.genome.parse_intervals(["chr1:0-10", "chr1:20-30"])
    >>> b = ep.genome.parse_intervals(["chr1:5-25"])
    >>> ep.genome.overlaps(a, b).tolist()
    [[0, 0], [1, 0]]
    """
    if not len(query) or not len(target):
        return np.empty((0, 2), dtype=np.int64)
    axis = Axis(target)
    codes, names = pd.factorize(query["chrom"])
    contig = axis.contigs.get_indexer(names)[codes]
    known = np.flatnonzero(contig >= 0)
    start, end = (query[side].to_numpy(np.int64)[known] for side in ("start", "end"))
    i, j = axis.overlaps(contig[known], start, end)
    first, last = (target[side].to_numpy(np.int64)[j] for side in ("start", "end"))
    shared = np.minimum(end[i], last) - np.maximum(start[i], first)
    enough = shared >= min_fraction * np.minimum(end[i] - start[i], last - first)
    found = np.column_stack([known[i], j])[enough]
    return found[np.lexsort((found[:, 1], found[:, 0]))]


class Axis:
    """Contigs end to end, so that one search serves them all; 64-bit, since a genome has more than 2^31 bases.

    Parameters
    ----------
    intervals
        Those to be found: columns ``chrom``, ``start``, ``end``.

    Attributes
    ----------
    contigs
        Names of the contigs that they are on.
    """

    def __init__(self, intervals: pd.DataFrame) -> None:
        code, names = pd.factorize(intervals["chrom"])
        start, end = (intervals[side].to_numpy(np.int64) for side in ("start", "end"))
        self.contigs = pd.Index(names)
        self._length = pd.Series(end).groupby(code).max().to_numpy(np.int64)
        room = self._length + 2  # one base before and after each contig: what lies outside of it is moved there
        self._offset = np.cumsum(room) - room + 1
        self.start, self.end = self._offset[code] + start, self._offset[code] + end

    def overlaps(self, contig: np.ndarray, start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All pairs of overlapping intervals: of those that are asked for, on ``contigs[contig]``, and of those of the axis."""
        from bioframe.core.arrops import overlap_intervals

        offset, length = self._offset[contig], self._length[contig]
        here = (offset + np.clip(side, -1, length) for side in (start, end))
        return overlap_intervals(*here, self.start, self.end)


def misplaced(intervals: pd.DataFrame, build: str) -> np.ndarray:
    """Tell intervals that cannot be of a build: past the end of their chromosome, or on one that it has not.

    Parameters
    ----------
    intervals
        Columns ``chrom``, ``start``, ``end``.
    build
        One of ``BUILDS``.

    Returns
    -------
    Boolean, (n_intervals,). Unplaced contigs and the mitochondrion are not judged.

    Raises
    ------
    ValueError
        The build is unknown.

    Examples
    --------
    >>> import epifoundation as ep
    >>> peaks = ep.genome.parse_intervals(["chr1:248956500-248957000", "chr22:5-10"])
    >>> ep.genome.misplaced(peaks, "hg38").tolist(), ep.genome.misplaced(peaks, "mm10").tolist()
    ([True, False], [True, True])
    """
    build = canonical_build(build)
    if build not in BUILDS:
        msg = f"Unknown build {build!r}; choose one of {list(BUILDS)}."
        raise ValueError(msg)
    codes, names = _contigs(intervals)
    return intervals["end"].to_numpy() > _room(names, build)[codes]


def _contigs(intervals: pd.DataFrame) -> tuple[np.ndarray, pd.Series]:
    """Which contig each interval is on, and their names: few names, many intervals."""
    codes, names = pd.factorize(intervals["chrom"].astype(str))
    return codes, _with_prefix(pd.Series(names, dtype=object))


def _room(names: pd.Series, build: str) -> np.ndarray:
    """Bases of each contig; none where the build lacks the chromosome, without end for what is no chromosome."""
    import bioframe

    sizes = bioframe.assembly_info(build).chromsizes.to_dict()
    chromosome = re.compile(r"chr(\d{1,2}|X|Y)")
    return np.array([sizes.get(name, 0) if chromosome.fullmatch(name) else np.inf for name in names], dtype=float)


def _n_misplaced(intervals: pd.DataFrame) -> dict[str, int]:
    """How many intervals have no place on each build."""
    (codes, names), end = _contigs(intervals), intervals["end"].to_numpy()
    return {build: int((end > _room(names, build)[codes]).sum()) for build in BUILDS}


def detect_build(intervals: pd.DataFrame) -> list[str]:
    """Tell the genome builds that intervals can be of, by the lengths of the chromosomes.

    Peaks near the ends of chromosomes fit the right build alone, so a few thousand of them, spread over the genome,
    usually leave one.

    Parameters
    ----------
    intervals
        Columns ``chrom``, ``start``, ``end``.

    Returns
    -------
    Those of ``BUILDS`` on which as good as all intervals have a place; empty when there is none.

    Examples
    --------
    >>> import epifoundation as ep
    >>> ep.genome.detect_build(ep.genome.parse_intervals(["chr19:61400000-61400500", "chr1:100-200"]))
    ['hs1', 'mm10', 'mm39']
    """
    wrong = _n_misplaced(intervals)
    allowed = min(wrong.values()) + TOLERANCE * len(intervals)
    if min(wrong.values()) > 0.01 * len(intervals):  # coordinates of no build, so nothing is told
        return []
    return [build for build, n in wrong.items() if n <= allowed]


def lift_over(intervals: pd.DataFrame, chain: str | Path) -> tuple[pd.DataFrame, pd.Series]:
    """Move intervals to another genome build.

    Both ends are moved by themselves; they must land on the same chromosome and strand, in order, at a distance of half to
    twice the length.

    Parameters
    ----------
    intervals
        Columns ``chrom``, ``start``, ``end``.
    chain
        A UCSC chain file, such as ``hg19ToHg38.over.chain.gz``.

    Returns
    -------
    The intervals that were lifted, with the index of those that were given, and for each given one ``"lifted"``, ``"split"`` (its ends
    part or land in several places) or ``"lost"`` (an end has no place).

    Raises
    ------
    FileNotFoundError
        The chain file is not there.
    ValueError
        It is none.
    ImportError
        The package ``liftover`` is not installed.

    Examples
    --------
    >>> import epifoundation as ep
    >>> lifted, status = ep.genome.lift_over(intervals, "hg19ToHg38.over.chain.gz")  # doctest: +SKIP
    """
    path = Path(chain)
    if not path.is_file():
        msg = f"The chain file {str(path)!r} is not there; UCSC offers them by pairs of builds, as hg19ToHg38.over.chain.gz."
        raise FileNotFoundError(msg)
    try:
        from liftover import ChainFile
    except ImportError as error:
        msg = "Lifting peaks over needs the package `liftover`: pip install liftover."
        raise ImportError(msg) from error
    try:
        place = ChainFile(str(path))
        list(place.keys())
    except Exception as error:  # of what is no chain file, almost any
        first = str(error).split("\n")[0]
        msg = f"{str(path)!r} is no chain file, or is truncated: {first}"
        raise ValueError(msg) from error
    spelt = {name: name for name in place.keys()}  # noqa: SIM118 # it is no dict
    spelt = (
        dict(zip(_with_prefix(pd.Series(list(spelt), dtype=object)), spelt, strict=True)) | spelt
    )  # Ensembl has no "chr"
    chroms = _with_prefix(intervals["chrom"].astype(str))
    rows, status = [], []
    for chrom, start, end in zip(chroms, intervals["start"], intervals["end"], strict=True):
        head, tail = ([place.query(spelt[chrom], at) for at in (start, end - 1)]) if chrom in spelt else ([], [])
        moved = _joined(head, tail, end - start)
        status.append("lifted" if moved else "split" if head and tail else "lost")
        if moved:
            rows.append(moved)
    told = pd.Series(status, index=intervals.index, dtype=object)
    lifted = pd.DataFrame(rows, columns=COLUMNS, index=intervals.index[told == "lifted"])
    return lifted.assign(chrom=_with_prefix(lifted["chrom"].astype(object))), told


def _joined(first: list, last: list, length: int) -> tuple[str, int, int] | None:
    """The interval between the moved first and last base, if it is one."""
    if len(first) != 1 or len(last) != 1:
        return None
    (chrom, start, strand), (other, end, other_strand) = first[0][:3], last[0][:3]
    if (chrom, strand) != (other, other_strand) or (start > end) != (strand == "-" and length > 1):
        return None
    low, high = min(start, end), max(start, end) + 1
    return (chrom, low, high) if length / 2 <= high - low <= 2 * length else None


def _check_intervals(chrom: pd.Series, start: pd.Series, end: pd.Series) -> pd.DataFrame:
    """Make the table of intervals, all of them with a chromosome, a length and no negative start."""
    # Text, nullable or not: float64 holds whole numbers up to 2^53, and NaN compares as false.
    first, last = (pd.to_numeric(column.astype(object), errors="coerce").astype(float) for column in (start, end))
    whole = (first % 1 == 0) & (last % 1 == 0)
    wrong = chrom.isna() | (chrom.astype(str) == "") | ~((first >= 0) & (last > first) & (last < 2**53) & whole)
    if wrong.any():
        i = int(np.flatnonzero(wrong)[0])
        msg = (
            f"{int(wrong.sum()):,} of {len(wrong):,} intervals are empty, reversed, negative or no numbers, "
            f"first {chrom[i]}:{start[i]}-{end[i]}. Expected 0 <= start < end (0-based, half-open)."
        )
        raise ValueError(msg)
    return pd.DataFrame(
        {"chrom": _with_prefix(chrom.astype(str)), "start": first.astype("int64"), "end": last.astype("int64")}
    )


def _with_prefix(chrom: pd.Series) -> pd.Series:
    """1, X, MT -> chr1, chrX, chrM; names of contigs stay as they are."""
    codes, names = pd.factorize(chrom)  # few names, many peaks; -1 is a missing one
    bare = re.compile(r"\d{1,2}|[XYM]|MT")
    full = ["chr" + name.replace("MT", "M") if bare.fullmatch(name) else name for name in names]
    return pd.Series(np.array([*full, None], dtype=object)[codes], index=chrom.index, dtype=object)
