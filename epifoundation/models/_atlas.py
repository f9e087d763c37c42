"""The bundled atlas, where it knows the peaks of data."""

from __future__ import annotations

import pandas as pd

from ..genome import detect_build
from ._model import EpiFoundation
from ._registry import DEFAULT_MODEL, resolve_model

MIN_KNOWN = 0.5  # fraction of the peaks that the atlas must know to be used without being asked for


def bundled_atlas(intervals: pd.DataFrame, build: str) -> EpiFoundation | None:
    """The bundled atlas; None unless peaks of `build` (or "unknown") may be its own and are known.

    Parameters
    ----------
    intervals
        Columns ``chrom``, ``start``, ``end``.
    build
        Their genome build, or ``"unknown"``.
    """
    if build not in ("hg38", "unknown") or "hg38" not in detect_build(intervals):
        return None
    atlas = resolve_model(DEFAULT_MODEL, None)
    known = atlas.peaks.projection(intervals).getnnz(axis=1) > 0
    return atlas if known.mean() >= MIN_KNOWN else None
