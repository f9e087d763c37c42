"""Genome builds: which one intervals are of, and from one to another."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from ._intervals import COLUMNS, with_prefix

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
TOLERANCE = 2e-4  # of the intervals may lie where a build has no sequence


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


@cache  # bioframe reads a file for it
def chromosome_lengths(build: str) -> dict[str, int]:
    """Bases of each chromosome of one of ``BUILDS``."""
    import bioframe

    return bioframe.assembly_info(build).chromsizes.to_dict()


def _contigs(intervals: pd.DataFrame) -> tuple[np.ndarray, pd.Series]:
    """Which contig each interval is on, and their names: few names, many intervals."""
    codes, names = pd.factorize(intervals["chrom"].astype(str))
    return codes, with_prefix(pd.Series(names, dtype=object))


def _room(names: pd.Series, build: str) -> np.ndarray:
    """Bases of each contig; none where the build lacks the chromosome, without end for what is no chromosome."""
    sizes = chromosome_lengths(build)
    chromosome = re.compile(r"chr(\d{1,2}|X|Y)")
    return np.array([sizes.get(name, 0) if chromosome.fullmatch(name) else np.inf for name in names], dtype=float)


def n_misplaced(intervals: pd.DataFrame) -> dict[str, int]:
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
    wrong = n_misplaced(intervals)
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
        msg = "Lifting peaks over needs the package `liftover`: `pip install 'epifoundation[fragments]'`."
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
        dict(zip(with_prefix(pd.Series(list(spelt), dtype=object)), spelt, strict=True)) | spelt
    )  # Ensembl has no "chr"
    chroms = with_prefix(intervals["chrom"].astype(str))
    rows, status = [], []
    for chrom, start, end in zip(chroms, intervals["start"], intervals["end"], strict=True):
        head, tail = ([place.query(spelt[chrom], at) for at in (start, end - 1)]) if chrom in spelt else ([], [])
        moved = _joined(head, tail, end - start)
        status.append("lifted" if moved else "split" if head and tail else "lost")
        if moved:
            rows.append(moved)
    told = pd.Series(status, index=intervals.index, dtype=object)
    lifted = pd.DataFrame(rows, columns=COLUMNS, index=intervals.index[told == "lifted"])
    return lifted.assign(chrom=with_prefix(lifted["chrom"].astype(object))), told


def _joined(first: list, last: list, length: int) -> tuple[str, int, int] | None:
    """The interval between the moved first and last base, if it is one."""
    if len(first) != 1 or len(last) != 1:
        return None
    (chrom, start, strand), (other, end, other_strand) = first[0][:3], last[0][:3]
    if (chrom, strand) != (other, other_strand) or (start > end) != (strand == "-" and length > 1):
        return None
    low, high = min(start, end), max(start, end) + 1
    return (chrom, low, high) if length / 2 <= high - low <= 2 * length else None
