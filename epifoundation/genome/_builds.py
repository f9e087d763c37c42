"""Genome builds: detect the build of intervals, and lift intervals to another."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from .._files import read_lines
from ._chromosome_lengths import BUILDS, chromosome_lengths
from ._intervals import COLUMNS, with_prefix

ALIASES = {  # names by Ensembl, NCBI and others
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
MAX_MISPLACED = 2e-4  # fraction of the intervals that may lie past the ends of a build


def canonical_build(name: str) -> str:
    """The UCSC name of a genome build.

    Parameters
    ----------
    name
        A name such as ``"GRCh38"``, in upper or lower case.

    Returns
    -------
    One of ``BUILDS``; other names are returned unchanged.

    Examples
    --------
    >>> import epifoundation as ep
    >>> ep.genome.canonical_build("GRCh38"), ep.genome.canonical_build("dm6")
    ('hg38', 'dm6')
    """
    lower = str(name).strip().lower()
    lower = ALIASES.get(lower.split(".p")[0], lower)  # without the patch, as in GRCh38.p14
    return lower if lower in BUILDS else str(name)


def misplaced(intervals: pd.DataFrame, build: str) -> np.ndarray:
    """Find intervals past the ends of a build's chromosomes, or on chromosomes that it lacks.

    Parameters
    ----------
    intervals
        Columns ``chrom``, ``start``, ``end``.
    build
        One of ``BUILDS``.

    Returns
    -------
    Boolean, (n_intervals,). Unplaced contigs and the mitochondrion are never misplaced.

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
    return intervals["end"].to_numpy() > _lengths(names, build)[codes]


def _contigs(intervals: pd.DataFrame) -> tuple[np.ndarray, pd.Series]:
    """Code of the contig of each interval, and the names of the contigs."""
    codes, names = pd.factorize(intervals["chrom"].astype(str))
    return codes, with_prefix(pd.Series(names, dtype=object))


def _lengths(names: pd.Series, build: str) -> np.ndarray:
    """Length of each contig: 0 if the build lacks the chromosome, infinite if it is not one."""
    lengths = chromosome_lengths(build)
    is_chromosome = names.str.fullmatch(r"chr(\d{1,2}|X|Y)")
    return np.where(is_chromosome, [lengths.get(name, 0) for name in names], np.inf)


def count_misplaced(intervals: pd.DataFrame) -> dict[str, int]:
    """Number of intervals outside of the chromosomes of each build.

    Those that only end past the end of a chromosome are not counted: peak callers extend peaks.
    """
    codes, names = _contigs(intervals)
    # Fragments are given by the last base on each contig
    start = intervals["start"] if "start" in intervals.columns else intervals["end"] - 1
    start = start.to_numpy()
    return {build: int((start >= _lengths(names, build)[codes]).sum()) for build in BUILDS}


def detect_build(intervals: pd.DataFrame) -> list[str]:
    """List the genome builds that fit intervals, by the lengths of the chromosomes.

    Peaks near the ends of chromosomes fit no other build, so a few thousand peaks that cover the
    genome usually leave one build.

    Parameters
    ----------
    intervals
        Columns ``chrom``, ``start``, ``end``.

    Returns
    -------
    Those of ``BUILDS`` in which nearly all intervals lie on a chromosome; may be empty.

    Examples
    --------
    >>> import epifoundation as ep
    >>> peaks = ep.genome.parse_intervals(["chr19:61400000-61400500", "chr1:100-200"])
    >>> ep.genome.detect_build(peaks)
    ['hs1', 'mm10', 'mm39']
    """
    wrong = count_misplaced(intervals)
    allowed = min(wrong.values()) + MAX_MISPLACED * len(intervals)
    if min(wrong.values()) > 0.01 * len(intervals):  # not a known build
        return []
    return [build for build, n in wrong.items() if n <= allowed]


def lift_over(intervals: pd.DataFrame, chain: str | Path) -> tuple[pd.DataFrame, pd.Series]:
    """Move intervals to another genome build.

    The two ends are lifted separately; they must land on the same chromosome and strand, in order,
    and at a distance of half to twice the length.

    Parameters
    ----------
    intervals
        Columns ``chrom``, ``start``, ``end``.
    chain
        A UCSC chain file, such as ``hg19ToHg38.over.chain.gz``.

    Returns
    -------
    The lifted intervals, indexed as in `intervals`; and the status of each given interval:
    ``"lifted"``, ``"split"`` (the ends are separated or map to several positions) or ``"lost"``
    (an end does not map).

    Raises
    ------
    FileNotFoundError
        The chain file does not exist.
    ValueError
        The file is not a chain file.
    ImportError
        The package ``liftover`` is not installed.

    Examples
    --------
    >>> import epifoundation as ep
    >>> lifted, status = ep.genome.lift_over(peaks, "hg19ToHg38.over.chain.gz")  # doctest: +SKIP
    """
    lifted, status = lift_with_strand(intervals, chain)
    return lifted[COLUMNS], status


def lift_with_strand(intervals: pd.DataFrame, chain: str | Path) -> tuple[pd.DataFrame, pd.Series]:
    """:func:`lift_over`, with a column ``strand`` of the lifted intervals."""
    path = Path(chain)
    if not path.is_file():
        msg = f"The chain file {str(path)!r} does not exist; "
        msg += "UCSC offers one for each pair of builds, such as hg19ToHg38.over.chain.gz."
        raise FileNotFoundError(msg)
    try:
        from liftover import ChainFile
    except ImportError as error:
        msg = "Lifting peaks over needs the package `liftover`: "
        msg += "`pip install 'epifoundation[fragments]'`."
        raise ImportError(msg) from error
    # A copy without byte order mark and blanks, which liftover takes for damage
    lines = "\n".join(line.rstrip() for line in read_lines(path))
    try:
        with TemporaryDirectory() as folder:
            clean = Path(folder) / "clean.chain"
            clean.write_text(lines, encoding="utf-8")
            lifter = ChainFile(str(clean))
        names = list(lifter.keys())
    except Exception as error:  # liftover raises many types on other files
        reason = str(error).split("\n")[0]
        msg = f"{str(path)!r} is not a chain file, or is truncated: {reason}"
        raise ValueError(msg) from error
    prefixed = with_prefix(pd.Series(names, dtype=object))  # chains of Ensembl have no "chr"
    name_in_chain = dict(zip(prefixed, names, strict=True)) | {name: name for name in names}
    chroms = with_prefix(intervals["chrom"].astype(str))
    rows, status = [], []
    for chrom, start, end in zip(chroms, intervals["start"], intervals["end"], strict=True):
        name = name_in_chain.get(chrom, "")
        first = lifter.query(name, start) if name else []
        last = first if end - start == 1 or not first else lifter.query(name, end - 1)
        interval = _join(first, last, end - start)
        status.append("lifted" if interval else "split" if first and last else "lost")
        if interval:
            rows.append(interval)
    statuses = pd.Series(status, index=intervals.index, dtype=object)
    is_lifted = (statuses == "lifted").to_numpy()  # names may occur twice
    lifted = pd.DataFrame(rows, columns=[*COLUMNS, "strand"], index=intervals.index[is_lifted])
    return lifted.assign(chrom=with_prefix(lifted["chrom"].astype(object))), statuses


def _join(first: list, last: list, length: int) -> tuple[str, int, int, str] | None:
    """The interval between the lifted first and last base, or None if they do not form one."""
    if len(first) != 1 or len(last) != 1:
        return None
    (chrom, start, strand), (other, end, other_strand) = first[0][:3], last[0][:3]
    is_reversed = start > end
    if (chrom, strand) != (other, other_strand) or is_reversed != (strand == "-" and length > 1):
        return None
    low, high = min(start, end), max(start, end) + 1
    return (chrom, low, high, strand) if length / 2 <= high - low <= 2 * length else None
