"""A head for held-out peaks in closed form, for models that learned from expression alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from ..models import EpiFoundation
from ..nn import PeakHead
from ._encode import embedding_of
from ._training_data import TrainingData

PSEUDO = 20.0  # openings of which nothing is known, for each peak
RIDGE = 1e-2  # of the mean variance of the embedding
GAINS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5)
MOST = 64  # validation cells that the gain is chosen on


def with_peak_head(model: EpiFoundation, data: TrainingData, own: np.ndarray | None = None) -> EpiFoundation:
    """`model` with a head that says which peaks are open; `own`: see :func:`embedding_of`.

    To first order around the mean cell, the log-rate of a peak changes with the embedding z as its openings do: ``w_p = S^-1 mean(z - m over the
    cells in which p is open)``, S and m the covariance and the mean of z. Of this, as much is taken as tells best which peaks are open in validation cells.
    """
    rows = data.train
    embedding = embedding_of(
        model, data.pattern[rows], None, pd.RangeIndex(len(rows)), show=False, own=None if own is None else own[rows]
    ).astype(np.float64)
    pattern = data.pattern[rows]
    mean, size = embedding.mean(axis=0), embedding.shape[1]
    around = embedding - mean
    covariance = around.T @ around / len(around)
    covariance += (RIDGE * np.trace(covariance) / size + 1e-12) * np.eye(size)
    count = pattern.getnnz(axis=0)
    rate = np.log((count + 1) / (count + 1).sum())
    weight = np.linalg.solve(covariance, ((pattern.T @ around) / (count + PSEUDO)[:, None]).T).T
    held = data.held[:MOST]
    told = embedding_of(model, data.pattern[held], None, pd.RangeIndex(len(held)), show=False) - mean
    change, is_open = told @ weight.T, data.pattern[held]

    def loss(gain: float) -> float:
        logits = rate + gain * change
        top = logits.max(axis=1, keepdims=True)
        total = top[:, 0] + np.log(np.exp(logits - top).sum(axis=1))
        return float((is_open.getnnz(axis=1) * total).sum() - is_open.multiply(logits).sum())

    gain = min(GAINS, key=loss)
    with torch.random.fork_rng():
        head = PeakHead(size, len(count), 0)
    with torch.no_grad():
        head.linear.weight.copy_(torch.from_numpy((gain * weight).astype(np.float32)))
        head.linear.bias.copy_(torch.from_numpy((rate - gain * (weight @ mean)).astype(np.float32)))
    return replace(model, network=model.network.with_head("peaks", head, model.network.sizes)).to(model.device)
