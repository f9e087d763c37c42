"""Fit and calibrate the head for bulk profiles on cells that are simulated from them."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch

from ..nn import BulkHead, conformal_scores
from .bulk_profiles import BulkProfiles
from .label_head import tempered_loss

CLOSED = 1.0  # level that is added to all: closed peaks have some reads
# Simulated cells. Another type has up to half of what is not background, as with profiles that
# cells resemble only in part: without it, they are easier to label than real ones, for which
# probabilities would be too high
N_CELLS, MIN_CELLS_OF_TYPE = 2000, 20
BACKGROUND = 0.1, 0.5  # fraction of the open peaks
OTHER_TYPE = 0.0, 0.5  # fraction of the others
DEPTH = 50, 5000  # open peaks, uniform on a logarithmic scale
MAX_OPEN = 0.1  # of the peaks of the profiles


def fit_bulk_head(profiles: BulkProfiles, rng: np.random.Generator) -> BulkHead:
    """A head for the types of the profiles."""
    rates = profiles.levels.astype(np.float64) + CLOSED
    rates /= rates.sum(axis=0)
    mean = rates.mean(axis=1)
    cells, types = simulate_cells(rates, rng)
    head = BulkHead(len(profiles.peaks), len(profiles.names), len(types))
    weight = np.log(rates / mean[:, None])
    weight -= weight.mean(axis=1, keepdims=True)
    variance = mean @ weight**2 - (mean @ weight) ** 2
    weight /= np.sqrt(variance.mean())
    head.weight.copy_(torch.from_numpy(weight.astype(np.float32)))
    tokens = (torch.from_numpy(each.astype(np.int64)) for each in (cells.indices, cells.indptr))
    scores = head.scores(*tokens)
    _, temperature = tempered_loss(scores.double().numpy(), types)
    head.sharpness.fill_(1 / temperature)
    of_type = torch.arange(len(types)), torch.from_numpy(types)
    head.conformal.copy_(conformal_scores(head(scores))[of_type].sort().values)
    energy = head.energy(scores)
    head.moments.copy_(torch.stack([energy.mean(), energy.std().clamp(min=1e-6)]))
    head.novelty.copy_(head.score_novelty(scores).sort().values)
    head.peaks.copy_(torch.from_numpy(profiles.peaks))
    return head.eval()


def simulate_cells(rates: np.ndarray, rng: np.random.Generator) -> tuple[sp.csr_matrix, np.ndarray]:
    """Open peaks of cells, ones (n_cells, n_peaks), and their types.

    Peaks are drawn from the rates of the type, of one other type and, as background, of the mean.
    """
    n_peaks, n_types = rates.shape
    n_cells = max(N_CELLS, MIN_CELLS_OF_TYPE * n_types)
    types = np.arange(n_cells) % n_types
    others = (types + rng.integers(1, n_types, n_cells)) % n_types
    scale = min(1.0, MAX_OPEN * n_peaks / DEPTH[1])
    low, high = (max(scale * depth, 1.0) for depth in DEPTH)
    depth = np.exp(rng.uniform(np.log(low), np.log(high), n_cells)).round().astype(int)
    background = rng.uniform(*BACKGROUND, n_cells)
    of_other = rng.uniform(*OTHER_TYPE, n_cells) * (1 - background)
    parts = np.stack([1 - background - of_other, of_other, background], axis=1)
    counts = rng.multinomial(depth, parts)
    drawn_from = np.stack([types, others, np.full(n_cells, n_types)], axis=1)
    rows, columns = [], []
    for i in range(n_types + 1):
        n = (counts * (drawn_from == i)).sum(axis=1)
        ends = np.cumsum(rates.mean(axis=1) if i == n_types else rates[:, i])
        at = np.searchsorted(ends, rng.random(n.sum()) * ends[-1], side="right")
        columns.append(np.minimum(at, n_peaks - 1))
        rows.append(np.repeat(np.arange(n_cells), n))
    places = np.concatenate(rows), np.concatenate(columns)
    cells = sp.csr_matrix((np.ones(len(places[0]), np.int64), places), shape=(n_cells, n_peaks))
    cells.data = np.ones(cells.nnz, np.int8)
    return cells, types
