"""A label head for a model: regularised multinomial regression on its embedding, calibrated on cells that were held out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from ..batches import balanced_weights
from ..models import EpiFoundation
from ..nn import LabelHead, conformal_scores

STRENGTHS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # inverse penalties that are tried on the validation cells
BALANCE = 0.25  # a cell counts as the number of cells of its label to the power of minus this: rare labels are told more often
MOST = 2000  # cells that a head keeps of those held out, and of those learned from


def head_on(
    model: EpiFoundation, embedding: np.ndarray, labels: pd.Series, train: np.ndarray, held: np.ndarray
) -> tuple[EpiFoundation, float]:
    """`model` with a head for `labels`, fitted on the cells `train` of an embedding, and its loss on the validation cells.

    The penalty and the temperature are those of the least negative log-likelihood on the validation cells `held`, whose scores
    the head keeps: for conformal sets, and for what is like no cell in `train`. Cells with a missing label are left out.
    """
    names, codes, train, held = check_labels(labels, train, held)
    mean, std = embedding[train].mean(axis=0), embedding[train].std(axis=0) + 1e-6
    scaled = (embedding - mean) / std
    best = min((_fit(scaled, codes, train, held, strength) for strength in STRENGTHS), key=lambda fitted: fitted[0])
    loss, weight, bias, temperature = best

    kept = spread(train, MOST)
    sizes = replace(
        model.network.sizes,
        n_labels=len(names),
        n_label_layers=0,
        n_calibration=min(len(held), MOST),
        n_reference=len(kept),
    )
    with torch.random.fork_rng():
        head = LabelHead(model.config.dim, len(names), 0, sizes.n_calibration, sizes.n_reference)
    with torch.no_grad():  # the scaling becomes part of the weights
        head.linear.weight.copy_(torch.from_numpy(weight / std))
        head.linear.bias.copy_(torch.from_numpy(bias - weight @ (mean / std)))
        head.temperature.fill_(temperature)
        _calibrate(head, embedding, std, kept, held, codes[held])
    network = model.network.with_head("label", head, sizes)
    fitted = EpiFoundation(network, model.peaks, model.genes, names, model.training, model.name, model.card)
    return fitted.to(model.device), loss


def _calibrate(
    head: LabelHead, embedding: np.ndarray, std: np.ndarray, kept: np.ndarray, held: np.ndarray, codes: np.ndarray
) -> None:
    """Let the head keep what it needs of the cells that it learned from, and of those held out."""
    cells = torch.from_numpy(embedding[held].astype(np.float32))
    head.scaling.copy_(torch.from_numpy(1 / std))
    head.reference.copy_(torch.from_numpy(embedding[kept] / std))
    strangeness = head.strangeness(cells)
    head.moments.copy_(torch.stack([strangeness.mean(dim=0), strangeness.std(dim=0, correction=0).clamp(min=1e-6)]))
    scores = conformal_scores(head(cells))[torch.arange(len(held)), torch.from_numpy(codes)]
    for buffer, values in ((head.conformal, scores), (head.novelty, head.score_novelty(cells))):
        ascending = values.sort().values
        buffer.copy_(ascending[spread(np.arange(len(ascending)), MOST)])


def spread(rows: np.ndarray, most: int) -> np.ndarray:
    """At most so many of the rows, evenly spaced, the last one with them."""
    if len(rows) <= most:
        return rows
    return rows[np.ceil(np.arange(1, most + 1) * len(rows) / most).astype(int) - 1]


def check_labels(
    labels: pd.Series, train: np.ndarray, held: np.ndarray
) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """Names of the labels, code of each cell, and the training and validation cells that have one; or an error."""
    known = labels.notna().to_numpy()
    train, held = train[known[train]], held[known[held]]
    names = sorted(set(labels.iloc[train].astype(str)))
    codes = pd.Index(names).get_indexer(labels.astype(str)).astype(np.int64)
    held = held[codes[held] >= 0]
    if len(names) < 2 or not len(held):
        msg = (
            f"`label_key` needs two labels or more among the training cells and a validation cell with one of them; "
            f"there are {names} and {len(held)} such cells."
        )
        raise ValueError(msg)
    return names, codes, train, held


def _fit(
    scaled: np.ndarray, codes: np.ndarray, train: np.ndarray, held: np.ndarray, strength: float
) -> tuple[float, np.ndarray, np.ndarray, float]:
    """Validation loss, weights (n_labels, d), bias (n_labels,) and temperature at one penalty."""
    from scipy.optimize import minimize_scalar
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    counted = balanced_weights(np.bincount(codes[train]), BALANCE)[codes[train]]
    # Products this small gain nothing from threads, and lose a hundredfold where other processes hold the cores.
    with threadpool_limits(1, user_api="blas"):
        fitted = LogisticRegression(C=strength, max_iter=1000).fit(scaled[train], codes[train], counted)
    weight, bias = fitted.coef_, fitted.intercept_
    if len(weight) == 1:  # two labels: one row of logits
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    logits = scaled[held] @ weight.T + bias

    def loss(log_temperature: float) -> float:
        heated = logits / np.exp(log_temperature)
        heated -= heated.max(axis=1, keepdims=True)
        return float(np.mean(np.log(np.exp(heated).sum(axis=1)) - heated[np.arange(len(held)), codes[held]]))

    found = minimize_scalar(loss, bounds=(-3, 3), method="bounded")
    return float(found.fun), weight, bias, float(np.exp(found.x))
