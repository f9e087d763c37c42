"""The label head: regularised multinomial regression on the embedding, calibrated on cells that were held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from ..nn import LabelHead, conformal_scores
from .components import same_bits

STRENGTHS = (
    0.001,
    0.003,
    0.01,
    0.03,
    0.1,
    0.3,
    1.0,
)  # inverse penalties that are tried on the validation cells
BALANCE = 0.25  # weight of a cell is the number of cells of its label to the power of minus this: rare labels are found more often
NEVER = 20.0  # logits below all others, of a label without a cell
MAX_CELLS = 2000  # cells that a head keeps of those held out, and of those learned from


@dataclass(frozen=True)
class Regression:
    """A multinomial regression of standardized inputs."""

    weight: np.ndarray  # (n_labels, d), of the inputs as they are
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
    """Fit a head, and give its loss on the validation cells.

    The penalty and the temperature are those of the least negative log-likelihood on the validation cells, whose scores
    the head keeps: for conformal sets, and to recognize cells that resemble none that it was fitted on.

    Parameters
    ----------
    learned
        Embedding (n_cells, d) and codes of labels of the training cells, two or more.
    held
        The same of the validation cells.
    final
        The same of all cells, where the head is fitted once more on these after penalty and calibration are chosen.
    """
    embedding, codes = learned
    n_labels = int(max(codes.max(), codes.max() if final is None else final[1].max())) + 1
    tried = _regressions(embedding, codes, n_labels, STRENGTHS)
    losses = [_tempered_loss(regression.logits(held[0]), held[1]) for regression in tried]
    best = int(np.argmin([loss for loss, _ in losses]))
    loss, temperature = losses[best]
    kept = spread(np.arange(len(codes)), MAX_CELLS)
    n_calibration = min(len(held[1]), MAX_CELLS)
    with torch.random.fork_rng():
        head = LabelHead(embedding.shape[1], n_labels, 0, n_calibration, len(kept))
    with torch.no_grad():
        _set(head, tried[best], embedding[kept])
        head.temperature.fill_(temperature)
        _calibrate(head, *held)
        if final is not None:
            every = spread(np.arange(len(final[1])), len(kept))
            _set(
                head, _regressions(*final, n_labels, STRENGTHS[best : best + 1])[0], final[0][every]
            )
    return head.eval().requires_grad_(False), loss


def _set(head: LabelHead, regression: Regression, reference: np.ndarray) -> None:
    head.linear.weight.copy_(torch.from_numpy(regression.weight))
    head.linear.bias.copy_(torch.from_numpy(regression.bias))
    head.scaling.copy_(torch.from_numpy(1 / regression.scale))
    head.reference.copy_(torch.from_numpy(reference / regression.scale))


def _calibrate(head: LabelHead, embedding: np.ndarray, codes: np.ndarray) -> None:
    """Let the head keep what it needs of the validation cells."""
    cells = torch.from_numpy(embedding.astype(np.float32))
    strangeness = head.strangeness(cells)
    head.moments.copy_(
        torch.stack([strangeness.mean(dim=0), strangeness.std(dim=0, correction=0).clamp(min=1e-6)])
    )
    scores = conformal_scores(head(cells))[torch.arange(len(codes)), torch.from_numpy(codes)]
    for buffer, values in ((head.conformal, scores), (head.novelty, head.score_novelty(cells))):
        ascending = values.sort().values
        buffer.copy_(ascending[spread(np.arange(len(ascending)), MAX_CELLS)])


def spread(rows: np.ndarray, most: int) -> np.ndarray:
    """At most this many of the rows, evenly spaced, the last one among them."""
    if len(rows) <= most:
        return rows
    return rows[np.ceil(np.arange(1, most + 1) * len(rows) / most).astype(int) - 1]


def check_labels(
    labels: pd.Series, train: np.ndarray, held: np.ndarray
) -> tuple[list[str], np.ndarray]:
    """Names of the labels of training cells, and the code of each cell, -1 for none; or an error."""
    known = labels.notna().to_numpy()
    names = sorted(set(labels.iloc[train[known[train]]].astype(str)))
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
    """One for each strength, ascending; each begins where the last one ended. Labels without a cell are never likely."""
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
                weight, bias = (
                    np.concatenate([-weight, weight]) / 2,
                    np.concatenate([-bias, bias]) / 2,
                )
            every = np.zeros((n_labels, len(mean))), np.full(n_labels, bias.min() - NEVER)
            every[0][fitted.classes_], every[1][fitted.classes_] = (
                weight / scale,
                bias - (weight / scale) @ mean,
            )
            found.append(Regression(*every, scale))
    return found


def balanced_weights(counts: np.ndarray, power: float) -> np.ndarray:
    """Weight of a cell of each label, the label's count to the power of -`power`; a cell has 1 on average."""
    weights = np.maximum(counts, 1) ** -float(power)
    return weights * counts.sum() / (weights * counts).sum()


def _tempered_loss(logits: np.ndarray, codes: np.ndarray) -> tuple[float, float]:
    """Negative log-likelihood at the best temperature, and that temperature."""
    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        heated = logits / np.exp(log_temperature)
        heated -= heated.max(axis=1, keepdims=True)
        return float(
            np.mean(np.log(np.exp(heated).sum(axis=1)) - heated[np.arange(len(codes)), codes])
        )

    found = minimize_scalar(loss, bounds=(-3, 3), method="bounded")
    return float(found.fun), float(np.exp(found.x))
