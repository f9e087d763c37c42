"""The encoder, measured on training cells to choose penalties and then on all cells, and its readouts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from ..counted import WEIGHT, dense
from ..nn import ENCODER, LABELS, KernelReadout, ModelConfig, PeakVectors, TrainingConfig, add_up
from ..tokens import read_rows
from .batch_effects import batch_directions, batch_means
from .components import packed, same_bits
from .kernel_ridge import choose, fit_kernel_ridge
from .statistics import CHUNK_PEAKS, HELD, TRAIN, Statistics

CHUNK_TOKENS = 4_000_000
BATCH_CELLS = 4_000  # that effects of batches are estimated with
PARTS = {"train": [TRAIN], "all": [TRAIN, HELD]}


@dataclass
class Cells:
    """Some cells of the data: their row numbers, ascending, and their open peaks."""

    rows: np.ndarray
    pattern: sp.csr_matrix

    def keep(self, kept: np.ndarray) -> Cells:
        """Some of the cells, boolean."""
        return self if kept.all() else Cells(self.rows[kept], self.pattern[kept])


@dataclass
class Stage:
    """An encoder, measured on some of the cells, and the embedding of the sample by it.

    Cells of the sample that it was measured on are left out of their own vectors.
    """

    vectors: PeakVectors
    read: np.ndarray
    along: np.ndarray
    shift: np.ndarray
    readout: KernelReadout
    label_vectors: PeakVectors | None
    label_readout: KernelReadout | None
    embedding: np.ndarray

    def tensors(self) -> dict[str, Tensor]:
        """Weights by the names that a network has for them."""
        parts = {"encoder.vectors": self.vectors, "encoder.readout": self.readout}
        if self.label_vectors is not None and self.label_readout is not None:
            parts |= {"label_columns.vectors": self.label_vectors, "label_columns.readout": self.label_readout}
        found = {
            f"{part}.{name}": tensor for part, module in parts.items() for name, tensor in module.state_dict().items()
        }
        if len(self.read):
            projection = {"read": self.read, "along": self.along, "shift": self.shift}
            found |= {
                f"encoder.projection.{name}": torch.from_numpy(array.astype(np.float32))
                for name, array in projection.items()
            }
        return found


@dataclass
class Fit:
    """Fits a :class:`Stage` to the statistics of training cells, which chooses penalties, and then to those of all cells."""

    statistics: Statistics
    parts: list[Cells]
    config: ModelConfig
    training: TrainingConfig
    labels: np.ndarray | None
    batches: np.ndarray | None
    n_labels: int
    seed: int
    device: torch.device
    chosen: dict[str, tuple[float, float]] = field(default_factory=dict)

    @cached_property
    def rows(self) -> np.ndarray:
        """Row numbers of the cells of the sample, training cells first."""
        return np.concatenate([part.rows for part in self.parts])

    @cached_property
    def is_held(self) -> np.ndarray:
        """Which of them are validation cells."""
        return np.arange(len(self.rows)) >= len(self.parts[TRAIN].rows)

    def stage(self, counted: str) -> Stage:
        """The encoder measured on ``"train"`` cells, or on ``"all"`` cells."""
        statistics, dim, rows = self.statistics, self.config.width, self.rows
        sums = statistics.sums(PARTS[counted])
        if counted == "all":  # the last that is asked of them
            statistics.forget()
        totals = statistics.totals[PARTS[counted]].sum(axis=0)
        learned = np.ones(len(rows), bool) if counted == "all" else ~self.is_held
        blocks = [peak_vectors(sums[:, :dim], totals[:dim], self.training.pseudocount)]
        targets = [dense(statistics.codes[rows], statistics.weights[rows], dim)]
        known = [learned]
        of_labels = None if self.labels is None else self.labels[rows]
        if of_labels is not None:
            blocks.append(peak_vectors(sums[:, dim:], totals[dim:], self.training.pseudocount))
            targets.append(np.where(of_labels[:, None] == np.arange(self.n_labels), np.float32(1), np.float32(0)))
            known.append(learned & (of_labels >= 0))
        del sums
        columns = self._columns(blocks, targets, known)
        read = along = np.zeros((0, dim))
        shift = np.zeros(dim)
        if self.batches is not None:
            read, along, shift = self._directions(columns[0], learned, of_labels)
            columns[0] -= ((columns[0] @ read.T.astype(np.float32)) @ along.astype(np.float32)) - shift.astype(
                np.float32
            )
        readout, embedding = self._readout(ENCODER, columns[0], targets[0], known[0], ~learned)
        found = Stage(blocks[0], read, along, shift, readout, None, None, embedding)
        if of_labels is not None:
            inputs = np.concatenate(columns, axis=1)
            readout, expected = self._readout(LABELS, inputs, targets[1], known[1], ~learned & (of_labels >= 0))
            embedding = np.concatenate([embedding, expected], axis=1)
            found = replace(found, label_vectors=blocks[1], label_readout=readout, embedding=embedding)
        return found

    def _columns(
        self, blocks: list[PeakVectors], targets: list[np.ndarray], known: list[np.ndarray]
    ) -> list[np.ndarray]:
        """Columns of each block for the cells of the sample."""
        found, start = [], 0
        for part in self.parts:
            inside = slice(start, start + len(part.rows))
            of_part = [
                np.where(there[inside, None], wanted[inside], np.nan)
                for wanted, there in zip(targets, known, strict=True)
            ]
            found.append(columns_of(blocks, part.pattern, of_part, self.device))
            start += len(part.rows)
        return [np.concatenate(each) for each in zip(*found, strict=True)]

    def _readout(
        self, name: str, inputs: np.ndarray, targets: np.ndarray, learned: np.ndarray, held: np.ndarray
    ) -> tuple[KernelReadout, np.ndarray]:
        """A readout with the width and the penalty that the first stage chose, and what it gives for all cells."""
        n_landmarks, seed = self.training.landmarks, [self.seed, 2, len(name)]
        if name not in self.chosen:
            self.chosen[name] = chosen_on(inputs, targets, learned, held, n_landmarks, np.random.default_rng(seed))
        rng = np.random.default_rng(seed)
        return fit_readout(inputs, targets, learned, self.chosen[name], n_landmarks, rng, self.device)

    def _directions(
        self, columns: np.ndarray, learned: np.ndarray, of_labels: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        batches = np.asarray(self.batches)[self.rows]
        known = np.flatnonzero(learned & (batches >= 0))
        known = known[:: -(-len(known) // BATCH_CELLS)]
        columns, batches = columns[known].astype(np.float64), batches[known]
        unit = columns.std(axis=0).mean() + 1e-12
        groups = None if of_labels is None else of_labels[known]
        with same_bits():
            read, along = batch_directions(columns / unit, batches, np.random.default_rng([self.seed, 3]), groups)
        means = batch_means(columns, batches, int(np.asarray(self.batches).max()) + 1)
        return read, along, ((means @ read.T) @ along).mean(axis=0)


def chosen_on(
    inputs: np.ndarray,
    targets: np.ndarray,
    learned: np.ndarray,
    held: np.ndarray,
    n_landmarks: int,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """Width and penalty of a readout, chosen on the cells `held`."""
    of_learned, of_held = (
        (torch.from_numpy(inputs[rows]), torch.from_numpy(targets[rows])) for rows in (learned, held)
    )
    return choose(of_learned, of_held, n_landmarks=n_landmarks, rng=rng)


def fit_readout(
    inputs: np.ndarray,
    targets: np.ndarray,
    learned: np.ndarray,
    chosen: tuple[float, float],
    n_landmarks: int,
    rng: np.random.Generator,
    device: torch.device,
) -> tuple[KernelReadout, np.ndarray]:
    """A readout fitted to the cells that are learned from, and what it gives for all cells."""
    cells = torch.from_numpy(inputs).to(device)
    rows = torch.from_numpy(np.flatnonzero(learned)).to(device)
    wanted = torch.from_numpy(targets[learned]).to(device)
    width, penalty = chosen
    readout = fit_kernel_ridge(cells[rows], wanted, n_landmarks=n_landmarks, width=width, penalty=penalty, rng=rng)
    return readout, torch.cat([readout(part) for part in cells.split(2048)]).cpu().numpy()


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
    for count, part in zip(vectors.count.split(CHUNK_PEAKS), sums.split(CHUNK_PEAKS), strict=True):
        count.copy_(part.sum(dim=1, dtype=torch.float64) / WEIGHT)  # the memberships of a cell add up to 255
    vectors.base.copy_(torch.from_numpy(totals / max(int(totals.sum()), 1)))
    vectors.pseudocount.fill_(pseudocount)
    around = torch.div(sums, WEIGHT, out=vectors.weight)
    around.addcmul_(vectors.count[:, None], vectors.base, value=-1)
    around.div_(vectors.count[:, None] + pseudocount)
    return vectors


@torch.no_grad()
def columns_of(
    blocks: list[PeakVectors], pattern: sp.csr_matrix, known: list[np.ndarray], device: torch.device
) -> list[np.ndarray]:
    """Columns of cells for each block, float32 (n_cells, width), in one sum over tokens.

    Cells of which something is known (not NaN) are left out of the vectors of that block.
    """
    found = [np.empty((pattern.shape[0], len(block.base)), np.float32) for block in blocks]
    is_known = np.stack([~np.isnan(each[:, 0]) for each in known], axis=1)
    for kind in np.unique(is_known, axis=0):
        rows = np.flatnonzero((is_known == kind).all(axis=1))
        cells = pattern if len(rows) == len(is_known) else pattern[rows]
        widths = [len(block.base) + int(there) for block, there in zip(blocks, kind, strict=True)]
        table = torch.empty(pattern.shape[1], sum(widths), device=device)
        for block, there, part in zip(blocks, kind, table.split(widths, dim=1), strict=True):
            if there:
                block.left_out_table(out=part)
            else:
                part.copy_(block.weight)
        sums = np.concatenate([add_up(table, *part).cpu().numpy() for part in in_chunks(cells, device)])
        sums /= np.sqrt(np.diff(cells.indptr)).astype(np.float32)[:, None]
        at = 0
        for i, (block, there) in enumerate(zip(blocks, kind, strict=True)):
            width = len(block.base)
            columns = sums[:, at : at + width]
            if there:
                columns = columns - sums[:, at + width, None] * (known[i][rows] - block.base.cpu().numpy())
            found[i][rows] = columns
            at += width + there
    return found


def in_chunks(pattern: sp.csr_matrix, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Packed tokens of cells, some millions at a time."""
    block = pattern.indptr.astype(np.int64) // CHUNK_TOKENS
    edges = np.unique([*np.searchsorted(block, np.arange(block[-1] + 1)), pattern.shape[0]])
    for start, stop in pairwise(edges):
        ids, offsets, _ = packed(read_rows(pattern, start, stop), device)
        yield ids, offsets
