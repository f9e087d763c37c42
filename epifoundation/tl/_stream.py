"""A tool on cells that are read by blocks: memory does not grow with their number, an interruption costs a block."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from mudata import MuData
from tqdm import tqdm

from .._settings import settings
from .._validate import Data
from .._version import __version__
from ..pp._mapping import PeakMap
from ..sources import Located, Source, as_sources, hash_names, open_source, opened
from ..tokens import ahead
from ._block_store import BlockStore
from ._cells import Block, Matching, Tally, Tool, run
from ._encode import threads
from ._results import InFile, NewFile, arrays_of

Cells: TypeAlias = Data | str | Path | Sequence[Located] | Mapping[str, Located]

# A block is what is in memory a few times, and what an interruption costs: at most so many cells, open peaks and predicted values.
BLOCK_CELLS = 16_384
BLOCK_ENTRIES = 10_000_000  # 40 MB an array: what is above 32 MB the C library gives back at once
BLOCK_VALUES = 2**25
AHEAD = 1  # blocks that are read while others are computed
WORKERS = 8  # blocks that are computed at a time, at most: one thread reads for so many


def by_blocks(data: Any, output: str | Path | None) -> bool:
    """Whether cells are read by blocks: from files, or for a file of results."""
    return output is not None or not isinstance(data, AnnData | MuData)


def apply(
    tool: Tool,
    data: Cells,
    *,
    modality: str,
    rna_modality: str,
    matching: Matching,
    output: str | Path | None,
    overwrite: bool,
    copy: bool,
) -> Data | Path | None:
    """Run a tool on cells in memory, or by blocks."""
    if isinstance(data, AnnData | MuData) and output is None:
        return run(tool, data, modality=modality, rna_modality=rna_modality, matching=matching, copy=copy)
    if copy:
        msg = "`copy=True` is for cells in memory: name a file of results with `output=`."
        raise ValueError(msg)
    named = as_sources(data)
    if output is None and (len(named) > 1 or isinstance(next(iter(named.values())), AnnData | MuData)):
        msg = f"Results of {len(named)} source(s) need a file of their own: pass `output=`, an .h5ad or .zarr."
        raise ValueError(msg)
    with_prefix = isinstance(data, Mapping) and not isinstance(data, AnnData | MuData)
    target: InFile | NewFile = (
        InFile(Path(str(next(iter(named.values())))), modality, rna_modality, tool)
        if output is None
        else NewFile(Path(output), tool)
    )
    plan = Plan.of(tool, named, modality, matching, with_prefix=with_prefix)
    fingerprint = plan.fingerprint(tool, matching)
    if target.is_done(fingerprint):
        return target.path
    target.check(overwrite=overwrite)
    with contextlib.closing(BlockStore(target.partial, fingerprint)) as store:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            _compute(tool, plan, store, target.rna)
        _repeat(caught, 4)
        tally = store.finish(
            plan.n_blocks, lambda tally: target.assemble(store, plan.bounds, _uns(tool, plan, tally), fingerprint)
        )
    tally.warn(tool.model, tool.batch_key, 4)
    if len(named) == 1 and tally.cells:
        plan.mappings[0].count(tally.n_open, tally.n_known, tally.total, tally.matched)
        plan.mappings[0].log()
    return target.path


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
        cls, tool: Tool, named: Mapping[str, Located], modality: str, matching: Matching, *, with_prefix: bool
    ) -> Plan:
        """Look each source over before the work begins: its peaks, its columns, the names of its cells."""
        prefixes = [f"{name}_" if with_prefix else "" for name in named]
        mappings, parts, identities, hashes = [], [], [], []
        most_cells = _most_cells(tool)
        for i, place in enumerate(named.values()):
            with opened(place, modality, list(named)[i] if len(named) > 1 else "the data") as source:
                with _about(source.name if len(named) > 1 else ""):
                    mappings.append(matching.map(tool.model, source.var))
                if tool.batch_key is not None:
                    source.column(tool.batch_key, "batch_key")
                bounds = source.bounds(most_cells, BLOCK_ENTRIES)
                parts += [Part(i, int(start), int(stop)) for start, stop in pairwise(bounds)]
                identities.append(source.identity)
                if len(named) > 1:
                    hashes.append(_hashes(source, prefixes[i]))
        _check_clashes(hashes, list(named), list(named.values()), modality, prefixes)
        if not parts:
            msg = f"There are no cells in {list(named)}."
            raise ValueError(msg)
        return cls(list(named.values()), list(named), prefixes, mappings, parts, identities, modality)

    @property
    def n_blocks(self) -> int:
        """How many blocks."""
        return len(self.parts)

    @property
    def bounds(self) -> np.ndarray:
        """Rows of the results at which blocks begin, and the end."""
        return np.cumsum([0, *(part.stop - part.start for part in self.parts)])

    def fingerprint(self, tool: Tool, matching: Matching) -> dict[str, Any]:
        """What the blocks depend on; JSON types."""
        return {
            "package_version": __version__,
            "model": tool.model.revision,
            "modality": self.modality,
            "cells of a block": _most_cells(tool),
            "open peaks of a block": BLOCK_ENTRIES,
            "key": tool.keys.key,
            "names": self.prefixes,
            "matching": [str(option) for option in matching],
            "files": self.identities,
        } | tool.options


def _most_cells(tool: Tool) -> int:
    return min(BLOCK_CELLS, max(BLOCK_VALUES // max(len(tool.genes), 1), 1))


def _compute(tool: Tool, plan: Plan, store: BlockStore, rna: pd.DataFrame | None) -> None:
    """Compute blocks that nobody has, until each is there."""
    several = len(plan.places) > 1
    # A thread for a block: none waits for another but at the very end, and what is done in Python is done beside sums.
    n_threads = torch.get_num_threads()
    n_workers = min(n_threads, plan.n_blocks, WORKERS) if tool.model.device.type == "cpu" else 1
    _ = tool.folded  # once, before threads ask for it
    with (
        tqdm(total=int(plan.bounds[-1]), desc="Cells", unit=" cells", disable=not settings.progress) as bar,
        contextlib.closing(_read(tool, plan, store, rna)) as parts,
        contextlib.closing(ahead(parts, AHEAD)) as blocks,
        contextlib.closing(store),  # first of all, so that the thread that reads does not wait for blocks
        ThreadPoolExecutor(1, thread_name_prefix="save") as saver,
        threads(n_workers, n_threads // n_workers) as submit,
    ):

        def save(number: int, block: Block, found: Any) -> None:
            atac = AnnData(obs=pd.DataFrame(index=block.names))
            if several:
                codes = np.full(len(block.names), plan.parts[number].source)
                atac.obs[tool.keys.file] = pd.Categorical.from_codes(codes, plan.names)
            tool.write(found, atac, block.rna)
            store.save(number, arrays_of(atac, block.rna), found.tally)
            bar.update(len(block.names))

        def work(number: int, block: Block) -> Future[None]:
            # Saved whether or not another block is asked for: other processes may be waiting for this one.
            found = tool.compute(block, plan.mappings[plan.parts[number].source])
            return saver.submit(save, number, block._replace(matrix=None), found)

        pending: deque[Callable[[], Future[None]]] = deque()
        for number, block in blocks:
            pending.append(submit(work, number, block))
            del block
            if len(pending) > n_workers:  # one waits, so that no thread does
                pending.popleft()().result()
        while pending:
            pending.popleft()().result()


def _read(
    tool: Tool, plan: Plan, store: BlockStore, rna: pd.DataFrame | None
) -> Generator[tuple[int, Block], None, None]:
    """Claim blocks one after the other and read their cells; wait for those that other processes have claimed."""
    opened, batch, at = None, None, -1
    try:
        while store.is_open and not store.is_shared_out(plan.n_blocks):
            n_claimed = 0
            for number, (i, start, stop) in enumerate(plan.parts):
                if not store.claim(number):
                    continue
                n_claimed += 1
                if opened is None or at != i:
                    if opened is not None:
                        opened.close()
                    opened, at = open_source(plan.places[i], plan.modality, name=plan.names[i]), i
                    if opened.identity != plan.identities[i]:
                        msg = f"{opened.name} was changed since this run began; finished blocks are of the old one. Delete {str(store.folder)!r} and begin again."
                        raise OSError(msg)
                    batch = None if tool.batch_key is None else opened.column(tool.batch_key, "batch_key")
                with _resumable(store):
                    names, matrix = plan.prefixes[i] + opened.names(start, stop), opened.read(start, stop)
                of_rows = None if batch is None else batch.iloc[start:stop]
                genes = None if rna is None else AnnData(obs=pd.DataFrame(index=names), var=rna)
                yield number, Block(matrix, names, of_rows, genes, show=False)
            if not n_claimed and not store.is_shared_out(plan.n_blocks):
                time.sleep(0.2)  # other processes are at work; what one that was killed had claimed becomes free
    finally:
        if opened is not None:
            opened.close()


def _uns(tool: Tool, plan: Plan, tally: Tally) -> dict[str, Any]:
    """What is told of the run: of one file as of cells in memory, of several also by file."""
    reports = [mapping.report for mapping in plan.mappings]
    if len(reports) == 1:
        mapping = PeakMap(None, dict(reports[0]))
        mapping.count(tally.n_open, tally.n_known, tally.total, tally.matched)
        return tool.uns(mapping.report, tally)
    mapping = PeakMap(None, {name: reports[0][name] for name in ("genome", "vocabulary")})
    for name in ("data", "matched", "vocabulary_matched"):  # of the file that has least in common with the model
        mapping.report[name] = min(reports, key=lambda report: report["vocabulary_matched"])[name]
    mapping.count(tally.n_open, tally.n_known, tally.total, tally.matched)
    table = pd.DataFrame(reports, index=pd.Index(plan.names, dtype=object))
    return tool.uns(mapping.report, tally) | {tool.keys.files: table}


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
    _repeat(caught, 7, f"{name}: " if name else "")


def _repeat(caught: list[warnings.WarningMessage], stacklevel: int, prefix: str = "") -> None:
    """Show what was recorded: warnings for users once each, at their call; those for developers of other packages where they arose."""
    mine = [each for each in caught if issubclass(each.category, UserWarning)]
    for category, message in dict.fromkeys((each.category, str(each.message)) for each in mine):
        warnings.warn(f"{prefix}{message}", category, stacklevel=stacklevel)
    for each in caught:
        if not issubclass(each.category, UserWarning):
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)


@contextlib.contextmanager
def _resumable(store: BlockStore) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        msg = f"{error} {store.told()}"
        raise OSError(msg) from error


def _hashes(source: Source, prefix: str) -> np.ndarray:
    parts = [
        hash_names(prefix + source.names(start, min(start + BLOCK_CELLS, source.n_obs)))
        for start in range(0, source.n_obs, BLOCK_CELLS)
    ]
    return np.concatenate([np.zeros(0, np.uint64), *parts])


def _check_clashes(
    hashes: list[np.ndarray], names: list[str], places: list[Located], modality: str, prefixes: list[str]
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
