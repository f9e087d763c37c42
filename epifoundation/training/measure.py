"""A set encoder and what is read off it, measured from data in closed form."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any, cast

import numpy as np
import scipy.sparse as sp
import torch
from tqdm import tqdm

from .._settings import settings
from ..cells.matrix import read_rows
from ..models import EpiFoundation
from ..nn import ENCODER, ENCODERS, LABELS, ModelConfig, Network, SetEncoder, Sizes, TrainingConfig
from ..peaks.counted import CountedCells, peak_keys
from ..peaks.vocabulary import PeakVocabulary
from .clusters import Clusters, find_clusters
from .components import Components, expression_components, log_normalise, semantic_components
from .data import TrainingData, check_split, draw, is_among, warn_unusable
from .heads import HEAD_FITS, HeadData, fit_heads
from .kernel_ridge import MIN_HELD
from .processes import Processes
from .rows import BLOCK_CELLS, BLOCK_ENTRIES, in_blocks
from .stages import Fit, Sample
from .state import State
from .statistics import Statistics, profile_units, whole_numbers

N_COMPONENTS = 30  # of RNA or of open peaks, by which cells are clustered
CELLS_PER_CLUSTER = {"rna": 20, "atac": 200}
MIN_DIM, MAX_DIM = 16, 128
SAMPLE_ENTRIES = 15_000_000  # open peaks of the sampled training cells, at most
SAMPLE_CELLS = 1_000, 16_384  # of these, at least and at most
COMPONENT_ENTRIES = 6_000_000  # values that components are computed from, at most
PILOT = 256  # cells that say how deep the data are


def measure(
    data: TrainingData,
    config: ModelConfig,
    training: TrainingConfig,
    summary: dict[str, Any],
    *,
    min_cells: int,
    keep_vocabulary: bool,
    rng: np.random.Generator,
    processes: Processes,
    state: State,
    device: torch.device,
) -> EpiFoundation:
    """Measure a model with a set encoder from data.

    Parameters
    ----------
    data
        Cells, in memory or in files, read once by blocks.
    config, training
        Architecture and options.
    summary
        What the model tells of its training, to which numbers are added.
    min_cells
        Peaks open in fewer cells are left out of the vocabulary.
    keep_vocabulary
        All peaks stay.
    rng
        Source of randomness.
    processes
        Among which the blocks are divided.
    state
        Where sums are kept, to continue after an interruption.
    device
        Where sums and readouts are computed.
    """
    seed = int(rng.integers(2**31))
    names, labels = data.label_codes()
    if min_cells > 1 and not keep_vocabulary:
        _drop_rare_peaks(data, min_cells, processes)
    sample = _sample(data, labels, training, np.random.default_rng([seed, 0]))
    components, clusters = _clusters(
        data, sample.train, config, training, np.random.default_rng([seed, 1]), device
    )
    config = replace(config, dim=len(clusters.centers))
    statistics = _count(
        data, sample, config, components, clusters, labels, len(names), processes, state, device
    )
    warn_unusable(statistics.usable, stacklevel=5)
    sample = sample.keep(statistics.usable[sample.rows])
    n_held = int(sample.is_held.sum())
    if n_held < MIN_HELD:
        msg = f"There are {n_held} validation cells, too few to choose widths and penalties: the defaults are taken."
        warnings.warn(msg, UserWarning, stacklevel=4)
    kept = None if keep_vocabulary else torch.from_numpy(np.flatnonzero(statistics.is_open()))
    fit = Fit(
        statistics,
        sample,
        training,
        seed,
        device,
        labels=labels,
        batches=data.batch_codes,
        encoder=cast("type[SetEncoder]", ENCODERS[config.encoder]),
    )
    first, final = fit.fit()
    tensors, peaks = final.tensors(), data.peaks
    if kept is not None and len(kept) < len(peaks):  # the others are open in no counted cell
        intervals = peaks.intervals.iloc[kept.numpy()].reset_index(drop=True)
        peaks = PeakVocabulary(intervals, peaks.genome)
        for name in [n for n in tensors if n.endswith(("vectors.weight", "vectors.count"))]:
            tensors[name] = tensors[name].cpu()[kept]
    cells = HeadData(
        data,
        config,
        sample.rows,
        sample.is_held,
        lambda: final.embedding,
        np.random.default_rng([seed, 5]),
        labels=None if labels is None else labels[sample.rows],
        first=first,
        statistics=statistics,
    )
    of_heads, head_sizes = fit_heads(cells, HEAD_FITS)
    tensors |= of_heads
    sizes = Sizes(len(peaks)).updated(final.sizes() | head_sizes)
    with torch.random.fork_rng():
        network = Network(config, sizes)
    network.load_state_dict(
        processes.same({name: tensor.cpu() for name, tensor in tensors.items()})
    )
    network.eval().requires_grad_(False)
    is_train = is_among(data.train, len(statistics.usable))
    summary = summary | {
        "cells": int((is_train & statistics.usable).sum()),
        "validation_cells": int((~is_train & statistics.usable).sum()),
        "sampled_cells": len(sample.rows),
        "readouts": {name: list(map(float, each)) for name, each in fit.chosen.items()},
    }
    counted = _counted(statistics, labels)
    return EpiFoundation(network, peaks, data.genes, names, training=summary, cells=counted)


def _counted(statistics: Statistics, labels: np.ndarray | None) -> dict[str, CountedCells]:
    """The cells that the model recognizes."""
    rows = np.flatnonzero(statistics.usable)
    parts = (statistics.hashes[rows], statistics.codes[rows], statistics.weights[rows])
    found = {ENCODER: CountedCells.of(*parts)}
    if labels is not None:
        found[LABELS] = counted_labels(statistics.hashes, labels, statistics.usable)
    return found


def _clusters(
    data: TrainingData,
    cells: Sample,
    config: ModelConfig,
    training: TrainingConfig,
    rng: np.random.Generator,
    device: torch.device,
) -> tuple[Components, Clusters]:
    """Components of RNA, or of open peaks, and clusters of training cells by these."""
    if data.target is None:
        scored = cells.pattern
        some = slice(None, None, max(-(-scored.nnz // COMPONENT_ENTRIES), 1))
        components = semantic_components(scored[some], N_COMPONENTS, rng, device)
        scores = components.scores(scored)
    else:
        depth = data.target.mean_entries(draw(cells.rows, PILOT, rng))
        step = max(-(-int(depth * len(cells.rows)) // COMPONENT_ENTRIES), 1)
        scored = data.target[cells.rows[::step]]
        if config.objective == "counts":
            scored = scored[np.asarray(scored.sum(axis=1)).ravel() > 0]
            scored = log_normalise(scored)
        check_split(np.arange(scored.shape[0]), data.held, data.pattern.shape[0])
        components = expression_components(scored, N_COMPONENTS, rng, device)
        scores = components.scores(scored)
    wanted = config.dim or default_dim(len(cells.rows), with_rna=data.target is not None)
    clusters = find_clusters(scores, wanted, training.softness, rng)
    if config.dim is not None and len(clusters.centers) < config.width:
        msg = (
            f"`dim={config.dim}` asks for more clusters than {len(scores):,} training cells fill: the model has "
            f"{len(clusters.centers)} columns."
        )
        warnings.warn(msg, UserWarning, stacklevel=5)
    return components, clusters


def default_dim(n_cells: int, *, with_rna: bool) -> int:
    """Clusters that this many cells fill."""
    per_cluster = CELLS_PER_CLUSTER["rna" if with_rna else "atac"]
    return int(np.clip(n_cells // per_cluster, MIN_DIM, MAX_DIM))


def counted_labels(hashes: np.ndarray, labels: np.ndarray, usable: np.ndarray) -> CountedCells:
    """Cells that were counted for vectors of labels."""
    rows = np.flatnonzero(usable & (labels >= 0))
    dtype = np.uint8 if labels.max(initial=0) < 256 else np.uint16
    codes, weights = labels[rows, None].astype(dtype), np.zeros((len(rows), 0), np.uint8)
    return CountedCells.of(hashes[rows], codes, weights)


def _drop_rare_peaks(data: TrainingData, min_cells: int, processes: Processes) -> None:
    """A pass over the cells that counts in how many each peak is open, and leaves rare ones out; `data` is changed."""
    count = np.zeros(len(data.peaks), np.int64)
    blocks = list(in_blocks(data.pattern))
    for rows in processes.mine(
        tqdm(blocks, desc="Peaks", unit=" blocks", disable=not settings.progress)
    ):
        pattern = data.pattern[np.arange(rows.start, rows.stop)]
        count += np.bincount(pattern.indices, minlength=len(count))
    count = processes.add_up({"count": torch.from_numpy(count)})["count"].numpy()
    data.drop_rare_peaks(count, min_cells, f"{data.pattern.shape[0]:,} cells")


def sample_size(data: TrainingData, training: TrainingConfig, rng: np.random.Generator) -> int:
    """Training cells that readouts are fitted on."""
    if training.sample is not None:
        return training.sample
    depth = data.pattern.mean_entries(draw(data.train, PILOT, rng))
    return int(np.clip(SAMPLE_ENTRIES / max(depth, 1), *SAMPLE_CELLS))


def _sample(
    data: TrainingData,
    labels: np.ndarray | None,
    training: TrainingConfig,
    rng: np.random.Generator,
) -> Sample:
    """Training and validation cells that clusters and readouts are fitted on."""
    most = sample_size(data, training, rng)
    sample = Sample.of(
        data, draw(data.train, most, rng, labels), draw(data.held, max(most // 2, 1), rng)
    )
    return sample.keep(np.diff(sample.pattern.indptr) > 0)


def _usable(pattern: sp.csr_matrix, expression: sp.csr_matrix | None, objective: str) -> np.ndarray:
    """Cells with an open peak and, for counts, with RNA."""
    usable = np.diff(pattern.indptr) > 0
    if objective == "counts" and expression is not None:
        usable &= np.asarray(expression.sum(axis=1)).ravel() > 0
    return usable


def _count(
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
    """The pass over all cells."""
    n_genes = dict.fromkeys(
        profile_units(config.objective), 0 if data.target is None else data.target.shape[1]
    )
    n_cells = data.pattern.shape[0]
    statistics = Statistics(
        n_cells,
        len(data.peaks),
        config.width,
        n_labels,
        n_kept=clusters.n_kept,
        n_genes=n_genes,
        device=device,
    )
    keys = peak_keys(data.peaks)
    is_held = is_among(data.held, n_cells)
    is_either = is_held | is_among(data.train, n_cells)
    # What the sample holds need not be read once more
    is_whole = len(sample.rows) == len(data.train) + len(data.held)
    blocks = processes.mine(_blocks_of(sample.pattern) if is_whole else in_blocks(data.pattern))
    done = state.load(statistics)
    with tqdm(total=n_cells, desc="Measuring", unit=" cells", disable=not settings.progress) as bar:
        for number, block in enumerate(blocks):
            bar.update(block.stop - block.start)
            if number < done:
                continue
            rows = sample.rows[block] if is_whole else np.arange(block.start, block.stop)
            pattern = (
                read_rows(sample.pattern, block.start, block.stop)
                if is_whole
                else data.pattern[rows]
            )
            expression = None if data.target is None else data.target[rows]
            usable = _usable(pattern, expression, config.objective) & is_either[rows]
            if not usable.all():
                rows, pattern = rows[usable], pattern[usable]
                expression = None if expression is None else expression[usable]
            if len(rows):
                scored = pattern
                if expression is not None:
                    scored = (
                        log_normalise(expression) if config.objective == "counts" else expression
                    )
                    expression = whole_numbers(expression, scored, config.objective)
                memberships = clusters.memberships(components.scores(scored))
                del scored  # a block takes much of the memory
                of_labels = None if labels is None else labels[rows]
                statistics.add(
                    rows,
                    pattern,
                    memberships,
                    keys=keys,
                    is_held=is_held[rows],
                    labels=of_labels,
                    expression=expression,
                )
            del pattern, expression
            state.save(statistics, number + 1)
    if processes.size > 1:
        statistics.set(processes.add_up(statistics.tensors()))
    state.finish()
    return statistics


def _blocks_of(pattern: sp.csr_matrix) -> Iterator[slice]:
    """Slices of cells in memory."""
    block = (
        pattern.indptr[:-1].astype(np.int64) // BLOCK_ENTRIES
        + np.arange(pattern.shape[0]) // BLOCK_CELLS
    )
    for start, stop in pairwise([0, *(np.flatnonzero(np.diff(block)) + 1).tolist(), len(block)]):
        yield slice(start, stop)


def label_statistics(
    data: TrainingData, labels: np.ndarray, n_labels: int, device: torch.device
) -> Statistics:
    """Sums of labels over cells that have one, for columns beside an existing encoder."""
    statistics = Statistics(
        len(labels), len(data.peaks), 0, n_labels, n_kept=0, n_genes={}, device=device
    )
    keys, is_held = peak_keys(data.peaks), is_among(data.held, len(labels))
    for block in in_blocks(data.pattern):
        rows = np.flatnonzero(labels[block] >= 0) + block.start
        cells = data.pattern[rows]
        usable = np.diff(cells.indptr) > 0
        cells, rows = cells[usable], rows[usable]
        if len(rows):
            nothing = np.zeros((len(rows), 0), np.uint8)
            statistics.add(
                rows,
                cells,
                (nothing, nothing),
                keys=keys,
                is_held=is_held[rows],
                labels=labels[rows],
            )
    return statistics
