"""Map the peaks of data onto those of a model: check the build, find overlaps, measure coverage."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from tqdm import tqdm

from .._settings import settings
from .._validate import fraction
from .._warn import warn
from ..genome import (
    BUILDS,
    COLUMNS,
    canonical_build,
    detect_build,
    lift_over,
    misplaced,
    overlaps,
    read_intervals,
)
from ..genome._builds import count_misplaced
from .vocabulary import PeakVocabulary

# Shift in bases to count overlaps by chance: beyond clusters of peaks, within a chromosome band
SHIFT = 250_000
# Ratio of overlaps to those by chance: at least 2.5 on the right build, 0.9 to 1.2 on a wrong one
MAX_CHANCE_RATIO = 1.5
MIN_CHANCE_OVERLAPS = 30  # fewer overlaps by chance are not tested
# Misplaced peaks that do not contradict the model's build if it is stated, or most peaks are the
# model's. Of peaks of another build, about 1 in 100 are misplaced
MAX_MISPLACED, MAX_FRACTION_MISPLACED = 2, 2e-3
WARN_BELOW = 0.5  # of the model's peaks; with less, cells look sparser than in training
# Of the model's peaks; with less there is an error. `docs/guide/peaks.md` names it
MIN_COVERAGE = 0.02


@dataclass
class PeakMap:
    """How the peaks of data map onto a vocabulary.

    Attributes
    ----------
    projection
        Peaks of the data x vocabulary, ones; None if they are the same.
    report
        Numbers and strings to write to ``uns``.
    is_atlas
        Coverage is the fraction of the data's peaks that are known, not of the vocabulary's that
        are reached.
    """

    projection: sp.csr_matrix | None
    report: dict[str, Any] = field(default_factory=dict)
    is_atlas: bool = False

    def count(self, n_open: int, n_known: int, total: float, matched: float) -> None:
        """Add the fractions of open peaks and of counts that are in matched peaks."""
        self.report["open_fraction_matched"] = float(n_known / max(n_open, 1))
        self.report["counts_fraction_matched"] = float(matched / total) if total else 0.0

    def check(self, min_coverage: float) -> None:
        """Raise ValueError if less of the vocabulary is reached; warn if little is."""
        fraction(min_coverage, "min_coverage")
        reached, total = self.report["vocabulary_matched"], self.report["vocabulary"]
        summary = (
            f"the data's peaks reach {reached:,} of the {total:,} peaks of the model "
            f"({reached / total:.1%}), and {self.report['matched']:,} of the "
            f"{self.report['data']:,} peaks of the data are known to it"
        )
        if self.is_atlas:
            reached, total = self.report["matched"], self.report["data"]
        if reached < min_coverage * total:
            msg = (
                f"Too little in common: {summary}; at least {100 * min_coverage:.3g}% is required. "
                "Embeddings from so few peaks mean little: count the fragments on the model's "
                "peaks, pretrain on your own data, or pass "
                f"`mapping=ep.PeakMapping(min_coverage={reached / total / 2:.2g})`."
            )
            raise ValueError(msg)
        if reached < WARN_BELOW * total:
            msg = f"Little in common: {summary}. Results may be worse than the model can give."
            warn(msg)

    def log(self) -> None:
        """Write a line of summary if progress is shown."""
        if not settings.progress:
            return
        report = self.report
        line = (
            f"{report['matched']:,} of {report['data']:,} peaks known to the model, "
            f"{report['vocabulary_matched']:,} of its {report['vocabulary']:,} reached"
        )
        if "counts_fraction_matched" in report:
            line += f"; {report['counts_fraction_matched']:.1%} of the counts in known peaks"
        tqdm.write(line, file=sys.stderr)


def map_onto(
    peaks: PeakVocabulary,
    var: pd.DataFrame,
    *,
    min_overlap: float = 0.0,
    genome: str | None = None,
    liftover: str | Path | None = None,
) -> PeakMap:
    """Map the peaks of `var` onto a vocabulary; see :func:`epifoundation.pp.map_peaks`."""
    fraction(min_overlap, "min_overlap")
    has_columns = bool({"start", "end", "interval", "feature_types"} & set(var.columns))
    # Parsing the names takes a second, so they are compared first
    is_same = not has_columns and var.index.equals(peaks.names)
    given = peaks.intervals if is_same else read_intervals(var)
    first = "{chrom}:{start}-{end}".format(**given.iloc[0])
    build, stated = genome_build(peaks), None if genome is None else canonical_build(genome)
    possible = detect_build(given)
    report: dict[str, Any] = {"genome": peaks.genome, "data": len(given), "vocabulary": len(peaks)}
    report["data_genome"] = stated or (possible[0] if len(possible) == 1 else "unknown")
    if stated is not None and build != "unknown" and stated != build and liftover is None:
        msg = (
            f"The peaks are of {stated} (`genome`), the model is of {build}. "
            f"{_advice(build, lifted=False)} Known builds: {list(BUILDS)}."
        )
        raise ValueError(msg)
    intervals, kept = given, np.arange(len(given))
    if liftover is not None:
        if report["data_genome"] == build != "unknown":
            msg = f"The peaks are of {build}, like the model: omit `liftover`."
            raise ValueError(msg)
        intervals, status = lift_over(given, liftover)
        kept = np.flatnonzero(status == "lifted")
        report |= {name: int((status == name).sum()) for name in ("lifted", "split", "lost")}
        if not len(intervals):
            msg = f"None of the {len(given):,} peaks could be lifted over with {str(liftover)!r}, "
            msg += f"first {first}; is it the chain from their build?"
            raise ValueError(msg)
        intervals = intervals.reset_index(drop=True)
    report |= _check_build(intervals, peaks, build, stated=stated, lifted=liftover is not None)
    if liftover is None and peaks.same_as(intervals):
        report |= {"matched": len(given), "vocabulary_matched": len(peaks)}
        return PeakMap(None, report, peaks.is_atlas)
    part = peaks.projection(intervals, min_fraction=min_overlap).tocoo()
    shape = (len(given), len(peaks))
    projection = sp.csr_matrix((part.data, (kept[part.row], part.col)), shape=shape)
    projection.sort_indices()
    if not projection.nnz:
        msg = (
            f"None of the {len(given):,} peaks of the data overlaps the {len(peaks):,} peaks of "
            f"the model ({peaks.genome}): {first} against {peaks.names[0]}. Is it the right genome "
            "build and organism? Otherwise pretrain on your own peaks with `ep.tl.pretrain`."
        )
        raise ValueError(msg)
    report["matched"] = int((projection.getnnz(axis=1) > 0).sum())
    report["vocabulary_matched"] = int((projection.getnnz(axis=0) > 0).sum())
    is_known = intervals["chrom"].isin(set(peaks.intervals["chrom"]))
    report["unknown_contigs"] = int((~is_known).sum())
    if genome is None or liftover is not None:
        _check_overlap(intervals, peaks, build, report, lifted=liftover is not None)
    return PeakMap(projection, report, peaks.is_atlas)


def _advice(model: str, *, lifted: bool) -> str:
    if lifted:
        return f"The chain does not lead to {model}."
    cure = f"Pass `mapping=ep.PeakMapping(liftover=...)` with the chain file to {model}, "
    return cure + "or use a model of their build."


def _check_overlap(
    intervals: pd.DataFrame,
    peaks: PeakVocabulary,
    build: str,
    report: dict[str, Any],
    *,
    lifted: bool,
) -> None:
    """Raise ValueError if peaks may be of another build and overlap no more than by chance."""
    n, size = len(intervals), len(peaks)
    if build not in BUILDS or report["matched"] > n / 2 or report["vocabulary_matched"] > size / 2:
        return
    others = [name for name in detect_build(intervals) if name != build]
    if not others:
        return
    chance = 0.0
    for distance in (-SHIFT, SHIFT):
        start, end = intervals["start"] + distance, intervals["end"] + distance
        shifted = intervals.assign(start=start, end=end)
        chance += len(np.unique(overlaps(shifted, peaks.intervals)[:, 0])) / 2
    if chance >= MIN_CHANCE_OVERLAPS and report["matched"] <= MAX_CHANCE_RATIO * chance:
        hint = f" If they are of {build}, pass `mapping=ep.PeakMapping(genome={build!r})`."
        hint = "" if lifted else hint
        msg = (
            f"The peaks are of {' or '.join(others)}, the model is of {build}: "
            f"{report['matched']:,} of {n:,} overlap a peak of the model, and {chance:,.0f} do "
            f"when all are shifted by {SHIFT:,} bases, so this is chance. "
            f"{_advice(build, lifted=lifted)}{hint}"
        )
        raise ValueError(msg)


def _check_build(
    intervals: pd.DataFrame, peaks: PeakVocabulary, model: str, *, stated: str | None, lifted: bool
) -> dict[str, Any]:
    """Number of peaks misplaced on the model's build; ValueError if they fit another one."""
    advice = _advice(model, lifted=lifted)
    found, wrong = incompatible_builds(intervals, model)
    is_doubted = bool(found)
    if is_doubted:  # peaks of the model are no evidence against its build
        known = pd.MultiIndex.from_frame(peaks.intervals[COLUMNS])
        is_known = pd.MultiIndex.from_frame(intervals[COLUMNS]).isin(known)
        n_new, is_expected = int((wrong & ~is_known).sum()), is_known.mean() > 0.5
        max_new = max(MAX_MISPLACED, MAX_FRACTION_MISPLACED * len(wrong))
        is_doubted = n_new > (max_new if is_expected or stated == model else 0)
    if is_doubted:
        if found[0][0] != model[0]:  # h: human, m: mouse
            advice = "That is another organism: use a model of it, or pretrain on your own cells "
            advice += "with `ep.tl.pretrain`."
        chrom, start, end = intervals[wrong].iloc[0][["chrom", "start", "end"]]
        msg = (
            f"The peaks are of {' or '.join(found)}, the model is of {model}: "
            f"{int(wrong.sum()):,} of {len(intervals):,} have no place there, first "
            f"{chrom}:{start}-{end}. {advice}"
        )
        raise ValueError(msg)
    return {"misplaced": int(wrong.sum())} if model in BUILDS else {}


def genome_build(peaks: PeakVocabulary) -> str:
    """The build of a vocabulary: the stated one, or the only one that fits all peaks."""
    if peaks.genome != "unknown":
        return peaks.genome
    fitting = [build for build, n in count_misplaced(peaks.intervals).items() if not n]
    return fitting[0] if len(fitting) == 1 else "unknown"


def incompatible_builds(intervals: pd.DataFrame, build: str) -> tuple[list[str], np.ndarray]:
    """Builds that fit if `build` does not, and a mask of intervals misplaced on `build`."""
    wrong = np.zeros(len(intervals), dtype=bool)
    if build in BUILDS:
        wrong = misplaced(intervals, build)
    possible = detect_build(intervals) if wrong.any() else []
    return ([] if build in possible else possible), wrong
