"""The peaks of data on the peaks of a model: which build, which overlap, and how much of either is covered."""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from tqdm import tqdm

from .._settings import settings
from .._validate import fraction
from ..genome import BUILDS, canonical_build, detect_build, lift_over, misplaced, overlaps, read_intervals
from ..genome._builds import n_misplaced
from ..vocabulary import PeakVocabulary

FAR = 250_000  # bases by which peaks are moved to see what overlaps by chance: farther than peaks crowd, nearer than a band
BY_CHANCE = 1.5  # times as many overlaps as that are as good as chance: on the right build it is 2.5 and more, on a wrong one 0.9-1.2
ENOUGH = 30  # overlaps by chance, lest so few peaks be judged
WARN_BELOW = 0.5  # fraction of the model's peaks that data should reach, lest its cells look sparser than in training


@dataclass
class PeakMap:
    """How the peaks of data map onto a vocabulary.

    Attributes
    ----------
    projection
        Peaks of the data x vocabulary, ones; None where they are the same.
    report
        Plain numbers and strings, for ``uns``.
    """

    projection: sp.csr_matrix | None
    report: dict[str, Any] = field(default_factory=dict)

    def count(self, n_open: int, n_known: int, total: float, matched: float) -> None:
        """Add what the cells tell: open peaks and counts, all of them and those in matched peaks."""
        self.report["open_fraction_matched"] = float(n_known / max(n_open, 1))
        self.report["counts_fraction_matched"] = float(matched / total) if total else 0.0

    def check(self, least: float) -> None:
        """Raise where less than `least` of the vocabulary is seen, warn where it is little."""
        fraction(least, "min_coverage")
        seen, total = self.report["vocabulary_matched"], self.report["vocabulary"]
        told = (
            f"the data's peaks reach {seen:,} of the {total:,} peaks of the model ({seen / total:.1%}), and "
            f"{self.report['matched']:,} of the {self.report['data']:,} peaks of the data are known to it"
        )
        if seen < least * total:
            msg = (
                f"Too little in common: {told}; at least {100 * least:.3g}% is asked for. Embeddings from so few peaks mean little: "
                f"count the fragments on the model's peaks, pretrain on your own, or pass `min_coverage={seen / total / 2:.2g}`."
            )
            raise ValueError(msg)
        if seen < WARN_BELOW * total:
            msg = f"Little in common: {told}. Results may be worse than the model can give."
            warnings.warn(msg, UserWarning, stacklevel=3)

    def tell(self) -> None:
        """One line, where progress is shown."""
        if not settings.progress:
            return
        report = self.report
        line = f"{report['matched']:,} of {report['data']:,} peaks known to the model, {report['vocabulary_matched']:,} of its {report['vocabulary']:,} reached"
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
    """Map the peaks of `var` onto a vocabulary; arguments as in :func:`epifoundation.pp.map_peaks`."""
    fraction(min_overlap, "min_overlap")
    is_named = not ({"start", "end", "interval", "feature_types"} & set(var.columns)) and var.index.equals(peaks.names)
    own = peaks.intervals if is_named else read_intervals(var)  # text takes a second to read
    first = "{chrom}:{start}-{end}".format(**own.iloc[0])
    build, stated = told_build(peaks), None if genome is None else canonical_build(genome)
    possible = detect_build(own)
    report: dict[str, Any] = {"genome": peaks.genome, "data": len(own), "vocabulary": len(peaks)}
    report["data_genome"] = stated or (possible[0] if len(possible) == 1 else "unknown")
    if stated is not None and build != "unknown" and stated != build and liftover is None:
        msg = f"The peaks are of {stated} (`genome`), the model is of {build}. {_cure(build, lifted=False)} Builds are called {list(BUILDS)}."
        raise ValueError(msg)
    intervals, kept = own, np.arange(len(own))
    if liftover is not None:
        if report["data_genome"] == build != "unknown":
            msg = f"The peaks are of {build} already, as the model is: leave out `liftover`."
            raise ValueError(msg)
        intervals, status = lift_over(own, liftover)
        kept = np.flatnonzero(status == "lifted")
        report |= {name: int((status == name).sum()) for name in ("lifted", "split", "lost")}
        if not len(intervals):
            msg = f"None of the {len(own):,} peaks could be lifted over with {str(liftover)!r}, first {first}; is it the chain from their build?"
            raise ValueError(msg)
        intervals = intervals.reset_index(drop=True)
    report |= _check_build(intervals, build, lifted=liftover is not None)
    if liftover is None and peaks.same_as(intervals):
        return PeakMap(None, report | {"matched": len(own), "vocabulary_matched": len(peaks)})
    part = peaks.projection(intervals, min_fraction=min_overlap).tocoo()
    shape = (len(own), len(peaks))
    projection = sp.csr_matrix((part.data, (kept[part.row], part.col)), shape=shape)
    projection.sort_indices()
    if not projection.nnz:
        msg = (
            f"None of the {len(own):,} peaks of the data overlaps the {len(peaks):,} peaks of the model ({peaks.genome}): "
            f"{first} against {peaks.names[0]}. Is it the right genome build and organism? "
            "Otherwise pretrain on your own peaks with `ep.tl.pretrain`."
        )
        raise ValueError(msg)
    report["matched"] = int((projection.getnnz(axis=1) > 0).sum())
    report["vocabulary_matched"] = int((projection.getnnz(axis=0) > 0).sum())
    report["unknown_contigs"] = int((~intervals["chrom"].isin(set(peaks.intervals["chrom"]))).sum())
    if genome is None or liftover is not None:
        _check_overlap(intervals, peaks, build, report, lifted=liftover is not None)
    return PeakMap(projection, report)


def _cure(model: str, *, lifted: bool) -> str:
    if lifted:
        return f"The chain does not lead to {model}."
    return f"Lift them over with `liftover=` and the chain file to {model}, or use a model of their build."


def _check_overlap(
    intervals: pd.DataFrame, peaks: PeakVocabulary, build: str, report: dict[str, Any], *, lifted: bool
) -> None:
    """Raise where peaks that can be of another build overlap those of the model as little as they would anywhere else."""
    n, size = len(intervals), len(peaks)
    others = [name for name in detect_build(intervals) if name != build] if build in BUILDS else []
    if not others or report["matched"] > n / 2 or report["vocabulary_matched"] > size / 2:
        return
    chance = 0.0
    for distance in (-FAR, FAR):
        moved = intervals.assign(start=intervals["start"] + distance, end=intervals["end"] + distance)
        chance += len(np.unique(overlaps(moved, peaks.intervals)[:, 0])) / 2
    if chance >= ENOUGH and report["matched"] <= BY_CHANCE * chance:
        advice = "" if lifted else f" If they are of {build} all the same, say so with `genome={build!r}`."
        msg = (
            f"The peaks are of {' or '.join(others)}, the model is of {build}: {report['matched']:,} of {n:,} overlap a peak of the "
            f"model, and {chance:,.0f} do when all are moved by {FAR:,} bases, so this is chance. {_cure(build, lifted=lifted)}{advice}"
        )
        raise ValueError(msg)


def _check_build(intervals: pd.DataFrame, model: str, *, lifted: bool) -> dict[str, Any]:
    """How many peaks have no place on the model's build; an error when they are of another."""
    cure = _cure(model, lifted=lifted)
    found, wrong = foreign_to(intervals, model)
    if found:
        if found[0][0] != model[0]:  # h for human, m for mouse
            cure = "That is another organism: use a model of it, or pretrain on your own cells with `ep.tl.pretrain`."
        chrom, start, end = intervals[wrong].iloc[0][["chrom", "start", "end"]]
        msg = (
            f"The peaks are of {' or '.join(found)}, the model is of {model}: {int(wrong.sum()):,} of {len(intervals):,} have no place "
            f"there, first {chrom}:{start}-{end}. {cure}"
        )
        raise ValueError(msg)
    return {"misplaced": int(wrong.sum())} if model in BUILDS else {}


def told_build(peaks: PeakVocabulary) -> str:
    """The build of a vocabulary: that of its name, or the only one on which each of its peaks has a place."""
    if peaks.genome != "unknown":
        return peaks.genome
    room = [build for build, n in n_misplaced(peaks.intervals).items() if not n]
    return room[0] if len(room) == 1 else "unknown"


def foreign_to(intervals: pd.DataFrame, build: str) -> tuple[list[str], np.ndarray]:
    """The builds that intervals can be of if `build` is none of them, else an empty list; and which have no place on `build`."""
    wrong = misplaced(intervals, build) if build in BUILDS else np.zeros(len(intervals), dtype=bool)
    possible = detect_build(intervals) if wrong.any() else []
    return ([] if build in possible else possible), wrong
