"""Passes over all cells: sums of memberships, labels and expression, and rare peaks."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import scipy.sparse as sp
import torch
from tqdm import tqdm

from .._settings import settings
from ..cells.content import hash_of
from ..cells.matrix import read_rows
from ..nn import ENCODER, LABELS, ModelConfig
from ..peaks.counted import CountedCells, peak_keys
from .clusters import Clusters
from .components import Components, scored_expression
from .data import TrainingData
from .processes import Processes
from .rows import PASS_CELLS, PASS_ENTRIES, in_blocks
from .sample import Sample
from .split import mask_of
from .state import State
from .statistics import Statistics, profile_units, whole_numbers


def drop_rare_peaks(data: TrainingData, min_cells: int, processes: Processes) -> None:
    """Count in how many cells each peak is open, and drop rare ones from `data`, in place."""
    count = np.zeros(len(data.peaks), np.int64)
    bar = tqdm(in_blocks(data.pattern), "Peaks", unit=" blocks", disable=not settings.progress)
    for rows in processes.mine(bar):
        pattern = data.pattern[np.arange(rows.start, rows.stop)]
        count += np.bincount(pattern.indices, minlength=len(count))
    count = processes.add_up({"count": torch.from_numpy(count)})["count"].numpy()
    data.drop_rare_peaks(count, min_cells, f"{data.pattern.shape[0]:,} cells")


def count_cells(
    data: TrainingData,
    sample: Sample,
    config: ModelConfig,
    components: Components,
    clusters: Clusters,
    labels: np.ndarray | None,
    n_labels: int,
    processes: Processes,
    state: State,
    device: torch.device,
) -> Statistics:
    """Sums over all training and validation cells that have an open peak and, for counts, RNA."""
    n_cells, is_counts = data.pattern.shape[0], config.objective == "counts"
    n_genes = 0 if data.target is None else data.target.shape[1]
    statistics = Statistics(
        n_cells,
        len(data.peaks),
        config.width,
        n_labels,
        n_kept=clusters.n_kept,
        n_genes=dict.fromkeys(profile_units(config.objective), n_genes),
        device=device,
    )
    keys = peak_keys(data.peaks)
    is_held = mask_of(data.held, n_cells)
    is_either = is_held | mask_of(data.train, n_cells)
    # A sample of all cells is in memory already
    is_whole = len(sample.rows) == len(data.train) + len(data.held)
    blocks = processes.mine(_blocks_of(sample.pattern) if is_whole else in_blocks(data.pattern))
    n_done = state.load(statistics)
    with tqdm(total=n_cells, desc="Fitting", unit=" cells", disable=not settings.progress) as bar:
        for number, block in enumerate(blocks):
            bar.update(block.stop - block.start)
            if number < n_done and state.is_trusted:
                continue
            if is_whole:
                rows = sample.rows[block]
                pattern = read_rows(sample.pattern, block.start, block.stop)
            else:
                rows = np.arange(block.start, block.stop)
                pattern = data.pattern[rows]
            expression = None if data.target is None else data.target[rows]
            content = "" if state.path is None else hash_of(rows, pattern, expression)
            if number < n_done:
                state.compare(number, content)
                continue
            usable = (np.diff(pattern.indptr) > 0) & is_either[rows]
            if is_counts and expression is not None:
                usable &= np.asarray(expression.sum(axis=1)).ravel() > 0
            if not usable.all():
                rows, pattern = rows[usable], pattern[usable]
                expression = None if expression is None else expression[usable]
            if len(rows):
                scored = pattern
                if expression is not None:
                    scored = scored_expression(expression, config.objective)
                    expression = whole_numbers(expression, scored, config.objective)
                memberships = clusters.memberships(components.scores(scored))
                del scored  # blocks are large
                statistics.add(
                    rows,
                    pattern,
                    memberships,
                    keys=keys,
                    is_held=is_held[rows],
                    labels=None if labels is None else labels[rows],
                    expression=expression,
                )
            del pattern, expression
            state.save(statistics, content)
    if processes.size > 1:
        statistics.set(processes.add_up(statistics.tensors()))
    return statistics


def count_labels(
    data: TrainingData, labels: np.ndarray, n_labels: int, device: torch.device
) -> Statistics:
    """Sums of labels over the labelled cells, for label columns of an existing encoder."""
    statistics = Statistics(
        len(labels), len(data.peaks), 0, n_labels, n_kept=0, n_genes={}, device=device
    )
    keys, is_held = peak_keys(data.peaks), mask_of(data.held, len(labels))
    for block in in_blocks(data.pattern):
        rows = np.flatnonzero(labels[block] >= 0) + block.start
        cells = data.pattern[rows]
        usable = np.diff(cells.indptr) > 0
        cells, rows = cells[usable], rows[usable]
        if len(rows):
            none = np.zeros((len(rows), 0), np.uint8)
            held, codes = is_held[rows], labels[rows]
            statistics.add(rows, cells, (none, none), keys=keys, is_held=held, labels=codes)
    return statistics


def counted_cells(statistics: Statistics, labels: np.ndarray | None) -> dict[str, CountedCells]:
    """The cells that a model recognizes, by block of columns."""
    rows = np.flatnonzero(statistics.usable)
    parts = (statistics.hashes[rows], statistics.codes[rows], statistics.weights[rows])
    found = {ENCODER: CountedCells.of(*parts)}
    if labels is not None:
        found[LABELS] = counted_labels(statistics.hashes, labels, statistics.usable)
    return found


def counted_labels(hashes: np.ndarray, labels: np.ndarray, usable: np.ndarray) -> CountedCells:
    """Usable cells with a label, which label columns recognize."""
    rows = np.flatnonzero(usable & (labels >= 0))
    dtype = np.uint8 if labels.max(initial=0) < 256 else np.uint16
    codes, weights = labels[rows, None].astype(dtype), np.zeros((len(rows), 0), np.uint8)
    return CountedCells.of(hashes[rows], codes, weights)


def _blocks_of(pattern: sp.csr_matrix) -> Iterator[slice]:
    """Blocks of cells in memory."""
    by_entries = pattern.indptr[:-1].astype(np.int64) // PASS_ENTRIES
    block = by_entries + np.arange(pattern.shape[0]) // PASS_CELLS
    for start, stop in pairwise([0, *(np.flatnonzero(np.diff(block)) + 1).tolist(), len(block)]):
        yield slice(start, stop)
