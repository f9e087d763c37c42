"""Blocks of cells to compute, checked before the work begins, and the content of each."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from .._version import __version__
from .._warn import naming
from ..cells.content import hash_of, hash_peaks, signature
from ..cells.formats import opened
from ..cells.rows import LoadedRows
from ..cells.source import Located, Source, hash_names
from ..peaks.mapping import PeakMap
from ..peaks.options import PeakMapping
from ..pp._map_peaks import map_source
from .block_store import Origin
from .reader import Reader
from .tally import Tally

# Several copies of a block are in memory, and an interrupted block is computed again. Limits of its
# cells, stored entries and predicted values:
BLOCK_CELLS = 16_384
BLOCK_ENTRIES = 10_000_000  # 40 MB per array: memory above 32 MB is returned to the system at once
BLOCK_VALUES = 2**25


class BlockRange(NamedTuple):
    """Rows of a block, and the position of their source."""

    source: int
    start: int
    stop: int


class ReadBlock(NamedTuple):
    """Cells of a block, and what identifies their content."""

    cells: LoadedRows
    names: pd.Index
    batch: pd.Series | None
    origin: Origin


class Plan(NamedTuple):
    """Sources, how their peaks map, and their blocks in the order of the results."""

    places: list[Located]
    names: list[str]
    prefixes: list[str]
    mappings: list[PeakMap]
    parts: list[BlockRange]
    modality: str

    @classmethod
    def of(
        cls,
        reader: Reader,
        named: Mapping[str, Located],
        modality: str,
        mapping: PeakMapping | None,
        *,
        with_prefix: bool = False,
        in_blocks: bool = True,
    ) -> Plan:
        """Check each source: its peaks, its columns, the names of its cells."""
        places, names = list(named.values()), list(named)
        prefixes = [f"{name}_" if with_prefix else "" for name in names]
        mappings: list[PeakMap] = []
        parts: list[BlockRange] = []
        hashes: list[np.ndarray] = []
        several = len(names) > 1
        for i, (name, place) in enumerate(named.items()):
            with opened(place, modality, name if several else "the data") as source:
                with naming(source.name if several else ""):
                    mappings.append(map_source(source, reader.model, mapping, reader.keys))
                if reader.batch_key is not None:
                    source.column(reader.batch_key, "batch_key")
                if not in_blocks:
                    parts.append(BlockRange(i, 0, source.n_obs))
                    continue
                bounds = source.bounds(_max_cells(reader), BLOCK_ENTRIES)
                parts += [BlockRange(i, int(start), int(stop)) for start, stop in pairwise(bounds)]
                if several:
                    hashes.append(_hashes(source, prefixes[i]))
        plan = cls(places, names, prefixes, mappings, parts, modality)
        plan.check_names(hashes)
        if not parts:
            msg = f"There are no cells in {names}."
            raise ValueError(msg)
        return plan

    def open(self, i: int) -> contextlib.AbstractContextManager[Source]:
        """Open a source, to read its cells."""
        name = self.names[i] if len(self.names) > 1 else "the data"
        return opened(self.places[i], self.modality, name)

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return len(self.parts)

    @property
    def bounds(self) -> np.ndarray:
        """Rows of the results at which blocks begin, and the end."""
        return np.cumsum([0, *(part.stop - part.start for part in self.parts)])

    def run(self, reader: Reader, genes: pd.DataFrame | None) -> dict[str, Any]:
        """What the results depend on, except the content of the cells; JSON types.

        `genes` are those that are predicted.
        """
        return {
            "package_version": __version__,
            "model": reader.model.revision,
            "modality": self.modality,
            "cells": int(self.bounds[-1]),
            "blocks": hash_of(np.array(self.parts)),
            "key": reader.keys.key,
            "files": self.names if len(self.names) > 1 else [],
            "prefixes": self.prefixes,
            "mapping": [str(mapping.report) for mapping in self.mappings],
            "predicted genes": hash_of(None if genes is None else genes.index),
        } | reader.options

    @property
    def signatures(self) -> list[str | None]:
        """States of the files at this time; None for an object in memory."""
        return [signature(place) for place in self.places]

    def content(self, reader: Reader, numbers: Iterable[int]) -> Iterator[tuple[int, Origin]]:
        """Read some blocks, in ascending order, for what identifies their content."""
        for number, block in self.read(reader, numbers):
            yield number, block.origin

    def read(self, reader: Reader, numbers: Iterable[int]) -> Iterator[tuple[int, ReadBlock]]:
        """Read blocks one after the other; a file is open as long as the blocks are its own."""
        with contextlib.ExitStack() as stack:
            current = -1
            for number in numbers:
                i, start, stop = self.parts[number]
                if i != current:
                    stack.close()
                    state = signature(self.places[i])  # before the file is read
                    source, current = stack.enter_context(self.open(i)), i
                    peaks = hash_peaks(source.var)
                    batch = None
                    if reader.batch_key is not None:
                        batch = source.column(reader.batch_key, "batch_key")
                if stop > source.n_obs:
                    msg = f"{source.name} was changed: it has {source.n_obs:,} cells now."
                    raise OSError(msg)
                names = self.prefixes[i] + source.names(start, stop)
                cells = LoadedRows(source.read(start, stop), names, source.name)
                of_block = None if batch is None else batch.iloc[start:stop]
                content = hash_of(peaks, names, cells.matrix(None), of_block)
                yield number, ReadBlock(cells, names, of_block, Origin(content, state))

    def uns(self, reader: Reader, tally: Tally) -> dict[str, Any]:
        """Reports on the run, by key of ``uns``; for several files also a table of them.

        The report on several files has the peaks of the one with the lowest coverage.
        """
        reports = [mapping.report for mapping in self.mappings]
        if len(reports) == 1:
            self.mappings[0].count(tally.n_open, tally.n_known, tally.total, tally.matched)
            return reader.uns(reports[0], tally)
        least = min(reports, key=lambda report: report["vocabulary_matched"])
        names = ("genome", "vocabulary", "data", "matched", "vocabulary_matched")
        summary = PeakMap(None, {name: least[name] for name in names})
        summary.count(tally.n_open, tally.n_known, tally.total, tally.matched)
        table = pd.DataFrame(reports, index=pd.Index(self.names, dtype=object))
        table = table.drop(columns="options", errors="ignore")
        return reader.uns(summary.report, tally) | {reader.keys.files: table}

    def log(self) -> None:
        """Show a summary line if there is one source and progress is shown."""
        if len(self.mappings) == 1:
            self.mappings[0].log()

    def check_names(self, hashes: list[np.ndarray]) -> None:
        """Raise ValueError if a cell has the same name as one in another file."""
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
        with self.open(one) as source:
            row = int(np.flatnonzero(hashes[one] == value[same[0]])[0])
            name = self.prefixes[one] + source.names(row, row + 1)[0]
        msg = (
            f"{len(same):,} names of cells are in more than one file, first {name!r} in "
            f"{self.names[one]!r} and {self.names[other]!r}. Pass a mapping from names of samples "
            "to files: these then precede the names of their cells."
        )
        raise ValueError(msg)


def _max_cells(reader: Reader) -> int:
    return min(BLOCK_CELLS, max(BLOCK_VALUES // max(len(reader.genes), 1), 1))


def _hashes(source: Source, prefix: str) -> np.ndarray:
    parts = [
        hash_names(prefix + source.names(start, min(start + BLOCK_CELLS, source.n_obs)))
        for start in range(0, source.n_obs, BLOCK_CELLS)
    ]
    return np.concatenate([np.zeros(0, np.uint64), *parts])
