"""Which blocks of which sources are computed, checked before the work begins."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from .._version import __version__
from ..cells.formats import opened
from ..cells.source import Located, Source, hash_names
from ..models import EpiFoundation
from ..peaks.mapping import PeakMap, map_onto
from .reader import Reader

# A block is what is in memory a few times, and what an interruption costs: at most so many cells, open peaks and predicted values.
BLOCK_CELLS = 16_384
BLOCK_ENTRIES = 10_000_000  # 40 MB an array: what is above 32 MB the C library gives back at once
BLOCK_VALUES = 2**25


class Matching(NamedTuple):
    """How peaks of data are mapped onto those of a model: see :func:`epifoundation.pp.map_peaks`."""

    min_overlap: float
    genome: str | None
    liftover: str | Path | None
    min_coverage: float

    def map(self, model: EpiFoundation, var: pd.DataFrame) -> PeakMap:
        """The mapping; an error or a warning where it covers too little."""
        mapping = map_onto(
            model.peaks,
            var,
            min_overlap=self.min_overlap,
            genome=self.genome,
            liftover=self.liftover,
        )
        mapping.check(self.min_coverage)
        return mapping


class Part(NamedTuple):
    """A block of cells: which source, and which of its rows."""

    source: int
    start: int
    stop: int


class Plan(NamedTuple):
    """Which blocks there are, in the order of the results."""

    places: list[Located]
    names: list[str]
    prefixes: list[str]
    mappings: list[PeakMap]
    parts: list[Part]
    identities: list[dict[str, Any]]
    modality: str

    @classmethod
    def of(
        cls,
        reader: Reader,
        named: Mapping[str, Located],
        modality: str,
        matching: Matching,
        *,
        with_prefix: bool,
    ) -> Plan:
        """Look each source over before the work begins: its peaks, its columns, the names of its cells."""
        prefixes = [f"{name}_" if with_prefix else "" for name in named]
        mappings, parts, identities, hashes = [], [], [], []
        most_cells = _most_cells(reader)
        for i, place in enumerate(named.values()):
            with opened(
                place, modality, list(named)[i] if len(named) > 1 else "the data"
            ) as source:
                with _about(source.name if len(named) > 1 else ""):
                    mappings.append(matching.map(reader.model, source.var))
                if reader.batch_key is not None:
                    source.column(reader.batch_key, "batch_key")
                bounds = source.bounds(most_cells, BLOCK_ENTRIES)
                parts += [Part(i, int(start), int(stop)) for start, stop in pairwise(bounds)]
                identities.append(source.identity)
                if len(named) > 1:
                    hashes.append(_hashes(source, prefixes[i]))
        _check_clashes(hashes, list(named), list(named.values()), modality, prefixes)
        if not parts:
            msg = f"There are no cells in {list(named)}."
            raise ValueError(msg)
        return cls(
            list(named.values()), list(named), prefixes, mappings, parts, identities, modality
        )

    @property
    def n_blocks(self) -> int:
        """How many blocks."""
        return len(self.parts)

    @property
    def bounds(self) -> np.ndarray:
        """Rows of the results at which blocks begin, and the end."""
        return np.cumsum([0, *(part.stop - part.start for part in self.parts)])

    def fingerprint(self, reader: Reader, matching: Matching) -> dict[str, Any]:
        """What the blocks depend on; JSON types."""
        return {
            "package_version": __version__,
            "model": reader.model.revision,
            "modality": self.modality,
            "cells of a block": _most_cells(reader),
            "open peaks of a block": BLOCK_ENTRIES,
            "key": reader.keys.key,
            "names": self.prefixes,
            "matching": [str(option) for option in matching],
            "files": self.identities,
        } | reader.options


def _most_cells(reader: Reader) -> int:
    return min(BLOCK_CELLS, max(BLOCK_VALUES // max(len(reader.genes), 1), 1))


@contextlib.contextmanager
def _about(name: str) -> Iterator[None]:
    """Say of which file an error or a warning is."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            yield
    except ValueError as error:
        if not name:
            raise
        msg = f"{name}: {error}"
        raise ValueError(msg) from error
    repeat(caught, 7, f"{name}: " if name else "")


def repeat(caught: list[warnings.WarningMessage], stacklevel: int, prefix: str = "") -> None:
    """Show what was recorded: warnings for users once each, at their call; those for developers of other packages where they arose."""
    mine = [each for each in caught if issubclass(each.category, UserWarning)]
    for category, message in dict.fromkeys((each.category, str(each.message)) for each in mine):
        warnings.warn(f"{prefix}{message}", category, stacklevel=stacklevel)
    for each in caught:
        if not issubclass(each.category, UserWarning):
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)


def _hashes(source: Source, prefix: str) -> np.ndarray:
    parts = [
        hash_names(prefix + source.names(start, min(start + BLOCK_CELLS, source.n_obs)))
        for start in range(0, source.n_obs, BLOCK_CELLS)
    ]
    return np.concatenate([np.zeros(0, np.uint64), *parts])


def _check_clashes(
    hashes: list[np.ndarray],
    names: list[str],
    places: list[Located],
    modality: str,
    prefixes: list[str],
) -> None:
    """Raise where a cell has the name of one in another file."""
    if not hashes:
        return
    value = np.concatenate(hashes)
    file = np.repeat(np.arange(len(hashes)), [len(each) for each in hashes])
    order = np.lexsort((file, value))
    value, file = value[order], file[order]
    same = np.flatnonzero((value[1:] == value[:-1]) & (file[1:] != file[:-1]))
    if not len(same):
        return
    one, other = int(file[same[0]]), int(file[same[0] + 1])
    with opened(places[one], modality, names[one]) as source:
        row = int(np.flatnonzero(hashes[one] == value[same[0]])[0])
        name = prefixes[one] + source.names(row, row + 1)[0]
    msg = (
        f"{len(same):,} names of cells are in more than one file, first {name!r} in {names[one]!r} and {names[other]!r}. Pass a mapping from "
        "names of samples to files: these then come before the names of their cells."
    )
    raise ValueError(msg)
