"""Run a reader on cells in memory, or by blocks: memory does not grow with their number, an interruption costs a block."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from mudata import MuData
from tqdm import tqdm

from .._keys import Keys
from .._memory import copy_of
from .._settings import settings
from .._validate import Data, check_writable, get_atac, get_matrix, obs_column
from ..cells.formats import open_source
from ..cells.source import Located, as_sources
from ..cells.tokens import ahead
from ..peaks.mapping import PeakMap
from .block_store import BlockStore
from .encode import threads
from .expression import rna_of
from .plan import Matching, Plan, repeat
from .reader import Block, Reader
from .results import arrays_of
from .tally import Tally
from .targets import InFile, NewFile

Cells: TypeAlias = Data | str | Path | Sequence[Located] | Mapping[str, Located]

AHEAD = 1  # blocks that are read while others are computed
WORKERS = 8  # blocks that are computed at a time, at most: one thread reads for so many


def by_blocks(data: Any, output: str | Path | None) -> bool:
    """Whether cells are read by blocks: from files, or for a file of results."""
    return output is not None or not isinstance(data, AnnData | MuData)


def apply(
    reader: Reader,
    data: Cells,
    *,
    modality: str,
    rna_modality: str,
    matching: Matching,
    output: str | Path | None,
    overwrite: bool,
    copy: bool,
) -> Data | Path | None:
    """Run a reader on cells in memory, or by blocks."""
    if isinstance(data, AnnData | MuData) and output is None:
        return _in_memory(reader, data, modality, rna_modality, matching, copy=copy)
    if copy:
        msg = "`copy=True` is for cells in memory: name a file of results with `output=`."
        raise ValueError(msg)
    named = as_sources(data)
    if output is None and (
        len(named) > 1 or isinstance(next(iter(named.values())), AnnData | MuData)
    ):
        msg = f"Results of {len(named)} source(s) need a file of their own: pass `output=`, an .h5ad or .zarr."
        raise ValueError(msg)
    with_prefix = isinstance(data, Mapping) and not isinstance(data, AnnData | MuData)
    target: InFile | NewFile = (
        InFile(Path(str(next(iter(named.values())))), modality, rna_modality, reader)
        if output is None
        else NewFile(Path(output), reader)
    )
    plan = Plan.of(reader, named, modality, matching, with_prefix=with_prefix)
    fingerprint = plan.fingerprint(reader, matching)
    if target.is_done(fingerprint):
        return target.path
    target.check(overwrite=overwrite)
    with contextlib.closing(BlockStore(target.partial, fingerprint)) as store:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            _compute(reader, plan, store, target.rna)
        repeat(caught, 4)
        tally = store.finish(
            plan.n_blocks,
            lambda tally: target.assemble(
                store, plan.bounds, _uns(reader, plan, tally), fingerprint
            ),
        )
    tally.warn(reader.model, reader.batch_key, 4)
    if len(named) == 1 and tally.cells:
        plan.mappings[0].count(tally.n_open, tally.n_known, tally.total, tally.matched)
        plan.mappings[0].log()
    return target.path


def _in_memory(
    reader: Reader, data: Data, modality: str, rna_modality: str, matching: Matching, *, copy: bool
) -> Data | None:
    """Cells in memory, or backed: results are written when all of them are there."""
    atac = get_atac(data, modality)
    check_writable(data, atac, copy=copy)
    mapping = matching.map(reader.model, atac.var)
    rna = rna_of(data, rna_modality)
    batch = (
        None if reader.batch_key is None else obs_column(data, atac, reader.batch_key, "batch_key")
    )
    found = reader.compute(Block(get_matrix(atac, None), atac.obs_names, batch, rna), mapping)
    tally = found.tally
    tally.warn(reader.model, reader.batch_key, 4)
    mapping.count(tally.n_open, tally.n_known, tally.total, tally.matched)
    mapping.log()
    target = copy_of(data) if copy else data
    atac, rna = get_atac(target, modality), getattr(target, "mod", {}).get(rna_modality)
    for place in reader.stale(atac.uns):
        _remove(atac, rna, place)
    reader.write(found, atac, rna)
    drop_unused(atac, reader.keys)
    for key, report in reader.uns(mapping.report, tally).items():
        atac.uns[key] = report
    return target if copy else None


def drop_unused(atac: AnnData, keys: Keys) -> None:
    """Leave only the cell types that there are."""
    if keys.cell_type in atac.obs:
        atac.obs[keys.cell_type] = atac.obs[keys.cell_type].cat.remove_unused_categories()


def _remove(atac: AnnData, rna: AnnData | None, place: str) -> None:
    adata = atac
    if place.startswith("rna/"):
        if rna is None:
            return
        adata, place = rna, place.removeprefix("rna/")
    part, name = place.split("/", 1)
    if part == "var":
        adata.var = adata.var.drop(columns=name, errors="ignore")
    elif name in getattr(adata, part):
        del getattr(adata, part)[name]


def _compute(reader: Reader, plan: Plan, store: BlockStore, rna: pd.DataFrame | None) -> None:
    """Compute blocks that nobody has, until each is there."""
    several = len(plan.places) > 1
    # A thread for a block: none waits for another but at the very end, and what is done in Python is done beside sums.
    n_threads = torch.get_num_threads()
    n_workers = min(n_threads, plan.n_blocks, WORKERS) if reader.model.device.type == "cpu" else 1
    _ = reader.folded  # once, before threads ask for it
    with (
        tqdm(
            total=int(plan.bounds[-1]), desc="Cells", unit=" cells", disable=not settings.progress
        ) as bar,
        contextlib.closing(_read(reader, plan, store, rna)) as parts,
        contextlib.closing(ahead(parts, AHEAD)) as blocks,
        contextlib.closing(
            store
        ),  # first of all, so that the thread that reads does not wait for blocks
        ThreadPoolExecutor(1, thread_name_prefix="save") as saver,
        threads(n_workers, n_threads // n_workers) as submit,
    ):

        def save(number: int, block: Block, found: Any) -> None:
            atac = AnnData(obs=pd.DataFrame(index=block.names))
            if several:
                codes = np.full(len(block.names), plan.parts[number].source)
                atac.obs[reader.keys.file] = pd.Categorical.from_codes(codes, plan.names)
            reader.write(found, atac, block.rna)
            store.save(number, arrays_of(atac, block.rna), found.tally)
            bar.update(len(block.names))

        def work(number: int, block: Block) -> Future[None]:
            # Saved whether or not another block is asked for: other processes may be waiting for this one.
            found = reader.compute(block, plan.mappings[plan.parts[number].source])
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
    reader: Reader, plan: Plan, store: BlockStore, rna: pd.DataFrame | None
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
                    batch = (
                        None
                        if reader.batch_key is None
                        else opened.column(reader.batch_key, "batch_key")
                    )
                with _resumable(store):
                    names, matrix = (
                        plan.prefixes[i] + opened.names(start, stop),
                        opened.read(start, stop),
                    )
                of_rows = None if batch is None else batch.iloc[start:stop]
                genes = None if rna is None else AnnData(obs=pd.DataFrame(index=names), var=rna)
                yield number, Block(matrix, names, of_rows, genes, show=False)
            if not n_claimed and not store.is_shared_out(plan.n_blocks):
                time.sleep(
                    0.2
                )  # other processes are at work; what one that was killed had claimed becomes free
    finally:
        if opened is not None:
            opened.close()


def _uns(reader: Reader, plan: Plan, tally: Tally) -> dict[str, Any]:
    """What is told of the run: of one file as of cells in memory, of several also by file."""
    reports = [mapping.report for mapping in plan.mappings]
    if len(reports) == 1:
        mapping = PeakMap(None, dict(reports[0]))
        mapping.count(tally.n_open, tally.n_known, tally.total, tally.matched)
        return reader.uns(mapping.report, tally)
    mapping = PeakMap(None, {name: reports[0][name] for name in ("genome", "vocabulary")})
    for name in (
        "data",
        "matched",
        "vocabulary_matched",
    ):  # of the file that has least in common with the model
        mapping.report[name] = min(reports, key=lambda report: report["vocabulary_matched"])[name]
    mapping.count(tally.n_open, tally.n_known, tally.total, tally.matched)
    table = pd.DataFrame(reports, index=pd.Index(plan.names, dtype=object))
    return reader.uns(mapping.report, tally) | {reader.keys.files: table}


@contextlib.contextmanager
def _resumable(store: BlockStore) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        msg = f"{error} {store.told()}"
        raise OSError(msg) from error
