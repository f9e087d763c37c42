"""Effects of open peaks on measured expression beyond the prediction for the whole cell."""

from __future__ import annotations

import numpy as np

PRIOR = 30.0  # precision of the normal prior of an effect: most peaks near a gene have none
MAX_STEPS = 8
MAX_SHIFT = 4.0  # largest sum of effects, so that steps of Newton's method do not diverge


def direct_effects(
    measured: np.ndarray,
    predicted: np.ndarray,
    is_open: np.ndarray,
    family: str,
    prior: float = PRIOR,
) -> np.ndarray:
    r"""Effects of all peaks of a locus on one gene, at the posterior mode with a normal prior.

    A generalised linear model with the prediction as offset, by Newton's method:

    .. math::
        g(E[y_c]) = o_c + b + \sum_p \beta_p x_{cp}, \qquad \beta_p \sim N(0, 1/\lambda) .

    Parameters
    ----------
    measured
        Expression of the gene: counts, 0 or 1, or numbers, (n_cells,).
    predicted
        The offset, (n_cells,): log of the expected count, log odds, or the predicted number.
    is_open
        Open peaks, (n_cells, n_peaks), 0 or 1.
    family
        ``"counts"`` (Poisson, log), ``"binary"`` (Bernoulli, logit) or ``"gaussian"`` (identity; in
        deviations of the gene).
    prior
        Precision of the prior.

    Returns
    -------
    The effect of each peak on the scale of the offset, (n_peaks,).
    """
    scale = 1.0
    if family == "gaussian":
        scale = float(np.std(measured)) or 1.0
        measured, predicted = measured / scale, predicted / scale
    design = np.column_stack([is_open, np.ones(len(is_open))]).astype(np.float64)
    penalty = np.full(design.shape[1], prior)
    penalty[-1] = 1e-6  # the level of the gene is free
    noise = max(float(np.var(measured - predicted)), 1e-6) if family == "gaussian" else 1.0
    effect = np.zeros(design.shape[1])
    for _ in range(MAX_STEPS):
        shift = np.clip(design @ effect, -MAX_SHIFT, MAX_SHIFT)
        mean, weight = mean_and_weight(predicted + shift, family)
        gradient = design.T @ (measured - mean) / noise - penalty * effect
        curvature = (design * (weight / noise)[:, None]).T @ design + np.diag(penalty)
        step = np.clip(np.linalg.solve(curvature, gradient), -1, 1)
        effect += step
        if np.abs(step).max() < 1e-4:
            break
    return effect[:-1] * scale


def mean_and_weight(linear: np.ndarray, family: str) -> tuple[np.ndarray, np.ndarray]:
    """Expected value, and its derivative by the linear predictor."""
    if family == "counts":
        mean = np.exp(np.clip(linear, -30, 30))
        return mean, mean
    if family == "binary":
        mean = 1 / (1 + np.exp(-np.clip(linear, -30, 30)))
        return mean, mean * (1 - mean)
    return linear, np.ones_like(linear)
