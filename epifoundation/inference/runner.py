"""Run a reader on an object in one pass, or on files block by block.

In blocks, memory does not grow with the number of cells, and an interruption costs one block.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from mudata import MuData
from tqdm import tqdm

from .._settings import settings
from .._validate import Data
from .._warn import show_again, warn
from ..cells.content import hash_of
from ..cells.source import Inputs, Source, as_sources
from ..cells.tokens import ahead
from ..peaks.options import PeakMapping
from .block_store import BlockStore, Origin
from .encode import threads
from .paired import PairedRNA
from .plan import Plan
from .reader import BlockResults, LoadedBlock, Reader
from .results import arrays_of
from .tally import Tally
from .targets import InFile, InObject, NewFile, run_record

N_PREFETCH = 1  # blocks that are read while others are computed
MAX_WORKERS = 8  # blocks that are computed at a time: more than one reading thread can feed


def is_read_in_blocks(data: Any, output: str | Path | None) -> bool:
    """Whether cells are read in blocks: from files, or for a file of results."""
    return output is not None or not isinstance(data, AnnData | MuData)


def apply(
    reader: Reader,
    data: Inputs,
    *,
    modality: str,
    rna_modality: str,
    mapping: PeakMapping | None,
    output: str | Path | None,
    overwrite: bool,
    copy: bool,
) -> Data | Path | None:
    """Run a reader on cells and write its results into the object, its file or a new file."""
    named = as_sources(data)
    if isinstance(data, AnnData | MuData) and output is None:
        in_object = InObject(data, modality, rna_modality, reader, copy=copy)
        plan = Plan.of(reader, named, modality, mapping, in_blocks=False)
        _at_once(reader, plan, in_object)
        return in_object.result
    if copy:
        msg = "`copy=True` is for cells in memory: name a file of results with `output=`."
        raise ValueError(msg)
    target: InFile | NewFile
    if output is not None:
        target = NewFile(Path(output), reader)
    elif len(named) == 1 and isinstance(place := next(iter(named.values())), str | Path):
        target = InFile(Path(place), modality, rna_modality, reader)
    else:
        msg = f"Results of a list ({len(named)}) need a file: pass `output=`, an .h5ad or .zarr."
        raise ValueError(msg)
    with_prefix = isinstance(data, Mapping) and not isinstance(data, AnnData | MuData)
    plan = Plan.of(reader, named, modality, mapping, with_prefix=with_prefix)
    _in_blocks(reader, plan, target, overwrite=overwrite)
    return target.path


def _at_once(reader: Reader, plan: Plan, target: InObject) -> None:
    """Compute all cells of an object, then write the results into it."""
    with plan.open(0) as source:
        names = source.names(0, source.n_obs)
        batch = _batches(reader, source)
        found = reader.compute(LoadedBlock(source, names, batch, target.rna), plan.mappings[0])
    found.tally.warn(reader.model, reader.batch_key)
    target.write(found, plan.uns(reader, found.tally))
    plan.log()


def _in_blocks(reader: Reader, plan: Plan, target: InFile | NewFile, *, overwrite: bool) -> None:
    """Compute blocks, keep them in a folder, then build the file of results from them."""
    run = plan.run(reader, target.genes) | {"all cells have RNA": target.is_whole}
    if target.is_done(run, lambda: _content(reader, plan)):
        return
    target.check(overwrite=overwrite)
    with contextlib.closing(BlockStore(target.partial, run)) as store:
        if n_stale := _discard_stale(reader, plan, store, plan.signatures):
            warn(f"The cells of {n_stale:,} finished blocks were changed: they are computed again.")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            _compute(reader, plan, store, target)
        show_again(caught)

        states = plan.signatures

        def check() -> None:
            states[:] = plan.signatures
            if n_stale := _discard_stale(reader, plan, store, states):
                msg = f"The data were changed while they were read: {n_stale:,} blocks are out of "
                msg += f"date. {store.advice()}"
                raise OSError(msg)

        def assemble(tally: Tally) -> None:
            origins = [store.origin(number) for number in range(plan.n_blocks)]
            record = run_record(run, hash_of(*(each.content for each in origins)))
            target.assemble(store, plan.bounds, plan.uns(reader, tally), record, states[0])

        tally = store.finish(plan.n_blocks, check, assemble)
    tally.warn(reader.model, reader.batch_key)
    if tally.cells:
        plan.log()


def _discard_stale(reader: Reader, plan: Plan, store: BlockStore, now: Sequence[str | None]) -> int:
    """Delete finished blocks of other cells than the present ones; the number of these.

    Cells are read again only if the files of their block were changed, moved or copied: `now` are
    the present states of the files.
    """
    doubtful = store.in_doubt({i: now[part.source] for i, part in enumerate(plan.parts)})
    origins = plan.content(reader, doubtful)
    return sum(not store.compare(number, origin) for number, origin in _shown(origins, doubtful))


def _content(reader: Reader, plan: Plan) -> str:
    """Read all cells for what identifies their content."""
    numbers = range(plan.n_blocks)
    origins = _shown(plan.content(reader, numbers), numbers)
    return hash_of(*(origin.content for _, origin in origins))


def _shown[T](blocks: Iterator[T], numbers: Sequence[int]) -> Iterator[T]:
    """Show the progress of reading blocks to compare them."""
    show = settings.progress and len(numbers) > 0
    return iter(tqdm(blocks, "Comparing", len(numbers), unit=" blocks", disable=not show))


def _compute(reader: Reader, plan: Plan, store: BlockStore, target: InFile | NewFile) -> None:
    """Compute blocks that no process has claimed, until all are finished."""
    several = len(plan.places) > 1
    # A thread per block: no thread waits for another until the end, and the Python code of one
    # block overlaps with the computations of others
    n_threads = torch.get_num_threads()
    on_cpu = reader.model.device.type == "cpu"
    n_workers = min(n_threads, plan.n_blocks, MAX_WORKERS) if on_cpu else 1
    _ = reader.folded  # prepares the encoder once, before threads need it
    with (
        tqdm(
            total=int(plan.bounds[-1]), desc="Cells", unit=" cells", disable=not settings.progress
        ) as bar,
        contextlib.closing(_read(reader, plan, store, target)) as parts,
        contextlib.closing(ahead(parts, N_PREFETCH)) as blocks,
        contextlib.closing(store),  # closed first, so that the reading thread does not wait
        ThreadPoolExecutor(1, thread_name_prefix="save") as saver,
        threads(n_workers, n_threads // n_workers) as submit,
    ):

        def save(
            number: int, origin: Origin, names: pd.Index, rna: PairedRNA | None, found: BlockResults
        ) -> None:
            atac = AnnData(obs=pd.DataFrame(index=names))
            layers = None if rna is None else rna.adata
            if several:
                codes = np.full(len(names), plan.parts[number].source)
                atac.obs[reader.keys.file] = pd.Categorical.from_codes(codes, plan.names)
            reader.write(found, atac, layers)
            store.save(number, arrays_of(atac, layers), found.tally, origin)
            bar.update(len(names))

        def work(number: int, origin: Origin, block: LoadedBlock) -> Future[None]:
            # Saved even if no more blocks are needed: other processes may wait for this one
            found = reader.compute(block, plan.mappings[plan.parts[number].source])
            return saver.submit(save, number, origin, block.names, block.rna, found)

        pending: deque[Callable[[], Future[None]]] = deque()
        for number, origin, block in blocks:
            pending.append(submit(work, number, origin, block))
            del block
            if len(pending) > n_workers:  # one more than there are threads
                pending.popleft()().result()
        while pending:
            pending.popleft()().result()


def _read(
    reader: Reader, plan: Plan, store: BlockStore, target: InFile | NewFile
) -> Generator[tuple[int, Origin, LoadedBlock], None, None]:
    """Claim one block after the other and read its cells; wait for those of other processes."""
    with _with_advice(store):
        for number, block in plan.read(reader, _claimed(plan, store)):
            names = block.names
            rna = PairedRNA.of_block(names, target.genes, is_whole=target.is_whole)
            loaded = LoadedBlock(block.cells, names, block.batch, rna, show=False)
            yield number, block.origin, loaded


def _claimed(plan: Plan, store: BlockStore) -> Iterator[int]:
    """Claim blocks until all are finished or claimed."""
    while store.is_open and not store.all_taken(plan.n_blocks):
        n_claimed = 0
        for number in range(plan.n_blocks):
            if store.claim(number):
                n_claimed += 1
                yield number
        if not n_claimed and not store.all_taken(plan.n_blocks):
            # Other processes are at work. The blocks of one that was killed become free
            time.sleep(0.2)


def _batches(reader: Reader, source: Source) -> pd.Series | None:
    return None if reader.batch_key is None else source.column(reader.batch_key, "batch_key")


@contextlib.contextmanager
def _with_advice(store: BlockStore) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        msg = f"{error} {store.advice()}"
        raise OSError(msg) from error
