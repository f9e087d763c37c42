"""A label head for a model: regularised multinomial regression on its embedding, with a temperature."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch

from ..models import EpiFoundation
from ..nn import LabelHead, Network

STRENGTHS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # inverse penalties that are tried on the validation cells


def fit_label_head(
    model: EpiFoundation, pattern: sp.csr_matrix, labels: pd.Series, train: np.ndarray, held: np.ndarray
) -> EpiFoundation:
    """Return `model` with a head for `labels`.

    The penalty and the temperature are those of the least negative log-likelihood on the validation cells
    `held`; cells with a missing label are left out.
    """
    names, codes, train, held = check_labels(labels, train, held)
    embedding = _encode(model, pattern)
    mean, std = embedding[train].mean(axis=0), embedding[train].std(axis=0) + 1e-6
    scaled = (embedding - mean) / std
    best = min((_fit(scaled, codes, train, held, strength) for strength in STRENGTHS), key=lambda fitted: fitted[0])
    _, weight, bias, temperature = best

    network = Network(model.config, replace(model.network.sizes, n_labels=len(names), n_label_layers=0))
    head = LabelHead(model.config.dim, len(names))
    with torch.no_grad():  # the scaling becomes part of the weights
        head.linear.weight.copy_(torch.from_numpy(weight / std))
        head.linear.bias.copy_(torch.from_numpy(bias - weight @ (mean / std)))
        head.temperature.fill_(temperature)
    state = {name: tensor for name, tensor in model.network.state_dict().items() if not name.startswith("label.")}
    network.load_state_dict(state | {f"label.{name}": tensor for name, tensor in head.state_dict().items()})
    return EpiFoundation(network, model.peaks, model.genes, names, model.training, model.name, model.card)


def check_labels(
    labels: pd.Series, train: np.ndarray, held: np.ndarray
) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """Names of the labels, code of each cell, and the training and validation cells that have one; or an error."""
    known = labels.notna().to_numpy()
    train, held = train[known[train]], held[known[held]]
    names = sorted(set(labels.iloc[train].astype(str)))
    codes = pd.Index(names).get_indexer(labels.astype(str))
    held = held[codes[held] >= 0]
    if len(names) < 2 or not len(held):
        msg = (
            f"`label_key` needs two labels or more among the training cells and a validation cell with one of them; "
            f"there are {names} and {len(held)} such cells."
        )
        raise ValueError(msg)
    return names, codes, train, held


def _encode(model: EpiFoundation, pattern: sp.csr_matrix) -> np.ndarray:
    folded = model.network.folded()
    chunk = folded.chunk
    parts = [pattern[start : start + chunk] for start in range(0, pattern.shape[0], chunk)]
    return np.concatenate(
        [
            folded.encode(*(torch.from_numpy(a).to(model.device) for a in (part.indices, part.indptr))).cpu().numpy()
            for part in parts
        ]
    )


def _fit(
    scaled: np.ndarray, codes: np.ndarray, train: np.ndarray, held: np.ndarray, strength: float
) -> tuple[float, np.ndarray, np.ndarray, float]:
    """Validation loss, weights (n_labels, d), bias (n_labels,) and temperature at one penalty."""
    from scipy.optimize import minimize_scalar
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    # Products this small gain nothing from threads, and lose a hundredfold where other processes hold the cores.
    with threadpool_limits(1, user_api="blas"):
        fitted = LogisticRegression(C=strength, max_iter=1000).fit(scaled[train], codes[train])
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
