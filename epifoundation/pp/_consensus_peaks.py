"""``ep.pp.consensus_peaks``: one set of peaks from many, for a model that is trained on all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from tqdm import tqdm

from .._settings import settings
from .._validate import get_modality, integer
from ..genome import BUILDS, canonical_build, detect_build, read_intervals
from ..genome._builds import chromosome_lengths
from ..vocabulary import PeakVocabulary
from ._merge_peaks import merge_peaks
from ._read_var import read_var

Source: TypeAlias = AnnData | MuData | PeakVocabulary | pd.DataFrame | str | Path
SUMMIT = "relSummit"  # column 10 of a narrowPeak, as bioframe names it: bases from the start, -1 where there is none


def consensus_peaks(
    sources: Source | Iterable[Source] | Mapping[str, Source],
    *,
    width: int | None = None,
    min_sources: int = 1,
    score: str | None = None,
    genome: str | None = None,
    modality: str = "atac",
) -> PeakVocabulary:
    """Merge the peaks of many files into one set, such as a model is trained on that is to read all of them.

    The result depends neither on the order of the sources nor on that of their peaks. Of files with cells only the table of peaks is
    read, never the matrix. Intervals are 0-based and half-open, so peaks that merely touch do not overlap.

    Parameters
    ----------
    sources
        Several of these, in any mixture, or a mapping to them from names, which errors then tell: an AnnData or MuData; a table of peaks such
        as ``adata.var``; a :class:`~epifoundation.PeakVocabulary`, such as ``model.peaks``; the path of a ``.h5ad`` or ``.h5mu`` file, of
        a zarr store, or of a BED file (narrowPeak too), plain or gzip.
    width
        None: peaks that overlap, in one source or several, become their union. Unions grow with the number of sources, as one peak
        bridges others. A number of bases, such as 501: all peaks get this width around their summit (``relSummit``, column 10
        of a narrowPeak) or else their middle, and of those that overlap the better ones are kept, see Notes.
    min_sources
        A consensus peak must overlap peaks of at least so many sources.
    score
        Column of the tables of peaks that ranks those of fixed `width`, higher is better. A BED file has ``score``, a narrowPeak also ``fc``,
        ``-log10p`` and ``-log10q``. Default: the number of sources with a peak that overlaps.
    genome
        Build of the sources (``"hg38"``, ``"mm10"``); default: the only one that all of them can be of, by their coordinates and by what
        vocabularies say.
    modality
        Name of the ATAC modality, where a source is a MuData.

    Returns
    -------
    The peaks, none of which overlap, by chromosome (``chr2`` before ``chr10``) and position; and their build, ``"unknown"`` where the
    coordinates fit several.

    Raises
    ------
    FileNotFoundError
        A file is not there.
    ValueError
        No sources, or one without peaks; a file is damaged; there is no such modality or column `score`; a name is no interval; two
        sources are of different genome builds; `min_sources` are more than there are, or than have a peak in common.
    TypeError
        A source is something else.

    See Also
    --------
    epifoundation.pp.count_fragments : cells on these peaks, from fragments.

    Notes
    -----
    Fixed width: iterative removal of overlaps (Corces et al. 2018, Science, 10.1126/science.aav1898). The best peak is kept, those that
    overlap it are dropped, and so on with the best of the others. Peaks that too few sources have are left out first. Scores are replaced
    by their rank among the peaks of their source, divided by their number, as ArchR does, since experiments differ in depth; the paper
    divides scores by their sum, by which those of a source with few peaks come out higher. Ties go to the peak that more sources overlap, then to the
    one that their peaks overlap by more bases, then to the first on the chromosome. A peak that would begin before its chromosome, or
    end after it where the build is known, is moved inside.

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
    if integer(min_sources, "min_sources", least=1) > len(named):
        msg = f"`min_sources` is {min_sources}, but the number of sources is {len(named)}: lower it."
        raise ValueError(msg)
    if width is not None:
        width = integer(width, "width", least=1)
    elif score is not None:
        msg = f"`score={score!r}` ranks peaks of fixed width only: give `width=`, such as 501, or leave `score` out."
        raise ValueError(msg)
    stated = None if genome is None else canonical_build(genome)
    tables, builds = [], [("`genome`", _builds(stated, None))]
    for name, source in tqdm(named, desc="Peaks", unit=" sources", disable=not settings.progress):
        var, said = _table(name, source, modality)
        peaks = _placed(name, var, score)
        builds.append((name, _builds(said, peaks if stated is None or stated in BUILDS else None)))
        build = _common(builds)  # before the next file is read
        tables.append(peaks)
    merged = merge_peaks(tables, width, min_sources, chromosome_lengths(build) if build in BUILDS else {})
    if not len(merged):
        msg = f"No consensus peak overlaps peaks of {min_sources} of the {len(named)} sources: lower `min_sources`."
        raise ValueError(msg)
    return PeakVocabulary(merged, build)


def _named(sources: Any) -> list[tuple[str, Source]]:
    """Every source with what errors call it."""
    if isinstance(sources, Mapping):
        named = [(repr(str(name)), source) for name, source in sources.items()]
    else:
        alone = isinstance(sources, Source) or not isinstance(sources, Iterable)
        named = [
            (repr(str(source)) if isinstance(source, str | Path) else f"source {i} ({type(source).__name__})", source)
            for i, source in enumerate([sources] if alone else sources)
        ]
    if not named:
        msg = "`sources` is empty: pass at least one AnnData, MuData, table of peaks, PeakVocabulary or path."
        raise ValueError(msg)
    return named


def _table(name: str, source: Source, modality: str) -> tuple[pd.DataFrame, str | None]:
    """The table of peaks of a source, and the build that it says it is of."""
    said = None
    if isinstance(source, PeakVocabulary):
        var, said = source.intervals, source.genome
    elif isinstance(source, str | Path):
        var = read_var(source, modality)
    elif isinstance(source, MuData):
        var = get_modality(source, modality, option="modality").var
    elif isinstance(source, AnnData | pd.DataFrame):
        var = source if isinstance(source, pd.DataFrame) else source.var
    else:
        msg = f"{name} must be an AnnData, MuData, table of peaks, PeakVocabulary or path, got {type(source).__name__}."
        raise TypeError(msg)
    if not len(var):
        msg = f"{name} has no peaks."
        raise ValueError(msg)
    return var, said


def _placed(name: str, var: pd.DataFrame, score: str | None) -> pd.DataFrame:
    """Columns ``chrom``, ``start``, ``end``, ``centre`` and ``score`` of a table of peaks."""
    try:
        peaks = read_intervals(var)
    except ValueError as error:
        msg = f"{name}: {error}"
        raise ValueError(msg) from error
    start, end = (peaks[side].to_numpy() for side in ("start", "end"))
    summit = _numbers(var[SUMMIT]) if SUMMIT in var.columns else np.full(len(var), -1.0)
    is_told = (summit >= 0) & (summit < end - start)
    centre = np.where(is_told, start + summit, (start + end) // 2).astype(np.int64)
    return peaks.assign(centre=centre, score=0.0 if score is None else _ranks(name, var, score))


def _ranks(name: str, var: pd.DataFrame, score: str) -> np.ndarray:
    """Rank of each score among those of the source, above 0 and up to 1; the mean one for equal scores."""
    if score not in var.columns:
        msg = f"`score={score!r}` is no column of the peaks of {name}; there are {list(var.columns)}."
        raise ValueError(msg)
    scores = pd.Series(_numbers(var[score]))
    if scores.isna().any():
        i = int(np.flatnonzero(scores.isna())[0])
        msg = f"Column {score!r} of {name}: {int(scores.isna().sum()):,} of {len(scores):,} scores are no numbers, first {var[score].iloc[i]!r}."
        raise ValueError(msg)
    return scores.rank(pct=True).to_numpy()


def _numbers(column: pd.Series) -> np.ndarray:
    """As floats, NaN for what is no number."""
    return pd.to_numeric(column.astype(object), errors="coerce").to_numpy(float)


def _builds(said: str | None, peaks: pd.DataFrame | None) -> set[str]:
    """The builds that peaks can be of: what is said, else what the coordinates tell; empty where they tell nothing."""
    if said is not None and said != "unknown":
        return {said}
    found = [] if peaks is None else detect_build(peaks)
    return set(found) if len(found) < len(BUILDS) else set()


def _common(builds: list[tuple[str, set[str]]]) -> str:
    """The one build that all can be of, ``"unknown"`` where there are several; an error where there is none."""
    told = [(name, possible) for name, possible in builds if possible]
    common = set().union(*(possible for _, possible in told))
    for i, (name, possible) in enumerate(told):
        common &= possible
        if not common:
            other, of_other = min(told[:i], key=lambda one: len(one[1] & possible))
            msg = (
                f"The genome builds differ: {' or '.join(sorted(of_other))} for {other}, {' or '.join(sorted(possible))} for {name}. "
                "Lift one over, `ep.genome.lift_over(ep.genome.read_intervals(adata.var), chain)[0]`, and pass that in its place."
            )
            raise ValueError(msg)
    return common.pop() if len(common) == 1 else "unknown"
