"""A set encoder and what is read off it, measured from data in closed form."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor
from tqdm import tqdm

from .._settings import settings
from ..counted import WEIGHT, CountedCells, dense, peak_keys
from ..nn import KernelReadout, LabelHead, ModelConfig, Network, PeakVectors, Sizes, TrainingConfig
from ..vocabulary import PeakVocabulary
from .batch_effects import batch_directions, batch_means
from .clusters import Clusters, find_clusters
from .components import Components, expression_components, log_normalise, packed, semantic_components
from .data import TrainingData, check_split, draw, warn_unusable
from .expression import expression_tensors
from .kernel_ridge import MIN_HELD, choose, fit_kernel_ridge
from .label_head import check_labels, fit_label_head
from .processes import Processes
from .rows import Rows, in_blocks
from .state import State
from .statistics import HELD, TRAIN, Statistics, profile_units, whole_numbers

N_COMPONENTS = 30  # of RNA or of open peaks, by which cells are clustered
CELLS_PER_CLUSTER = {"rna": 20, "atac": 200}
MIN_DIM, MAX_DIM = 16, 128
CHUNK_TOKENS = 4_000_000
PARTS = {"train": [TRAIN], "all": [TRAIN, HELD]}


@dataclass
class Sample:
    """Cells that components, clusters and readouts are fitted on, ascending in the data; training cells come first.

    Attributes
    ----------
    rows
        Row numbers in the data.
    n_train
        Training cells; the others are validation cells.
    pattern
        Open peaks.
    expression
        Expression, or None.
    """

    rows: np.ndarray
    n_train: int
    pattern: sp.csr_matrix
    expression: sp.csr_matrix | None

    @property
    def is_held(self) -> np.ndarray:
        """Which cells are validation cells."""
        return np.arange(len(self.rows)) >= self.n_train

    def keep(self, kept: np.ndarray) -> Sample:
        """Some of the cells, boolean."""
        expression = None if self.expression is None else self.expression[kept]
        return Sample(self.rows[kept], int(kept[: self.n_train].sum()), self.pattern[kept], expression)


@dataclass
class Measured:
    """What :func:`measure` gives: a network, the vocabulary and labels that it has, the cells it recognizes, numbers of cells."""

    network: Network
    peaks: PeakVocabulary
    labels: list[str]
    cells: dict[str, CountedCells]
    summary: dict[str, Any]


def measure(
    data: TrainingData,
    config: ModelConfig,
    training: TrainingConfig,
    *,
    min_cells: int,
    keep_vocabulary: bool,
    rng: np.random.Generator,
    processes: Processes,
    state: State,
    device: torch.device,
) -> Measured:
    """Measure a network from data.

    Parameters
    ----------
    data
        Cells, in memory or in files, read once by blocks.
    config, training
        Architecture and options.
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
    seeds = rng.integers(2**31, size=8)
    names, labels = _label_codes(data)
    if min_cells > 1 and not keep_vocabulary:
        _drop_rare_peaks(data, min_cells, processes)
    sample = _sample(data, training.sample, config.objective, np.random.default_rng(seeds[0]))
    components = _components(sample, config.objective, np.random.default_rng(seeds[1]), device)
    train = np.arange(sample.n_train)
    scores = components.scores(_scored(sample, config.objective)[train])
    wanted = config.dim or default_dim(len(scores), with_rna=data.target is not None)
    clusters = find_clusters(scores, wanted, training.softness, np.random.default_rng(seeds[2]))
    if config.dim is not None and len(clusters.centers) < config.dim:
        msg = (
            f"`dim={config.dim}` asks for more clusters than {sample.n_train:,} training cells fill: the model has "
            f"{len(clusters.centers)} columns."
        )
        warnings.warn(msg, UserWarning, stacklevel=4)
    config = replace(config, dim=len(clusters.centers))
    statistics = _count(data, config, components, clusters, labels, len(names), processes, state, device)
    n_unusable = int((~statistics.usable).sum())
    warn_unusable(statistics.usable, stacklevel=5)
    peaks, sample = _vocabulary(data, statistics, sample, keep_vocabulary=keep_vocabulary)
    sample = sample.keep(statistics.usable[sample.rows])
    check_split(np.flatnonzero(~sample.is_held), np.flatnonzero(sample.is_held), len(statistics.usable))
    n_held = int(sample.is_held.sum())
    if n_held < MIN_HELD:
        msg = f"There are {n_held} validation cells, too few to choose widths and penalties: the defaults are taken."
        warnings.warn(msg, UserWarning, stacklevel=4)
    fit = Fit(statistics, sample, config, training, labels, data.batch_codes, len(names), seeds[3:], device)
    first, final = fit.stage("train"), fit.stage("all")
    head = None if labels is None else _label_head(first, final, sample.is_held, labels[sample.rows])
    sizes = Sizes(
        len(peaks),
        len(data.genes) if data.target is not None else 0,
        len(names),
        len(data.batches) if data.target is not None else 0,
        n_encoder_landmarks=len(final.readout.landmarks),
        n_removed=len(final.read),
        n_label_landmarks=0 if final.label_readout is None else len(final.label_readout.landmarks),
        has_measured=config.objective == "counts",
    )
    tensors = final.tensors()
    if head is not None:
        sizes = replace(sizes, n_calibration=len(head.conformal), n_reference=len(head.reference))
        tensors |= {f"label.{name}": tensor for name, tensor in head.state_dict().items()}
    if data.target is not None:
        batch = None
        if data.batch_codes is not None and sample.expression is not None:
            batch = final.embedding, sample.expression, data.batch_codes[sample.rows]
        tensors |= expression_tensors(statistics, config, sizes, batch)
    with torch.random.fork_rng():
        network = Network(config, sizes)
    network.load_state_dict(processes.same({name: tensor.cpu() for name, tensor in tensors.items()}))
    network.eval().requires_grad_(False)
    counted = np.flatnonzero(statistics.usable)
    cells = {"encoder": CountedCells.of(statistics.hashes[counted], statistics.codes[counted], statistics.weights[counted])}
    if labels is not None:
        cells["labels"] = counted_labels(statistics.hashes, labels, statistics.usable)
    is_train = np.zeros(len(statistics.usable), bool)
    is_train[data.train] = True
    summary = {
        "cells": int((is_train & statistics.usable).sum()),
        "validation_cells": int((~is_train & statistics.usable).sum()),
        "unusable_cells": n_unusable,
        "sampled_cells": len(sample.rows),
        "readouts": {name: list(map(float, each)) for name, each in fit.chosen.items()},
    }
    return Measured(network, peaks, names, cells, summary)


def default_dim(n_cells: int, *, with_rna: bool) -> int:
    """Clusters that this many cells fill."""
    per_cluster = CELLS_PER_CLUSTER["rna" if with_rna else "atac"]
    return int(np.clip(n_cells // per_cluster, MIN_DIM, MAX_DIM))


@dataclass
class Stage:
    """An encoder, measured on some of the cells, and the embedding of the sample by it.

    Cells of the sample that were counted are left out of their own vectors; `learned` says which these are.
    """

    vectors: PeakVectors
    read: np.ndarray
    along: np.ndarray
    shift: np.ndarray
    readout: KernelReadout
    label_vectors: PeakVectors | None
    label_readout: KernelReadout | None
    embedding: np.ndarray
    learned: np.ndarray

    def tensors(self) -> dict[str, Tensor]:
        """Weights by the names that a network has for them."""
        parts = {"encoder.vectors": self.vectors, "encoder.readout": self.readout}
        if self.label_vectors is not None and self.label_readout is not None:
            parts |= {"label_columns.vectors": self.label_vectors, "label_columns.readout": self.label_readout}
        found = {f"{part}.{name}": tensor for part, module in parts.items() for name, tensor in module.state_dict().items()}
        if len(self.read):
            projection = {"read": self.read, "along": self.along, "shift": self.shift}
            found |= {
                f"encoder.projection.{name}": torch.from_numpy(array.astype(np.float32)) for name, array in projection.items()
            }
        return found


@dataclass
class Fit:
    """Fits a :class:`Stage` to the statistics of training cells, or of all cells."""

    statistics: Statistics
    sample: Sample
    config: ModelConfig
    training: TrainingConfig
    labels: np.ndarray | None
    batches: np.ndarray | None
    n_labels: int
    seeds: np.ndarray
    device: torch.device
    chosen: dict[str, tuple[float, float]] = field(default_factory=dict)

    def stage(self, counted: str) -> Stage:
        """The encoder measured on ``"train"`` cells, which chooses penalties, or then on ``"all"`` cells."""
        sample, statistics, dim = self.sample, self.statistics, self.config.dim
        sums = statistics.memberships[PARTS[counted]].sum(dim=0, dtype=torch.int32)
        totals = statistics.totals[PARTS[counted]].sum(axis=0)
        learned = np.ones(len(sample.rows), bool) if counted == "all" else ~sample.is_held
        vectors = peak_vectors(sums[:, :dim], totals[:dim], self.training.pseudocount)
        memberships = dense(statistics.codes[sample.rows], statistics.weights[sample.rows], dim)
        columns = columns_of(vectors, sample.pattern, np.where(learned[:, None], memberships, np.nan), self.device)
        of_labels = None if self.labels is None else self.labels[sample.rows]
        read = along = np.zeros((0, dim))
        shift = np.zeros(dim)
        if self.batches is not None:
            read, along, shift = self._directions(columns, learned, of_labels)
            columns -= ((columns @ read.T.astype(np.float32)) @ along.astype(np.float32)) - shift.astype(np.float32)
        readout, embedding = self._readout("clusters", columns, memberships, learned, ~learned)
        label_vectors = label_readout = None
        if of_labels is not None:
            label_vectors = peak_vectors(sums[:, dim:], totals[dim:], self.training.pseudocount)
            labelled = of_labels >= 0
            wanted = np.zeros((len(of_labels), self.n_labels), np.float32)
            wanted[np.flatnonzero(labelled), of_labels[labelled]] = 1
            known = np.where((learned & labelled)[:, None], wanted, np.nan)
            beside = columns_of(label_vectors, sample.pattern, known, self.device)
            inputs = np.concatenate([columns, beside], axis=1)
            label_readout, expected = self._readout(
                "labels", inputs, wanted, learned & labelled, ~learned & labelled
            )
            embedding = np.concatenate([embedding, expected], axis=1)
        return Stage(vectors, read, along, shift, readout, label_vectors, label_readout, embedding, learned)

    def _readout(
        self, name: str, inputs: np.ndarray, targets: np.ndarray, learned: np.ndarray, held: np.ndarray
    ) -> tuple[KernelReadout, np.ndarray]:
        cells, wanted = torch.from_numpy(inputs).to(self.device), torch.from_numpy(targets).to(self.device)

        def pair(rows: np.ndarray) -> tuple[Tensor, Tensor]:
            there = torch.from_numpy(np.flatnonzero(rows)).to(self.device)
            return cells[there], wanted[there]

        seed, n_landmarks = int(self.seeds[len(name) % 2]), self.training.landmarks
        if name not in self.chosen:
            self.chosen[name] = choose(pair(learned), pair(held), n_landmarks=n_landmarks, rng=np.random.default_rng(seed))
        width, penalty = self.chosen[name]
        options = {"n_landmarks": n_landmarks, "width": width, "penalty": penalty, "rng": np.random.default_rng(seed)}
        readout = fit_kernel_ridge(*pair(learned), **options)
        return readout, torch.cat([readout(part) for part in cells.split(2048)]).cpu().numpy()

    def _directions(
        self, columns: np.ndarray, learned: np.ndarray, of_labels: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        batches = np.asarray(self.batches)[self.sample.rows]
        known = learned & (batches >= 0)
        unit = columns[known].std(axis=0).mean(dtype=np.float64) + 1e-12
        groups = None if of_labels is None else of_labels[known]
        scaled = columns[known].astype(np.float64) / unit
        read, along = batch_directions(scaled, batches[known], np.random.default_rng(self.seeds[2]), groups)
        means = batch_means(columns[known].astype(np.float64), batches[known], int(batches.max()) + 1)
        return read, along, ((means @ read.T) @ along).mean(axis=0)


def _label_head(first: Stage, final: Stage, is_held: np.ndarray, codes: np.ndarray) -> LabelHead:
    """The label head: penalty and calibration from the encoder of training cells, weights from that of all cells."""
    train, held = np.flatnonzero(~is_held & (codes >= 0)), np.flatnonzero(is_held & (codes >= 0))
    parts = ((first, train), (first, held), (final, np.concatenate([train, held])))
    return fit_label_head(*((stage.embedding[rows], codes[rows]) for stage, rows in parts))[0]


def peak_vectors(sums: Tensor, totals: np.ndarray, pseudocount: float) -> PeakVectors:
    """Vectors from sums over cells in units of 1 / 255.

    Parameters
    ----------
    sums
        Memberships of the cells in which each peak is open, (n_peaks, width).
    totals
        Memberships of all cells, (width,).
    pseudocount
        Cells of which nothing is known.
    """
    vectors = PeakVectors(*sums.shape).to(sums.device)
    count = (sums.sum(dim=1, dtype=torch.int64) // WEIGHT).double()  # those of a cell add up to 255
    base = torch.from_numpy(totals / max(int(totals.sum()), 1)).to(sums.device)
    vectors.count.copy_(count)
    vectors.base.copy_(base)
    vectors.pseudocount.fill_(pseudocount)
    for some in torch.arange(len(sums), device=sums.device).split(65_536):  # float64 of some peaks at a time
        around = sums[some].double() / WEIGHT - count[some, None] * base
        vectors.weight[some] = (around / (count[some, None] + pseudocount)).float()
    return vectors


@torch.no_grad()
def columns_of(vectors: PeakVectors, pattern: sp.csr_matrix, known: np.ndarray, device: torch.device) -> np.ndarray:
    """Columns of cells, float32 (n_cells, width); cells of which something is known are left out of the vectors."""
    found = np.empty((pattern.shape[0], len(vectors.base)), np.float32)
    block = pattern.indptr.astype(np.int64) // CHUNK_TOKENS
    edges = np.unique([*np.searchsorted(block, np.arange(block[-1] + 1)), pattern.shape[0]])
    for start, stop in zip(edges[:-1], edges[1:], strict=True):
        ids, offsets, _ = packed(pattern[start:stop], device)
        part = torch.from_numpy(known[start:stop].astype(np.float32)).to(device)
        found[start:stop] = vectors(ids, offsets, part).cpu().numpy()
    return found


def counted_labels(hashes: np.ndarray, labels: np.ndarray, usable: np.ndarray) -> CountedCells:
    """Cells that were counted for vectors of labels."""
    rows = np.flatnonzero(usable & (labels >= 0))
    dtype = np.uint8 if labels.max(initial=0) < 256 else np.uint16
    return CountedCells.of(hashes[rows], labels[rows, None].astype(dtype), np.full((len(rows), 1), WEIGHT, np.uint8))


def _label_codes(data: TrainingData) -> tuple[list[str], np.ndarray | None]:
    if data.labels is None:
        return [], None
    names, codes, _, _ = check_labels(data.labels, data.train, data.held)
    return names, codes


def _drop_rare_peaks(data: TrainingData, min_cells: int, processes: Processes) -> None:
    """A pass over the cells that counts in how many each peak is open, and leaves rare ones out; `data` is changed."""
    count = np.zeros(len(data.peaks), np.int64)
    blocks = list(in_blocks(data.pattern))
    for rows in processes.mine(tqdm(blocks, desc="Peaks", unit=" blocks", disable=not settings.progress)):
        pattern = data.pattern[np.arange(rows.start, rows.stop)]
        count += np.bincount(pattern.indices, minlength=len(count))
    kept = processes.add_up({"count": count})["count"] >= min_cells
    if not kept.any():
        msg = f"No peak is open in at least `min_cells` ({min_cells}) of the {data.pattern.shape[0]:,} cells."
        raise ValueError(msg)
    if not kept.all():
        keep = sp.identity(len(kept), dtype=np.float32, format="csr")[:, kept]
        pieces = [
            replace(piece, projection=keep if piece.projection is None else piece.projection @ keep)
            for piece in data.pattern.pieces
        ]
        data.pattern.close()
        data.pattern = replace(data.pattern, pieces=pieces, n_columns=int(kept.sum()), _opened={})
        data.peaks = PeakVocabulary(data.peaks.intervals[kept].reset_index(drop=True), data.peaks.genome)


def _sample(data: TrainingData, most: int, objective: str, rng: np.random.Generator) -> Sample:
    train, held = draw(data.train, most, rng), draw(data.held, max(most // 4, 1), rng)
    rows = np.concatenate([train, held])
    expression = None if data.target is None else data.target[rows]
    sample = Sample(rows, len(train), data.pattern[rows], expression)
    usable = _usable(sample.pattern, expression, objective)
    return sample if usable.all() else sample.keep(usable)


def _usable(pattern: sp.csr_matrix, expression: sp.csr_matrix | None, objective: str) -> np.ndarray:
    """Cells with an open peak and, for counts, with RNA."""
    usable = np.diff(pattern.indptr) > 0
    if objective == "counts" and expression is not None:
        usable &= np.asarray(expression.sum(axis=1)).ravel() > 0
    return usable


def _scored(sample: Sample, objective: str) -> sp.csr_matrix:
    """What components are of."""
    if sample.expression is None:
        return sample.pattern
    return log_normalise(sample.expression) if objective == "counts" else sample.expression


def _components(sample: Sample, objective: str, rng: np.random.Generator, device: torch.device) -> Components:
    check_split(np.arange(sample.n_train), np.arange(len(sample.rows) - sample.n_train), len(sample.rows))
    cells = _scored(sample, objective)[: sample.n_train]
    if sample.expression is None:
        return semantic_components(cells, N_COMPONENTS, rng, device)
    return expression_components(cells, N_COMPONENTS, rng, device)


def _count(
    data: TrainingData,
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
    n_genes = dict.fromkeys(profile_units(config.objective), 0 if data.target is None else data.target.shape[1])
    n_cells = data.pattern.shape[0]
    n_kept = clusters.n_kept
    statistics = Statistics(
        n_cells, len(data.peaks), config.dim, n_labels, n_kept=n_kept, n_genes=n_genes, device=device
    )
    keys = peak_keys(data.peaks)
    is_held = np.zeros(n_cells, bool)
    is_held[data.held] = True
    is_either = is_held.copy()
    is_either[data.train] = True
    blocks = processes.mine(list(in_blocks(data.pattern)))
    done = state.load(statistics)
    with tqdm(total=sum(b.stop - b.start for b in blocks), desc="Measuring", unit=" cells", disable=not settings.progress) as bar:
        for number, block in enumerate(blocks):
            bar.update(block.stop - block.start)
            if number < done:
                continue
            rows = np.arange(block.start, block.stop)
            pattern = data.pattern[rows]
            expression = None if data.target is None else data.target[rows]
            usable = _usable(pattern, expression, config.objective) & is_either[rows]
            if not usable.all():
                rows, pattern = rows[usable], pattern[usable]
                expression = None if expression is None else expression[usable]
            if len(rows):
                part = Sample(rows, len(rows), pattern, expression)
                statistics.add(
                    rows,
                    pattern,
                    clusters.memberships(components.scores(_scored(part, config.objective))),
                    keys=keys,
                    is_held=is_held[rows],
                    labels=None if labels is None else labels[rows],
                    expression=None if expression is None else whole_numbers(expression, config.objective),
                )
            state.save(statistics, number + 1)
    statistics.set(processes.add_up(statistics.arrays()))
    state.finish()
    return statistics


def _vocabulary(
    data: TrainingData, statistics: Statistics, sample: Sample, *, keep_vocabulary: bool
) -> tuple[PeakVocabulary, Sample]:
    """Peaks that are open in a counted cell; the statistics and the sample are brought to these."""
    count = statistics.memberships[:, :, : statistics.dim].sum(dim=(0, 2)).cpu().numpy()
    kept = np.flatnonzero(count)
    if keep_vocabulary or len(kept) == len(count):
        return data.peaks, sample
    statistics.memberships = statistics.memberships[:, torch.from_numpy(kept).to(statistics.memberships.device)]
    peaks = PeakVocabulary(data.peaks.intervals.iloc[kept].reset_index(drop=True), data.peaks.genome)
    return peaks, replace(sample, pattern=sample.pattern[:, kept])


def label_statistics(
    pattern: Rows, rows: np.ndarray, labels: np.ndarray, is_held: np.ndarray, n_labels: int, peaks: PeakVocabulary, device: torch.device
) -> Statistics:
    """Sums of labels over cells, for columns beside an encoder that is measured already or trained."""
    statistics = Statistics(len(labels), len(peaks), 0, n_labels, n_kept=0, n_genes={}, device=device)
    keys = peak_keys(peaks)
    wanted = np.zeros(len(labels), bool)
    wanted[rows] = True
    for block in in_blocks(pattern):
        inside = np.arange(block.start, block.stop)
        inside = inside[wanted[inside]]
        cells = pattern[inside]
        usable = np.diff(cells.indptr) > 0
        cells, inside = cells[usable], inside[usable]
        if len(inside):
            nothing = np.zeros((len(inside), 0), np.uint8)
            statistics.add(inside, cells, (nothing, nothing), keys=keys, is_held=is_held[inside], labels=labels[inside])
    return statistics

