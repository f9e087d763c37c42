"""The peaks for an argument ``peaks``, in any form that functions take."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import pandas as pd

from ..peaks.named import PEAK_SETS, is_peak_set
from ..peaks.vocabulary import PeakVocabulary
from ._model import EpiFoundation
from ._registry import resolve_model

Peaks: TypeAlias = EpiFoundation | PeakVocabulary | pd.DataFrame | str | Path | None


def resolve_peaks(peaks: Peaks, *, genome: str = "unknown") -> PeakVocabulary:
    """The peaks of a model, a file, a table or a name; None is the default model.

    `genome` is the build of peaks whose form has none.

    Raises
    ------
    TypeError
        `peaks` is none of these.
    ValueError
        There are no peaks, or the name is unknown.
    """
    found: object = peaks
    if isinstance(peaks, pd.DataFrame):
        found = PeakVocabulary.from_var(peaks, genome=genome)
    elif isinstance(peaks, str) and is_peak_set(peaks):
        found = PeakVocabulary.named(peaks)
    elif isinstance(peaks, str | Path) and Path(peaks).is_file():
        found = PeakVocabulary.read_bed(peaks, genome=genome)
    elif peaks is None or isinstance(peaks, str | Path | EpiFoundation):
        found = _of_model(peaks)
    if not isinstance(found, PeakVocabulary):
        msg = "`peaks` must be a model, its name or path, a BED file, a PeakVocabulary, a table or "
        msg += f"one of {list(PEAK_SETS)}, got {type(peaks).__name__}."
        raise TypeError(msg)
    if not len(found):
        msg = "`peaks` is empty."
        raise ValueError(msg)
    return found


def _of_model(model: EpiFoundation | str | Path | None) -> PeakVocabulary:
    try:
        return resolve_model(model, None).peaks
    except ValueError as error:
        if not str(error).startswith("Unknown model"):
            raise
        msg = f"{error} As `peaks`, a BED file or one of {list(PEAK_SETS)} is also possible."
        raise ValueError(msg) from error
