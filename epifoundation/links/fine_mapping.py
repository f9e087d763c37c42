"""Which of the peaks near a gene regulate it: a sum of single effects (SuSiE)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from .direct_effects import mean_and_weight

MAX_EFFECTS = 10
ONE_MORE = 0.5  # prior probability that a gene has another effect than those found
MAX_PRIOR = 0.05  # of that for each peak, so that a few peaks are not likely without data
VARIANCES = np.array([[0.05], [0.2], [0.8]])  # of an effect, each with the same probability
PURITY = 0.5  # smallest absolute correlation of peaks in a credible set
ESTABLISHED = 0.75  # probability of an effect from which on another one is tried
MAX_SWEEPS = 5
MAX_STEPS = 12
TOLERANCE = 1e-3  # change of a probability


class FineMap(NamedTuple):
    """Inclusion probability of each peak, and the number of its credible set (0: none)."""

    pip: np.ndarray
    credible_set: np.ndarray


class _SingleEffect(NamedTuple):
    """One effect: that of peak j with `probability[j]`, absent with the rest."""

    probability: np.ndarray
    size: np.ndarray  # if it is that of peak j
    log_bayes: float  # log Bayes factor of some peak against none


def fine_map(
    measured: np.ndarray,
    predicted: np.ndarray,
    is_open: np.ndarray | sp.spmatrix | sp.sparray,
    family: str,
    *,
    covariates: np.ndarray | None = None,
    weights: np.ndarray | None = None,
    inflation: float = 1.0,
    coverage: float = 0.9,
    max_effects: int = MAX_EFFECTS,
) -> FineMap:
    r"""Posterior inclusion probabilities of the peaks near one gene, and credible sets.

    .. math::
        g(E[y_c]) = o_c + z_c \gamma + \sum_{l=1}^{L} \beta_l x_{c j_l}, \qquad
        j_l \sim \pi, \quad \beta_l \sim N(0, \sigma^2)

    Each of the effects is fitted given the means of the others, in turn, by iterative Bayesian
    stepwise selection (Wang et al. 2020); :math:`\gamma` is free. Effects are added as long as
    another one is more likely than not.

    Parameters
    ----------
    measured
        Expression of the gene: counts, 0 or 1, or numbers, (n_cells,).
    predicted
        The offset, (n_cells,): log of the expected count, log odds, or the predicted number.
    is_open
        Open peaks, (n_cells, n_peaks), 0 or 1.
    family
        ``"counts"`` (log), ``"binary"`` (logit) or ``"gaussian"`` (identity; in deviations of the
        gene). The variance is estimated: negative binomial, but at least Poisson, for counts.
    covariates
        Of cells, (n_cells, n_covariates), with free effects; an intercept is added.
    weights
        Relative prior probability of each peak, (n_peaks,); if None, equal.
    inflation
        Factor of the variance, of :func:`inflation_of` peaks elsewhere.
    coverage
        Least probability that a credible set contains a peak with an effect.
    max_effects
        Largest number of effects.
    """
    locus = _Locus.of(measured, predicted, is_open, family, covariates, inflation)
    n_cells, n_peaks = locus.is_open.shape
    prior = np.full(n_peaks, 1 / n_peaks) if weights is None else weights / np.sum(weights)
    prior = prior * min(ONE_MORE, MAX_PRIOR * n_peaks)
    effects: list[_SingleEffect] = []
    shifts: list[np.ndarray] = []
    while len(effects) < min(max_effects, n_peaks):
        effects.append(_SingleEffect(np.zeros(n_peaks), np.zeros(n_peaks), 0.0))
        shifts.append(np.zeros(n_cells))
        for _ in range(MAX_SWEEPS):
            change = 0.0
            for i in reversed(range(len(effects))):
                others = np.sum(shifts, axis=0) - shifts[i]
                found = _single_effect(locus, others, prior)
                change = max(change, np.abs(found.probability - effects[i].probability).max())
                effects[i] = found
                shifts[i] = locus.is_open @ (found.probability * found.size)
            locus.set_precision(np.sum(shifts, axis=0), n_lost=len(effects))
            if change < TOLERANCE:
                break
        if effects[-1].probability.sum() < ESTABLISHED:
            break
    absent = np.prod([1 - effect.probability for effect in effects], axis=0)
    return FineMap(1 - absent, _credible_sets(effects, locus.is_open, coverage))


def inflation_of(
    measured: np.ndarray,
    predicted: np.ndarray,
    is_open: np.ndarray | sp.spmatrix | sp.sparray,
    family: str,
    *,
    covariates: np.ndarray | None = None,
) -> float:
    r"""How much larger the evidence for peaks that cannot regulate a gene is than by chance.

    As genomic control (Devlin & Roeder 1999), but in the tail: the largest score statistic of
    :math:`n` peaks elsewhere over :math:`2 \log n`, which the largest of :math:`n` chi-squares
    seldom exceeds; at least 1. Types of cells that the prediction does not know raise it.

    Parameters are those of :func:`fine_map`, with peaks far from the gene.
    """
    locus = _Locus.of(measured, predicted, is_open, family, covariates, 1.0)
    score, _, information = locus.evidence(np.zeros(len(measured)))
    usual = 2 * np.log(max(len(score), 2))
    return max(float((score**2 / information).max(initial=0.0)) / usual, 1.0)


def _single_effect(locus: _Locus, others: np.ndarray, prior: np.ndarray) -> _SingleEffect:
    """The effect of one peak, given the shift of the linear predictor by all others."""
    score, mean, information = locus.evidence(others)
    precision = 1 / VARIANCES
    if locus.family == "gaussian":
        mode = score / (information + precision)
        curvature, likelihood = information, score * mode - information * mode**2 / 2
    else:
        # The sum of `measured` over cells with the peak is binomial, with the same mean and
        # variance: exact for Poisson counts and an intercept
        chance = np.clip(1 - information / mean, 1e-9, 1 - 1e-9)
        size, mode = mean / chance, np.zeros((len(VARIANCES), len(prior)))
        for _ in range(MAX_STEPS):
            odds = chance * np.exp(mode)
            expected = odds / (1 - chance + odds)
            curvature = size * expected * (1 - expected)
            slope = mean + score - size * expected - precision * mode
            step = np.clip(slope / (curvature + precision), -1, 1)
            mode += step
            if np.abs(step).max() < TOLERANCE:
                break
        likelihood = (mean + score) * mode - size * np.log1p(chance * np.expm1(mode))
    # Laplace's approximation for each variance, then their mean
    evidence = likelihood - precision * mode**2 / 2 - np.log1p(VARIANCES * curvature) / 2
    top = evidence.max(axis=0)
    share = np.exp(evidence - top)
    log_bayes = top + np.log(share.mean(axis=0))
    size = (share * mode).sum(axis=0) / share.sum(axis=0)
    top = max(log_bayes.max(), 0.0)
    joint, none = prior * np.exp(log_bayes - top), (1 - prior.sum()) * np.exp(-top)
    total = np.log(joint.sum() / prior.sum()) + top
    return _SingleEffect(joint / (joint.sum() + none), size, float(total))


@dataclass
class _Locus:
    """Data of one gene, free effects of covariates, and the precision of each cell."""

    measured: np.ndarray
    predicted: np.ndarray
    is_open: sp.csr_matrix
    by_peak: sp.csr_matrix
    covariates: np.ndarray
    family: str
    free: np.ndarray  # effects of the covariates
    inflation: float  # of the variance
    precision: np.ndarray = field(init=False)

    @classmethod
    def of(
        cls,
        measured: np.ndarray,
        predicted: np.ndarray,
        is_open: np.ndarray | sp.spmatrix | sp.sparray,
        family: str,
        covariates: np.ndarray | None,
        inflation: float,
    ) -> _Locus:
        """Without effects of peaks."""
        if family == "gaussian":
            scale = float(np.std(measured)) or 1.0
            measured, predicted = measured / scale, predicted / scale
        some = np.zeros((len(measured), 0)) if covariates is None else covariates
        some = np.column_stack([np.ones(len(measured)), some - some.mean(axis=0)])
        matrix = sp.csr_matrix(is_open, dtype=np.float64)
        by_peak = sp.csr_matrix(matrix.T)
        free = np.zeros(some.shape[1])
        locus = cls(measured, predicted, matrix, by_peak, some, family, free, inflation)
        locus.precision = np.ones(len(measured))
        locus._fit_covariates(predicted, MAX_STEPS)
        locus.set_precision(np.zeros(len(measured)), n_lost=0)
        return locus

    def evidence(self, shift: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Score, expected sum and information (that covariates leave) of each peak at no effect."""
        self._fit_covariates(self.predicted + shift, 2)
        mean, weight = mean_and_weight(self._linear(shift), self.family)
        weight = weight * self.precision
        residual = self.precision * (self.measured - mean)
        weighted = weight[:, None] * self.covariates
        sums = self.by_peak @ np.column_stack([residual, self.precision * mean, weight, weighted])
        shared = sums[:, 3:]
        inner = np.linalg.inv(self.covariates.T @ weighted + 1e-6 * np.eye(len(self.free)))
        information = sums[:, 2] - ((shared @ inner) * shared).sum(axis=1)
        score = sums[:, 0] - shared @ (inner @ (self.covariates.T @ residual))
        return score, np.maximum(sums[:, 1], 1e-9), np.maximum(information, 1e-9)

    def set_precision(self, shift: np.ndarray, n_lost: int) -> None:
        """Inverse of the dispersion in each cell, from the residuals of the fit."""
        self._fit_covariates(self.predicted + shift, 2)
        mean, _ = mean_and_weight(self._linear(shift), self.family)
        self.precision = np.ones(len(mean))
        square = (self.measured - mean) ** 2
        n_free = max(len(mean) - len(self.free) - n_lost, 1)
        if self.family == "gaussian":
            self.precision = np.full(len(mean), n_free / max(float(square.sum()), 1e-9))
        if self.family == "counts":
            excess, precision = 0.0, np.ones(len(mean))
            for _ in range(5):  # negative binomial: the variance is `mean + excess * mean**2`
                precision = 1 / (1 + excess * mean)
                top = (precision**2 * (square - mean)).sum()
                excess = max(float(top / max((precision * mean) @ (precision * mean), 1e-12)), 0.0)
            precision = 1 / (1 + excess * mean)
            ratio = float((precision * square / np.maximum(mean, 1e-8)).sum()) / n_free
            self.precision = precision / max(ratio, 1.0)
        self.precision = self.precision / self.inflation

    def _linear(self, shift: np.ndarray) -> np.ndarray:
        return self.predicted + shift + self.covariates @ self.free

    def _fit_covariates(self, offset: np.ndarray, n_steps: int) -> None:
        for _ in range(n_steps):
            mean, weight = mean_and_weight(offset + self.covariates @ self.free, self.family)
            weighted = (weight * self.precision)[:, None] * self.covariates
            slope = self.covariates.T @ (self.precision * (self.measured - mean))
            inner = self.covariates.T @ weighted + 1e-6 * np.eye(len(self.free))
            step = np.clip(np.linalg.solve(inner, slope - 1e-6 * self.free), -2, 2)
            self.free = self.free + step
            if np.abs(step).max() < 1e-4:
                break


def _credible_sets(
    effects: list[_SingleEffect], is_open: sp.csr_matrix, coverage: float
) -> np.ndarray:
    """Number of the credible set of each peak, from the effect with the most evidence; 0: none.

    A set is the smallest one that contains the effect with probability `coverage`. Sets of peaks
    that are not correlated are left out, and those that overlap one with more evidence.
    """
    number, columns = np.zeros(is_open.shape[1], dtype=np.int64), sp.csc_matrix(is_open)
    for effect in sorted(effects, key=lambda each: -each.log_bayes):
        order = np.argsort(-effect.probability, kind="stable")
        reached = np.cumsum(effect.probability[order])
        if reached[-1] < coverage:
            continue
        members = order[: np.searchsorted(reached, coverage) + 1]
        if not number[members].any() and _purity(columns[:, members]) >= PURITY:
            number[members] = number.max() + 1
    return number


def _purity(columns: sp.csc_matrix) -> float:
    """Smallest absolute correlation between columns of 0 and 1."""
    n, each = columns.shape[0], np.asarray(columns.mean(axis=0)).ravel()
    covariance = (columns.T @ columns).toarray() / n - np.outer(each, each)
    deviation = np.sqrt(np.maximum(each * (1 - each), 1e-12))
    return float(np.abs(covariance / np.outer(deviation, deviation)).min())
