"""The probability that an element regulates a gene: a prior of CRISPRi, and p-values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np

from .pair_features import ATLAS_FEATURES, FEATURES

POWERS = np.linspace(0.05, 1, 96)  # of the density of p-values of links; 1: as without a link
MIN_TESTS = 50  # p-values from which the power is estimated; with fewer it is 1
WITH_ATLAS, WITHOUT_ATLAS = "with_atlas", "without_atlas"


class LogisticScore(NamedTuple):
    """Logistic regression on features of pairs.

    Attributes
    ----------
    intercept, coefficients
        Of the log odds; coefficients by name of the feature.
    limits
        Lowest and highest value of features; values beyond count as these.
    """

    intercept: float
    coefficients: Mapping[str, float]
    limits: Mapping[str, tuple[float, float]]

    def probability(self, features: Mapping[str, np.ndarray]) -> np.ndarray:
        """Probability that the element of each pair regulates the gene, (n_pairs,)."""
        log_odds = self.intercept + sum(
            weight * np.clip(features[name], *self.limits.get(name, (None, None)))
            for name, weight in self.coefficients.items()
        )
        return np.asarray(1 / (1 + np.exp(-np.clip(log_odds, -50, 50))))


@cache
def provenance() -> dict[str, Any]:
    """What the coefficients were fitted on, and the coefficients."""
    text = files("epifoundation.links").joinpath("crispr_score.json").read_text(encoding="utf-8")
    return json.loads(text)


def crispr_score(*, atlas: bool, left_out: str | None = None) -> LogisticScore:
    """The coefficients fitted on pairs that were tested by CRISPRi.

    Parameters
    ----------
    atlas
        With the features of an atlas (``ATLAS_FEATURES``) or without.
    left_out
        Chromosome whose pairs were not used for the fit; if None, or without such pairs, all were.
    """
    stored = provenance()
    fits = stored["left_out"].get(left_out, stored["all"])
    fit = fits[WITH_ATLAS if atlas else WITHOUT_ATLAS]
    names = (*FEATURES, *(ATLAS_FEATURES if atlas else ()))
    coefficients = {name: fit["coefficients"][name] for name in names}
    return LogisticScore(fit["intercept"], coefficients, stored["limits"])


def posterior(prior: np.ndarray, pvalue: np.ndarray) -> np.ndarray:
    r"""Probability of a link given its prior probability and p-value, (n_pairs,).

    P-values are uniform without a link and have the density :math:`\alpha p^{\alpha - 1}` with
    one, so

    .. math::
        P = \frac{\pi \alpha p^{\alpha - 1}}{1 - \pi + \pi \alpha p^{\alpha - 1}} ,

    with the :math:`0 < \alpha \le 1` that maximises the likelihood of all p-values: the two-groups
    model with covariates (Scott et al. 2015). It is 1, and the p-values change nothing, if they are
    as uniform as without links. Where the p-value is NaN, the prior is returned.
    """
    tested = np.isfinite(pvalue)
    result = prior.copy()
    if tested.sum() < MIN_TESTS:
        return result
    before, p = prior[tested], pvalue[tested]
    likelihood = [np.log1p(before * (power * p ** (power - 1) - 1)).sum() for power in POWERS]
    power = POWERS[int(np.argmax(likelihood))]
    with_link = before * power * p ** (power - 1)
    result[tested] = with_link / (1 - before + with_link)
    return result
