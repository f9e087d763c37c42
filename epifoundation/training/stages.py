"""Peak vectors and readouts, fitted to training cells to choose penalties, then to all cells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from ..cells.matrix import read_rows
from ..nn import ENCODER, LABELS, KernelReadout, PeakVectors, SetEncoder, TrainingConfig, add_up
from ..peaks.counted import WEIGHT, dense
from .batch_effects import batch_means, scaled_directions
from .components import packed
from .kernel_ridge import choose, fit_kernel_ridge
from .prior import FACTORS, Prior, best_pseudocount, expected_sums, shrink_to
from .sample import Sample
from .statistics import CHUNK_PEAKS, HELD, TRAIN, Statistics

CHUNK_TOKENS = 4_000_000
MAX_PROJECTION_CELLS = 4_000  # cells from which batch effects are estimated
PARTS = {"train": [TRAIN], "all": [TRAIN, HELD]}
MODULES = {ENCODER: "encoder", LABELS: "label_columns"}  # of a network, by block of columns


@dataclass
class Stage:
    """Blocks of columns, fitted to some of the cells, and the resulting embedding of the sample.

    Each of these cells in the sample is left out of the vectors of its own peaks.
    """

    vectors: dict[str, PeakVectors]
    readouts: dict[str, KernelReadout]
    projection: dict[str, np.ndarray]  # empty if no direction is projected out
    embedding: np.ndarray

    def tensors(self) -> dict[str, Tensor]:
        """Weights by their names in a network."""
        modules: dict[str, nn.Module] = {
            f"{MODULES[block]}.vectors": module for block, module in self.vectors.items()
        }
        modules |= {f"{MODULES[block]}.readout": module for block, module in self.readouts.items()}
        found = {
            f"{path}.{name}": part
            for path, module in modules.items()
            for name, part in module.state_dict().items()
        }
        for name, array in self.projection.items():
            found[f"encoder.projection.{name}"] = torch.from_numpy(array.astype(np.float32))
        return found

    def sizes(self) -> dict[str, Any]:
        """Sizes of a network with these blocks."""
        names = {ENCODER: "n_encoder_landmarks", LABELS: "n_label_landmarks"}
        found: dict[str, Any] = {
            names[block]: len(readout.landmarks) for block, readout in self.readouts.items()
        }
        if self.projection:
            found["n_removed"] = len(self.projection["read"])
        return found


@dataclass
class Fit:
    """Fits the encoder twice: to training cells, to choose penalties, then to all cells.

    Parameters
    ----------
    statistics
        Sums over cells; for an existing encoder, of labels only.
    sample
        Cells to which readouts are fitted.
    training
        Training options.
    seed
        Seed of all random draws.
    device
        Device for readouts.
    labels, batches
        Codes of all cells of the data, or None.
    encoded
        Columns and embedding of the sample from an existing encoder; None fits one.
    encoder
        Class of the encoder to fit.
    prior
        What an atlas knows of the peaks.
    """

    statistics: Statistics
    sample: Sample
    training: TrainingConfig
    seed: int
    device: torch.device
    labels: np.ndarray | None = None
    batches: np.ndarray | None = None
    encoded: tuple[np.ndarray, np.ndarray] | None = None
    encoder: type[SetEncoder] = SetEncoder
    prior: Prior | None = None
    pseudocounts: dict[str, float] = field(default_factory=dict)
    chosen: dict[str, tuple[float, float]] = field(default_factory=dict)

    @cached_property
    def codes(self) -> np.ndarray:
        """Label codes of the sample, -1 for none."""
        rows = self.sample.rows
        return np.full(len(rows), -1) if self.labels is None else self.labels[rows]

    def fit(self) -> tuple[np.ndarray, Stage]:
        """Embedding of the sample from the first stage, and the final stage."""
        first, final = self.stage("train").embedding, self.stage("all")
        self.sample.pattern = self.sample.pattern[:0]  # frees memory
        return first, final

    def stage(self, counted: str) -> Stage:
        """A stage fitted to ``"train"`` cells, or to ``"all"`` cells."""
        statistics, dim, rows = self.statistics, self.statistics.dim, self.sample.rows
        sums = statistics.sums(PARTS[counted])
        if counted == "all":
            statistics.forget()  # they are not used again
        totals = statistics.totals[PARTS[counted]].sum(axis=0)
        learned = np.ones(len(rows), bool) if counted == "all" else ~self.sample.is_held
        inside: dict[str, slice] = {}
        targets: dict[str, np.ndarray] = {}  # NaN for cells without one
        if self.encoded is None:
            inside[ENCODER] = slice(0, dim)
            targets[ENCODER] = dense(statistics.codes[rows], statistics.weights[rows], dim)
        if self.labels is not None:
            inside[LABELS] = slice(dim, None)
            targets[LABELS] = np.eye(statistics.n_labels, dtype=np.float32)[self.codes]
            targets[LABELS][self.codes < 0] = np.nan
        kinds = {ENCODER: self.encoder.vectors_class, LABELS: PeakVectors}
        vectors = {
            name: self._vectors(name, sums[:, at], totals[at], at, kinds[name])
            for name, at in inside.items()
        }
        del sums
        known = [np.where(learned[:, None], each, np.nan) for each in targets.values()]
        found = columns_of(list(vectors.values()), self.sample.pattern, known, self.device)
        columns = dict(zip(targets, found, strict=True))
        readouts, projection = {}, {}
        if self.encoded is not None:
            features, embedding = self.encoded
        else:
            features = columns[ENCODER]
            if self.batches is not None:
                projection = self._projection(features, learned)
            if projection:
                read, along, shift = (array.astype(np.float32) for array in projection.values())
                features -= (features @ read.T) @ along - shift
            readouts[ENCODER], embedding = self._readout(
                ENCODER, features, targets[ENCODER], learned
            )
        if self.labels is not None:
            inputs = np.concatenate([features, columns[LABELS]], axis=1)
            readouts[LABELS], expected = self._readout(LABELS, inputs, targets[LABELS], learned)
            embedding = np.concatenate([embedding, expected], axis=1)
        return Stage(vectors, readouts, projection, embedding)

    def _vectors(
        self, name: str, sums: Tensor, totals: np.ndarray, at: slice, kind: type[PeakVectors]
    ) -> PeakVectors:
        """Vectors of a block, shrunk to the prior; the first stage chooses the pseudocount."""
        pseudocount = self.training.pseudocount
        if self.prior is None:
            return peak_vectors(sums, totals, pseudocount, kind)
        vectors = peak_vectors(sums, totals, 0.0, kind)  # sums of deviations, not divided
        around, count = vectors.weight, vectors.count
        expected = expected_sums(around, count, self.prior.vectors)
        if name not in self.pseudocounts:
            of_held = self.statistics.sums([HELD])[:, at]
            held = peak_vectors(of_held, totals, 0.0, kind)
            candidates = [pseudocount * factor for factor in FACTORS]
            self.pseudocounts[name] = best_pseudocount(
                around, count, expected, (held.weight, held.count), candidates
            )
        shrink_to(expected, vectors, self.pseudocounts[name])
        return vectors

    def _readout(
        self, name: str, inputs: np.ndarray, targets: np.ndarray, learned: np.ndarray
    ) -> tuple[KernelReadout, np.ndarray]:
        """A readout with the width and penalty chosen in the first stage, and its output."""
        n_landmarks = self.training.landmarks
        # Differs between the two readouts, by the lengths of their names; fixed: seeds fix models
        seed = [self.seed, 2, len(name)] if self.encoded is None else [self.seed]
        cells, wanted = torch.from_numpy(inputs), torch.from_numpy(targets)
        has_target, is_learned = ~wanted[:, 0].isnan(), torch.from_numpy(learned)
        fitted, held = has_target & is_learned, has_target & ~is_learned
        if name not in self.chosen:
            parts = ((cells[rows], wanted[rows]) for rows in (fitted, held))
            rng = np.random.default_rng(seed)
            self.chosen[name] = choose(*parts, n_landmarks=n_landmarks, rng=rng)
        width, penalty = self.chosen[name]
        cells, wanted = cells.to(self.device), wanted[fitted].to(self.device)
        (readout,) = fit_kernel_ridge(
            cells[fitted.to(self.device)],
            wanted,
            (penalty,),
            n_landmarks=n_landmarks,
            width=width,
            rng=np.random.default_rng(seed),
        )
        return readout, torch.cat([readout(part) for part in cells.split(2048)]).cpu().numpy()

    def _projection(self, columns: np.ndarray, learned: np.ndarray) -> dict[str, np.ndarray]:
        """Buffers of the projection that removes batch effects; empty if there are none."""
        batches = np.asarray(self.batches)[self.sample.rows]
        known = np.flatnonzero(learned & (batches >= 0))
        known = known[:: -(-len(known) // MAX_PROJECTION_CELLS)]
        columns, batches = columns[known].astype(np.float64), batches[known]
        groups = None if self.labels is None else self.codes[known]
        rng = np.random.default_rng([self.seed, 3])
        read, along = scaled_directions(columns, batches, rng, groups)
        if not len(read):
            return {}
        means = batch_means(columns, batches, int(np.asarray(self.batches).max()) + 1)
        return {"read": read, "along": along, "shift": ((means @ read.T) @ along).mean(axis=0)}


def peak_vectors(
    sums: Tensor, totals: np.ndarray, pseudocount: float, kind: type[PeakVectors] = PeakVectors
) -> PeakVectors:
    """Vectors of class `kind` from memberships in units of 1 / 255.

    `sums` are of the cells in which each peak is open, (n_peaks, width), `totals` of all cells.
    With a pseudocount of 0, sums of deviations rather than their means.
    """
    vectors = kind(*sums.shape).to(sums.device)
    for count, part in zip(vectors.count.split(CHUNK_PEAKS), sums.split(CHUNK_PEAKS), strict=True):
        # The memberships of a cell sum to 255, so row sums count cells
        count.copy_(part.sum(dim=1, dtype=torch.float64) / WEIGHT)
    vectors.base.copy_(torch.from_numpy(totals / max(int(totals.sum()), 1)))
    vectors.pseudocount.fill_(pseudocount)
    around = torch.div(sums, WEIGHT, out=vectors.weight)
    around.addcmul_(vectors.count[:, None], vectors.base, value=-1)
    if pseudocount:
        around.div_(vectors.count[:, None] + pseudocount)
    return vectors


@torch.no_grad()
def columns_of(
    blocks: list[PeakVectors], pattern: sp.csr_matrix, known: list[np.ndarray], device: torch.device
) -> list[np.ndarray]:
    """Columns of cells for each block, float32 (n_cells, width), in one sum over open peaks.

    Cells with memberships (not NaN) in `known` are left out of the vectors of that block.
    """
    found = [np.empty((pattern.shape[0], len(block.base)), np.float32) for block in blocks]
    is_known = np.stack([~np.isnan(each[:, 0]) for each in known], axis=1)
    for kind in np.unique(is_known, axis=0):
        rows = np.flatnonzero((is_known == kind).all(axis=1))
        first, last = int(rows[0]), int(rows[-1]) + 1
        is_run = last - first == len(rows)  # training cells come first: a view instead of a copy
        cells = read_rows(pattern, first, last) if is_run else pattern[rows]
        widths = [len(block.base) + int(left) for block, left in zip(blocks, kind, strict=True)]
        table = torch.empty(pattern.shape[1], sum(widths), device=device)
        for block, left, part in zip(blocks, kind, table.split(widths, dim=1), strict=True):
            if left:
                block.left_out_table(out=part)
            else:
                part.copy_(block.weight)
        sums = np.concatenate(
            [add_up(table, *part).cpu().numpy() for part in in_chunks(cells, device)]
        )
        # Square roots in float64: those of torch in float32 differ from the correctly rounded ones
        n_open, at = torch.from_numpy(np.diff(cells.indptr)).double(), 0
        for i, (block, left) in enumerate(zip(blocks, kind, strict=True)):
            width = len(block.base)
            columns = sums[:, at : at + width + left]
            columns /= block.divisor(n_open).float().numpy()[:, None]
            if left:
                around = known[i][rows] - block.base.cpu().numpy()
                columns = columns[:, :width] - columns[:, width:] * around
            found[i][rows] = columns
            at += width + left
    return found


def in_chunks(pattern: sp.csr_matrix, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Open peaks of cells, concatenated, about ``CHUNK_TOKENS`` at a time."""
    block = pattern.indptr.astype(np.int64) // CHUNK_TOKENS
    edges = np.unique([*np.searchsorted(block, np.arange(block[-1] + 1)), pattern.shape[0]])
    for start, stop in pairwise(edges):
        ids, offsets, _ = packed(read_rows(pattern, start, stop), device)
        yield ids, offsets
