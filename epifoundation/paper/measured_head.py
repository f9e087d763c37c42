"""A head for expression on the measured scale: kernel ridge regression on the embedding."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch

from ..nn import MeasuredHead
from ..training.components import log_normalise
from ..training.heads import HeadData, HeadWeights

N_LANDMARKS = 400  # enough: on SNARE-seq, 300 and all cells agreed to the fourth digit
HEAD_WIDTHS = (0.1, 0.3, 1.0)  # kernel widths, in median squared distances of cells
HEAD_PENALTIES = (3.0, 10.0, 30.0, 100.0, 300.0)
HEAD_CHUNK = 4096


def fit_measured_head(cells: HeadData) -> HeadWeights | None:
    """Head for the mean of ``log1p`` of counts per 10,000; None without counts of all genes.

    Fitted to the embedding of the training cells. Width of the kernel and penalty are those of the
    least squared error on the validation cells.
    """
    target = cells.data.target
    if cells.config.objective != "counts" or target is None:
        return None
    if target.shape[1] != len(cells.data.genes):
        return None
    parts = {
        part: (cells.embedding[rows], log_normalise(target[cells.rows[rows]]))
        for part, rows in (("train", ~cells.is_held), ("held", cells.is_held))
    }
    embedding, expression = parts["train"]
    n_landmarks = min(N_LANDMARKS, len(embedding))
    drawn = np.sort(cells.rng.choice(len(embedding), n_landmarks, replace=False))
    head = MeasuredHead(cells.config.width, n_landmarks, expression.shape[1])
    head.landmarks.copy_(torch.from_numpy(embedding[drawn]))
    base = np.asarray(expression.mean(axis=0)).ravel()
    apart = torch.cdist(head.landmarks, head.landmarks).square()
    median = max(float(apart[~torch.eye(len(apart), dtype=torch.bool)].median()), 1e-12)
    best = 0.0, median, np.zeros((len(drawn), len(base)))  # the mean of the training cells
    for width in HEAD_WIDTHS:
        head.width.fill_(width * median)
        (inner, cross), (held_inner, held_cross) = (
            _products(head, *parts[part], base) for part in ("train", "held")
        )
        between = head.features(head.landmarks).double().numpy()
        jitter = 1e-6 * len(embedding) * np.eye(len(between))  # similar cells, similar landmarks
        for penalty in HEAD_PENALTIES:
            weight = np.linalg.solve(inner + penalty * between + jitter, cross)
            # Squared error on the validation cells minus that of the mean
            loss = float(np.sum(weight * (held_inner @ weight)) - 2 * np.sum(weight * held_cross))
            best = min(best, (loss, width * median, weight), key=lambda found: found[0])
    head.width.fill_(best[1])
    head.weight.copy_(torch.from_numpy(best[2]))
    head.base.copy_(torch.from_numpy(base))
    return head.state_dict(), {"n_landmarks": n_landmarks}


@torch.no_grad()
def _products(
    head: MeasuredHead, embedding: np.ndarray, expression: sp.csr_matrix, base: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Products of the features of cells with one another, and with expression minus `base`."""
    size = len(head.landmarks)
    inner, total = np.zeros((size, size)), np.zeros(size)
    cross = np.zeros((size, expression.shape[1]))
    for start in range(0, len(embedding), HEAD_CHUNK):
        rows = slice(start, start + HEAD_CHUNK)
        features = head.features(torch.from_numpy(embedding[rows])).double().numpy()
        inner += features.T @ features
        cross += (expression[rows].T @ features).T
        total += features.sum(axis=0)
    return inner, cross - np.outer(total, base)
