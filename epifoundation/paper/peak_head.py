"""A head for held-out peaks in closed form, for models trained on expression only."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch

from ..models import EpiFoundation
from ..training.features import embedding_of
from ..training.heads import HeadData, HeadWeights
from ..training.label_head import spread
from .initial_network import log_frequency

PSEUDO = 20.0  # pseudocount of each peak
PEAK_RIDGE = 1e-2  # of the mean variance of the embedding
GAINS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5)
MAX_HELD = 64  # validation cells that the gain is chosen on


def fit_peak_head(model: EpiFoundation, cells: HeadData) -> HeadWeights:
    """Head that predicts which peaks are open, for a `model` trained on expression only.

    To first order around the mean cell, the log-rate of a peak changes with the embedding z as its
    openings do: ``w_p = S^-1 mean(z - m over the cells in which p is open)``, with S and m the
    covariance and the mean of z. The gain of this change is the one that best predicts the open
    peaks of validation cells, every other peak from the rest.
    """
    data = cells.data
    pattern = data.pattern[data.train]
    embedding = cells.embedding[~cells.is_held].astype(np.float64)
    mean, size = embedding.mean(axis=0), embedding.shape[1]
    around = embedding - mean
    covariance = around.T @ around / len(around)
    covariance += (PEAK_RIDGE * np.trace(covariance) / size + 1e-12) * np.eye(size)
    count = pattern.getnnz(axis=0)
    rate = log_frequency(pattern).double().numpy()
    weight = np.linalg.solve(covariance, ((pattern.T @ around) / (count + PSEUDO)[:, None]).T).T
    shown, hidden = _every_other(data.pattern[spread(data.held, MAX_HELD)])
    change = (embedding_of(model, shown) - mean) @ weight.T

    def loss(gain: float) -> float:
        logits = rate + gain * change
        top = logits.max(axis=1, keepdims=True)
        total = top[:, 0] + np.log(np.exp(logits - top).sum(axis=1))
        return float((hidden.getnnz(axis=1) * total).sum() - hidden.multiply(logits).sum())

    gain = min(GAINS, key=loss) if hidden.nnz else 0.0
    return {
        "linear.weight": torch.from_numpy((gain * weight).astype(np.float32)),
        "linear.bias": torch.from_numpy((rate - gain * (weight @ mean)).astype(np.float32)),
    }, {}


def _every_other(pattern: sp.csr_matrix) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Two halves of the open peaks, of the cells that have two or more."""
    pattern = sp.csr_matrix(pattern[pattern.getnnz(axis=1) > 1])
    is_even = np.arange(pattern.nnz) % 2 == 0
    halves = []
    for kept in (is_even, ~is_even):
        half = pattern.copy()
        half.data = half.data * kept
        half.eliminate_zeros()
        halves.append(half)
    return halves[0], halves[1]
