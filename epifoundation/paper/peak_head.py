"""A head for held-out peaks in closed form, for models that learned from expression alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import scipy.sparse as sp
import torch

from ..models import EpiFoundation
from ..nn import PeakHead
from ..training.features import embedding_of
from ..training.label_head import spread
from .cells import Loaded
from .initial_network import log_frequency

PSEUDO = 20.0  # openings of which nothing is known, for each peak
RIDGE = 1e-2  # of the mean variance of the embedding
GAINS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5)
MOST = 64  # validation cells that the gain is chosen on


def with_peak_head(model: EpiFoundation, data: Loaded, embedding: np.ndarray) -> EpiFoundation:
    """`model` with a head that says which peaks are open, given the `embedding` of all cells.

    To first order around the mean cell, the log-rate of a peak changes with the embedding z as its openings do: ``w_p = S^-1 mean(z - m over the
    cells in which p is open)``, S and m the covariance and the mean of z. Of this, as much is taken as tells best which peaks are open in validation
    cells, every other of their peaks by the rest.
    """
    pattern = data.pattern[data.train]
    cells = embedding[data.train].astype(np.float64)
    mean, size = cells.mean(axis=0), cells.shape[1]
    around = cells - mean
    covariance = around.T @ around / len(around)
    covariance += (RIDGE * np.trace(covariance) / size + 1e-12) * np.eye(size)
    count = pattern.getnnz(axis=0)
    rate = log_frequency(pattern).double().numpy()
    weight = np.linalg.solve(covariance, ((pattern.T @ around) / (count + PSEUDO)[:, None]).T).T
    read, asked = _every_other(data.pattern[spread(data.held, MOST)])
    change = (embedding_of(model, read) - mean) @ weight.T

    def loss(gain: float) -> float:
        logits = rate + gain * change
        top = logits.max(axis=1, keepdims=True)
        total = top[:, 0] + np.log(np.exp(logits - top).sum(axis=1))
        return float((asked.getnnz(axis=1) * total).sum() - asked.multiply(logits).sum())

    gain = min(GAINS, key=loss) if asked.nnz else 0.0
    with torch.random.fork_rng():
        head = PeakHead(size, len(count), 0)
    with torch.no_grad():
        head.linear.weight.copy_(torch.from_numpy((gain * weight).astype(np.float32)))
        head.linear.bias.copy_(torch.from_numpy((rate - gain * (weight @ mean)).astype(np.float32)))
    return replace(model, network=model.network.with_head("peaks", head, model.network.sizes)).to(
        model.device
    )


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
