"""Bulk profiles of types, as levels of the peaks of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from .._columns import check_storable
from .._settings import settings
from .._validate import check_unique
from .._warn import naming
from ..cells.source import Source
from ..genome import COLUMNS, detect_build, read_intervals
from ..models import EpiFoundation
from ..peaks.bed import read_bed
from ..peaks.mapping import PeakMap, genome_build, map_onto
from ..peaks.options import PeakMapping

# A peak among the tenth of all with the highest values in its profile has level 2, among the fifth
# 1. Levels depend neither on depth nor on the unit of the values
QUANTILES = (0.9, 0.8)
MIN_PEAKS = 10  # of the model in each profile
PROFILES_OF = "the bulk profiles"


@dataclass(frozen=True, eq=False)
class BulkProfiles:
    """Levels of peaks in types.

    Attributes
    ----------
    names
        Names of the types.
    peaks
        Positions in the vocabulary of the model of the peaks of all profiles, ascending.
    levels
        From 0 to 2, (n_peaks, n_types).
    """

    names: list[str]
    peaks: np.ndarray
    levels: np.ndarray

    def __post_init__(self) -> None:
        """Raise ValueError unless the types differ."""
        check_unique(pd.Index(self.names), "names of types", "rename or merge these profiles")
        check_storable(self.names, "type")
        if len(self.names) < 2:
            msg = f"{PROFILES_OF.capitalize()} are of {len(self.names)} type {self.names}: pass "
            msg += "two types or more."
            raise ValueError(msg)
        n_peaks = (self.levels > 0).sum(axis=0)
        for name, n in zip(self.names, n_peaks, strict=True):
            if n < MIN_PEAKS:
                msg = f"The type {name!r} has {n:,} peaks of the model, and at least {MIN_PEAKS} "
                msg += "are needed: leave it out, or pass a profile with more peaks."
                raise ValueError(msg)
        _, first, of = np.unique(self.levels, axis=1, return_index=True, return_inverse=True)
        same = np.flatnonzero(first[of] != np.arange(len(self.names)))
        if len(same):
            one, other = self.names[int(first[of[same[0]]])], self.names[int(same[0])]
            msg = f"The profiles of {one!r} and {other!r} are the same in the peaks of the model: "
            msg += "leave one out, or pass values in place of open and closed peaks."
            raise ValueError(msg)

    @classmethod
    def of_table(cls, source: Source, mapping: PeakMap) -> BulkProfiles:
        """Read a table of types x peaks."""
        names = source.names(0, source.n_obs).astype(str)
        rows = source.read(0, source.n_obs).tocoo()
        wrong = np.flatnonzero(~np.isfinite(rows.data) | (rows.data < 0))
        if len(wrong):
            msg = f"`X` of {PROFILES_OF} has {rows.data[wrong[0]]} in the type "
            msg += f"{names[rows.row[wrong[0]]]!r}: pass counts, signal or ones, at least 0; "
            msg += "such as values before a logarithm or scaling."
            raise ValueError(msg)
        position = _positions(mapping, len(source.var))
        peaks = np.unique(position[position >= 0])
        values = np.zeros((len(peaks), len(names)), np.float32)
        known = position[rows.col] >= 0
        place = np.searchsorted(peaks, position[rows.col[known]])
        np.maximum.at(values, (place, rows.row[known]), rows.data[known].astype(np.float32))
        return cls(list(names), peaks, levels_of(values))

    @classmethod
    def of_files(
        cls,
        named: Mapping[str, Sequence[str | Path]],
        model: EpiFoundation,
        mapping: PeakMapping | None,
    ) -> BulkProfiles:
        """Read BED files of peaks, one or several for each type; levels of several are averaged."""
        parts, type_of = [], []
        files = [(i, path) for i, paths in enumerate(named.values()) for path in paths]
        for i, path in tqdm(files, "Reading profiles", disable=not settings.progress):
            parts.append(_read_file(path, model, mapping))
            type_of.append(i)
        peaks = np.unique(np.concatenate([position for position, _ in parts]))
        values = np.zeros((len(peaks), len(parts)), np.float32)
        for i, (position, signal) in enumerate(parts):
            np.maximum.at(values[:, i], np.searchsorted(peaks, position), signal)
        share = np.eye(len(named), dtype=np.float32)[type_of]
        return cls(list(named), peaks, levels_of(values) @ (share / share.sum(axis=0)))


def levels_of(values: np.ndarray) -> np.ndarray:
    """Levels of values, by column, float32; 0 where there is none."""
    found = np.zeros(values.shape, np.float32)
    for quantile in QUANTILES:
        found += (values > 0) & (values >= np.quantile(values, quantile, axis=0))
    return found


def _positions(mapping: PeakMap, n_peaks: int) -> np.ndarray:
    """Position in the vocabulary of each peak of the data, -1 if it is not known."""
    if mapping.projection is None:
        return np.arange(n_peaks)
    found = np.full(n_peaks, -1)
    known = np.diff(mapping.projection.indptr) > 0  # at most one each
    found[known] = mapping.projection.indices
    return found


def _read_file(
    path: str | Path, model: EpiFoundation, mapping: PeakMapping | None
) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the peaks of a BED file that the model knows, and their signal."""
    rows = read_bed(path)
    with naming(repr(str(path))):
        if rows.empty:
            msg = "the file has no peaks: leave the type out, or pass another file."
            raise ValueError(msg)
        intervals, signal = read_intervals(rows[COLUMNS]), _signal(rows)
        options = mapping or PeakMapping()
        is_of_model = detect_build(intervals) == [genome_build(model.peaks)]
        found = map_onto(
            model.peaks,
            intervals,
            min_overlap=options.min_overlap,
            genome=None if is_of_model else options.genome,
            liftover=None if is_of_model else options.liftover,
        )
    position = _positions(found, len(intervals))
    return position[position >= 0], signal[position >= 0]


def _signal(rows: pd.DataFrame) -> np.ndarray:
    """Values of the peaks: the signal of narrowPeak, else the score if it varies, else ones."""
    column = next((name for name in ("fc", "score") if name in rows.columns), None)
    if column is None or (rows[column] == ".").all():
        return np.ones(len(rows), np.float32)
    values = pd.to_numeric(rows[column], errors="coerce").to_numpy(np.float64)
    wrong = np.flatnonzero(~np.isfinite(values) | (values < 0))
    if len(wrong):
        what = "signal (column 7)" if column == "fc" else "score (column 5)"
        chrom, start, end = rows[COLUMNS].iloc[wrong[0]]
        msg = f"the {what} of {chrom}:{start}-{end} is {rows[column].iloc[wrong[0]]!r}, expected a "
        msg += "number of at least 0: correct it, or keep the first three columns only."
        raise ValueError(msg)
    return np.maximum(values, np.finfo(np.float32).tiny).astype(np.float32)
