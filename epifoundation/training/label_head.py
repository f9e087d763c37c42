"""The label head: regularised multinomial regression, calibrated on validation cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from .._columns import check_storable
from ..nn import LabelHead, conformal_scores
from .components import same_bits

STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # inverse penalties tried on validation cells
BALANCE = 0.25  # class weights are `n_label ** -BALANCE`, which finds more cells of rare labels
NEVER = 20.0  # logit of a label without a cell, below the smallest of the others
MAX_KEPT_CELLS = 2000  # validation cells, and reference cells, that a head keeps


@dataclass(frozen=True)
class Regression:
    """A multinomial regression of standardized inputs."""

    weight: np.ndarray  # (n_labels, d), of inputs that are not standardized
    bias: np.ndarray
    scale: np.ndarray  # standard deviation of the inputs, (d,)

    def logits(self, inputs: np.ndarray) -> np.ndarray:
        """Logits, (n_cells, n_labels)."""
        return inputs @ self.weight.T + self.bias


def fit_label_head(
    learned: tuple[np.ndarray, np.ndarray],
    held: tuple[np.ndarray, np.ndarray],
    final: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[LabelHead, float]:
    """Fit a head, and return it with its loss on the validation cells.

    Penalty and temperature are those of the least negative log-likelihood on the validation cells.
    The head keeps their scores for conformal sets and novelty.

    Parameters
    ----------
    learned
        Embedding (n_cells, d) and codes of labels of the training cells, two or more.
    held
        The same of the validation cells.
    final
        The same of all cells, to which the head is fitted again once penalty and calibration are
        chosen.
    """
    embedding, codes = learned
    n_labels = int(max(each[1].max() for each in (learned, final or learned))) + 1
    tried = _regressions(embedding, codes, n_labels, STRENGTHS)
    losses = [tempered_loss(regression.logits(held[0]), held[1]) for regression in tried]
    best = int(np.argmin([loss for loss, _ in losses]))
    loss, temperature = losses[best]
    kept = spread(np.arange(len(codes)), MAX_KEPT_CELLS)
    n_calibration = min(len(held[1]), MAX_KEPT_CELLS)
    with torch.random.fork_rng():
        head = LabelHead(embedding.shape[1], n_labels, 0, n_calibration, len(kept))
    with torch.no_grad():
        _set(head, tried[best], embedding[kept])
        head.temperature.fill_(temperature)
        _calibrate(head, *held)
        if final is not None:
            every = spread(np.arange(len(final[1])), len(kept))
            (regression,) = _regressions(*final, n_labels, STRENGTHS[best : best + 1])
            _set(head, regression, final[0][every])
    return head.eval().requires_grad_(False), loss


def _set(head: LabelHead, regression: Regression, reference: np.ndarray) -> None:
    head.linear.weight.copy_(torch.from_numpy(regression.weight))
    head.linear.bias.copy_(torch.from_numpy(regression.bias))
    head.scaling.copy_(torch.from_numpy(1 / regression.scale))
    head.reference.copy_(torch.from_numpy(reference / regression.scale))


def _calibrate(head: LabelHead, embedding: np.ndarray, codes: np.ndarray) -> None:
    """Set moments and scores of the validation cells."""
    cells = torch.from_numpy(embedding.astype(np.float32))
    scores = head.ood_scores(cells)
    deviation = scores.std(dim=0, correction=0).clamp(min=1e-6)
    head.moments.copy_(torch.stack([scores.mean(dim=0), deviation]))
    scores = conformal_scores(head(cells))[torch.arange(len(codes)), torch.from_numpy(codes)]
    for buffer, values in ((head.conformal, scores), (head.novelty, head.score_novelty(cells))):
        ascending = values.sort().values
        buffer.copy_(ascending[spread(np.arange(len(ascending)), MAX_KEPT_CELLS)])


def spread(rows: np.ndarray, max_rows: int) -> np.ndarray:
    """At most this many of the rows, evenly spaced, with the last one."""
    if len(rows) <= max_rows:
        return rows
    return rows[np.ceil(np.arange(1, max_rows + 1) * len(rows) / max_rows).astype(int) - 1]


def check_labels(
    labels: pd.Series, train: np.ndarray, held: np.ndarray
) -> tuple[list[str], np.ndarray]:
    """Names of the labels of training cells, and code of each cell, -1 for none; or an error."""
    known = labels.notna().to_numpy()
    names = sorted(set(labels.iloc[train[known[train]]].astype(str)))
    check_storable(names, "label")
    codes = pd.Index(names).get_indexer(labels.astype(str)).astype(np.int64)
    codes[~known] = -1
    n_held = int((codes[held] >= 0).sum())
    if len(names) < 2 or not n_held:
        msg = "`label_key` needs two labels or more among the training cells, and a validation "
        msg += f"cell with one of them; found labels {names} and {n_held} such cells."
        raise ValueError(msg)
    return names, codes


def _regressions(
    embedding: np.ndarray, codes: np.ndarray, n_labels: int, strengths: Sequence[float]
) -> list[Regression]:
    """A regression for each strength, ascending; each is initialised with the previous one."""
    from sklearn.linear_model import LogisticRegression

    mean, scale = embedding.mean(axis=0), embedding.std(axis=0) + 1e-6
    scaled = (embedding - mean) / scale
    weights = balanced_weights(np.bincount(codes), BALANCE)[codes]
    fitted, found = LogisticRegression(max_iter=1000, warm_start=True), []
    with same_bits():
        for strength in strengths:
            fitted.set_params(C=strength).fit(scaled, codes, weights)
            weight, bias = fitted.coef_, fitted.intercept_
            if len(weight) == 1:  # two labels: one row of logits
                weight, bias = (np.concatenate([-part, part]) / 2 for part in (weight, bias))
            every = np.zeros((n_labels, len(mean))), np.full(n_labels, bias.min() - NEVER)
            weight = weight / scale
            every[0][fitted.classes_], every[1][fitted.classes_] = weight, bias - weight @ mean
            found.append(Regression(*every, scale))
    return found


def balanced_weights(counts: np.ndarray, power: float) -> np.ndarray:
    """Class weights ``counts ** -power``, scaled to a mean of 1 over cells."""
    weights = np.maximum(counts, 1) ** -float(power)
    return weights * counts.sum() / (weights * counts).sum()


def tempered_loss(logits: np.ndarray, codes: np.ndarray) -> tuple[float, float]:
    """Negative log-likelihood at the best temperature, and that temperature."""
    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        heated = logits / np.exp(log_temperature)
        heated -= heated.max(axis=1, keepdims=True)
        total = np.log(np.exp(heated).sum(axis=1))
        return float(np.mean(total - heated[np.arange(len(codes)), codes]))

    found = minimize_scalar(loss, bounds=(-3, 3), method="bounded")
    return float(found.fun), float(np.exp(found.x))
