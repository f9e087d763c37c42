"""A head for expression as shallow cells show it: Nyström kernel ridge regression on the embedding."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import scipy.sparse as sp
import torch

from ..models import EpiFoundation
from ..nn import MeasuredHead
from ..training.components import log_normalise
from .cells import Loaded

N_LANDMARKS = (
    400  # as good as all training cells (SNARE-seq: 300 gave the same to the fourth digit)
)
WIDTHS = (0.1, 0.3, 1.0)  # of the kernel, in median squared distances of cells
PENALTIES = (3.0, 10.0, 30.0, 100.0, 300.0)
CHUNK = 4096


def has_counts(model: EpiFoundation, data: Loaded) -> bool:
    """Whether there is what a measured head is fitted to: counts of all genes of a model of counts."""
    return (
        model.config.objective == "counts"
        and data.target is not None
        and data.target.shape[1] == len(data.genes)
    )


def with_measured_head(
    model: EpiFoundation, data: Loaded, embedding: np.ndarray, rng: np.random.Generator
) -> EpiFoundation:
    """`model` with a head for the mean of ``log1p`` of counts per 10,000; as it is where the data lack RNA or genes of it.

    Fitted to the `embedding` of the training cells; the width of the kernel and the penalty are those of the least squared error on the validation cells.
    """
    if data.target is None or not has_counts(model, data):
        return model
    cells = {}
    for part, rows in (("train", data.train), ("held", data.held)):
        cells[part] = embedding[rows], log_normalise(data.target[rows])
    embedding, expression = cells["train"]
    drawn = np.sort(rng.choice(len(embedding), min(N_LANDMARKS, len(embedding)), replace=False))
    head = MeasuredHead(model.config.width, len(drawn), expression.shape[1])
    head.landmarks.copy_(torch.from_numpy(embedding[drawn]))
    base = np.asarray(expression.mean(axis=0)).ravel()
    apart = torch.cdist(head.landmarks, head.landmarks).square()
    median = max(float(apart[~torch.eye(len(apart), dtype=torch.bool)].median()), 1e-12)
    best = 0.0, median, np.zeros((len(drawn), len(base)))  # the mean of the training cells for all
    for width in WIDTHS:
        head.width.fill_(width * median)
        (inner, cross), (held_inner, held_cross) = (
            _products(head, *cells[part], base) for part in ("train", "held")
        )
        between = head.features(head.landmarks).double().numpy()
        jitter = 1e-6 * len(embedding) * np.eye(len(between))  # like cells make like landmarks
        for penalty in PENALTIES:
            weight = np.linalg.solve(inner + penalty * between + jitter, cross)
            # By how much the squared error on the validation cells is more than that of the mean
            loss = float(np.sum(weight * (held_inner @ weight)) - 2 * np.sum(weight * held_cross))
            best = min(best, (loss, width * median, weight), key=lambda found: found[0])
    head.width.fill_(best[1])
    head.weight.copy_(torch.from_numpy(best[2]))
    head.base.copy_(torch.from_numpy(base))
    sizes = replace(model.network.sizes, n_landmarks=len(drawn))
    return replace(model, network=model.network.with_head("measured", head, sizes)).to(model.device)


@torch.no_grad()
def _products(
    head: MeasuredHead, embedding: np.ndarray, expression: sp.csr_matrix, base: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of the features of cells with one another, and with what expression differs from `base` by."""
    size = len(head.landmarks)
    inner, cross, total = (
        np.zeros((size, size)),
        np.zeros((size, expression.shape[1])),
        np.zeros(size),
    )
    for start in range(0, len(embedding), CHUNK):
        rows = slice(start, start + CHUNK)
        features = head.features(torch.from_numpy(embedding[rows])).double().numpy()
        inner += features.T @ features
        cross += (expression[rows].T @ features).T
        total += features.sum(axis=0)
    return inner, cross - np.outer(total, base)
