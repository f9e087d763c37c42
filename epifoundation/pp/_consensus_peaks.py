"""``ep.pp.consensus_peaks``: one set of peaks from several, to train one model on all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from tqdm import tqdm

from .._option_types import checked
from .._settings import settings
from .._validate import get_modality, integer
from ..cells.formats import find_format, read_var
from ..genome import BUILDS, canonical_build, detect_build, read_intervals
from ..genome._chromosome_lengths import chromosome_lengths
from ..peaks.bed import read_bed
from ..peaks.named import is_peak_set, read_peak_set
from ..peaks.vocabulary import PeakVocabulary
from ._merge_peaks import merge_peaks

PeakSource: TypeAlias = AnnData | MuData | PeakVocabulary | pd.DataFrame | str | Path
SUMMIT = "relSummit"  # column 10 of a narrowPeak in bioframe: offset from the start, -1 if none


@checked
def consensus_peaks(
    sources: PeakSource | Iterable[PeakSource] | Mapping[str, PeakSource],
    *,
    width: int | None = None,
    min_sources: int = 1,
    score: str | None = None,
    genome: str | None = None,
    modality: str = "atac",
) -> PeakVocabulary:
    """Merge the peaks of several data sets into one set, to train one model on all of them.

    The result does not depend on the order of the sources or of their peaks. Of files with cells,
    only the table of peaks is read. Intervals are 0-based and half-open, so peaks that merely touch
    do not overlap.

    Parameters
    ----------
    sources
        One or several of the following, or a mapping from names to them (names are used in errors):
        an AnnData or MuData; a table of peaks such as ``adata.var``; a
        :class:`~epifoundation.PeakVocabulary` such as ``model.peaks``; the path of a ``.h5ad`` or
        ``.h5mu`` file, a zarr store, or a BED file (also narrowPeak), plain or gzip; or the name of
        a peak set, as for :func:`epifoundation.pp.count_fragments`.
    width
        If None, overlapping peaks, of one source or several, become their union. Unions grow with
        the number of sources, as one peak bridges others. A number of bases such as 501: all peaks
        get this width around their summit (``relSummit``, column 10 of a narrowPeak) or else their
        middle, and of overlapping peaks the best is kept, see Notes.
    min_sources
        A consensus peak must overlap peaks of at least this many sources.
    score
        Column of the tables that ranks peaks of fixed `width`, higher is better. BED files have
        ``score``, narrowPeak files also ``fc``, ``-log10p`` and ``-log10q``. Default: the number of
        sources with a peak that overlaps.
    genome
        Build of the sources (``"hg38"``, ``"mm10"``). Default: the only one that fits the
        coordinates of all sources and the builds of vocabularies.
    modality
        Name of the ATAC modality of MuData sources.

    Returns
    -------
    Disjoint peaks, sorted by chromosome (``chr2`` before ``chr10``) and position, and their build,
    ``"unknown"`` if the coordinates fit several.

    Raises
    ------
    FileNotFoundError
        A file does not exist.
    ValueError
        There are no sources, or one has no peaks; a file is damaged; the modality or column `score`
        does not exist; a name is not an interval; sources are of different genome builds; or
        `min_sources` exceeds the number of sources, or of those that have any peak in common.
    TypeError
        A source is of another type.

    See Also
    --------
    epifoundation.pp.count_fragments : count fragments on these peaks.

    Notes
    -----
    Fixed width: iterative removal of overlaps (Corces et al. 2018, Science,
    10.1126/science.aav1898). The best peak is kept and peaks that overlap it are dropped, then the
    best of the remaining peaks, and so on. Peaks of fewer than `min_sources` sources are dropped
    first. As in ArchR, a score is replaced by its rank within the source, divided by the number of
    peaks, since experiments differ in depth; the paper divides scores by their sum, which favours
    sources with few peaks. Ties are resolved by the number of sources that overlap, then by the
    number of bases that their peaks overlap, then by position. A peak that would start before its
    chromosome, or end after it if the build is known, is shifted inside.

    Examples
    --------
    >>> import epifoundation as ep
    >>> one = ep.PeakVocabulary.from_names(["chr1:100-300", "chr1:800-900"])
    >>> two = ep.PeakVocabulary.from_names(["chr1:250-400", "chr2:10-90"])
    >>> list(ep.pp.consensus_peaks([one, two]).names)
    ['chr1:100-400', 'chr1:800-900', 'chr2:10-90']
    >>> list(ep.pp.consensus_peaks([one, two], width=201, min_sources=2).names)
    ['chr1:100-301']
    >>> atac = ep.datasets.pbmc_multiome()["atac"]
    >>> len(ep.pp.consensus_peaks({"pbmc": atac, "mine": one}, genome="hg38"))
    5726
    """
    named = _named(sources)
    if integer(min_sources, "min_sources", minimum=1) > len(named):
        msg = (
            f"`min_sources` is {min_sources}, but the number of sources is {len(named)}; lower it."
        )
        raise ValueError(msg)
    if width is not None:
        width = integer(width, "width", minimum=1)
    elif score is not None:
        msg = f"`score={score!r}` ranks peaks of fixed width only: give `width=`, such as 501, "
        msg += "or leave `score` out."
        raise ValueError(msg)
    stated = None if genome is None else canonical_build(genome)
    tables, builds = [], [("`genome`", _builds(stated, None))]
    progress = tqdm(named, desc="Peaks", unit=" sources", disable=not settings.progress)
    for name, source in progress:
        var, source_build = _table(name, source, modality)
        peaks = _with_centre_and_score(name, var, score)
        is_known = stated is None or stated in BUILDS
        builds.append((name, _builds(source_build, peaks if is_known else None)))
        build = _common(builds)  # fails before the next file is read
        tables.append(peaks)
    lengths = chromosome_lengths(build) if build in BUILDS else {}
    merged = merge_peaks(tables, width, min_sources, lengths)
    if not len(merged):
        msg = f"No consensus peak overlaps peaks of {min_sources} of the {len(named)} sources: "
        msg += "lower `min_sources`."
        raise ValueError(msg)
    return PeakVocabulary(merged, build)


def _named(sources: Any) -> list[tuple[str, PeakSource]]:
    """The sources with their names in errors."""
    if isinstance(sources, Mapping):
        named = [(repr(str(name)), source) for name, source in sources.items()]
    else:
        is_single = isinstance(sources, PeakSource) or not isinstance(sources, Iterable)
        each = [sources] if is_single else sources
        named = [(_name_of(source, i), source) for i, source in enumerate(each)]
    if not named:
        msg = "`sources` is empty: pass at least one AnnData, MuData, table of peaks, "
        msg += "PeakVocabulary or path."
        raise ValueError(msg)
    return named


def _name_of(source: Any, i: int) -> str:
    is_path = isinstance(source, str | Path)
    return repr(str(source)) if is_path else f"source {i} ({type(source).__name__})"


def _table(name: str, source: PeakSource, modality: str) -> tuple[pd.DataFrame, str | None]:
    """The table of peaks of a source, and its genome build if it states one."""
    build = None
    if isinstance(source, PeakVocabulary):
        var, build = source.intervals, source.genome
    elif isinstance(source, str) and is_peak_set(source):
        var, build = read_peak_set(source)
    elif isinstance(source, str | Path):
        has_cells = find_format(source) is not None
        var = read_var(source, modality) if has_cells else read_bed(source)
    elif isinstance(source, MuData):
        var = get_modality(source, modality, option="modality").var
    elif isinstance(source, AnnData | pd.DataFrame):
        var = source if isinstance(source, pd.DataFrame) else source.var
    else:
        msg = f"{name} must be an AnnData, MuData, table of peaks, PeakVocabulary or path, "
        msg += f"got {type(source).__name__}."
        raise TypeError(msg)
    if not len(var):
        msg = f"{name} has no peaks."
        raise ValueError(msg)
    return var, build


def _with_centre_and_score(name: str, var: pd.DataFrame, score: str | None) -> pd.DataFrame:
    """The intervals of a table of peaks, with the columns ``centre`` and ``score``."""
    try:
        peaks = read_intervals(var)
    except ValueError as error:
        msg = f"{name}: {error}"
        raise ValueError(msg) from error
    start, end = (peaks[side].to_numpy() for side in ("start", "end"))
    summit = _numbers(var[SUMMIT]) if SUMMIT in var.columns else np.full(len(var), -1.0)
    has_summit = (summit >= 0) & (summit < end - start)
    centre = np.where(has_summit, start + summit, (start + end) // 2).astype(np.int64)
    return peaks.assign(centre=centre, score=0.0 if score is None else _ranks(name, var, score))


def _ranks(name: str, var: pd.DataFrame, score: str) -> np.ndarray:
    """Rank of each score in the source, in (0, 1]; ties get the mean rank."""
    if score not in var.columns:
        msg = f"`score={score!r}` is not a column of the peaks of {name}; "
        msg += f"available: {list(var.columns)}."
        raise ValueError(msg)
    scores = pd.Series(_numbers(var[score]))
    missing = np.flatnonzero(scores.isna())
    if len(missing):
        msg = f"Column {score!r} of {name}: {len(missing):,} of {len(scores):,} scores are not "
        msg += f"numbers, first {var[score].iloc[missing[0]]!r}."
        raise ValueError(msg)
    return scores.rank(pct=True).to_numpy()


def _numbers(column: pd.Series) -> np.ndarray:
    """The column as floats, NaN where it is not a number."""
    return pd.to_numeric(column.astype(object), errors="coerce").to_numpy(float)


def _builds(stated: str | None, peaks: pd.DataFrame | None) -> set[str]:
    """Possible builds of peaks: the stated one, or those that fit; empty if nothing is known."""
    if stated is not None and stated != "unknown":
        return {stated}
    found = [] if peaks is None else detect_build(peaks)
    return set(found) if len(found) < len(BUILDS) else set()


def _common(builds: list[tuple[str, set[str]]]) -> str:
    """The build that all sources have in common, ``"unknown"`` if several; ValueError if none."""
    known = [(name, possible) for name, possible in builds if possible]
    common = set().union(*(possible for _, possible in known))
    for i, (name, possible) in enumerate(known):
        common &= possible
        if not common:
            other, of_other = min(known[:i], key=lambda one: len(one[1] & possible))
            msg = (
                f"The genome builds differ: {' or '.join(sorted(of_other))} for {other}, "
                f"{' or '.join(sorted(possible))} for {name}. Lift one over, "
                "`ep.genome.lift_over(ep.genome.read_intervals(adata.var), chain)[0]`, and pass "
                "the result in its place."
            )
            raise ValueError(msg)
    return common.pop() if len(common) == 1 else "unknown"
