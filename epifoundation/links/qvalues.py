"""One correction of all tests of a call, with weights by distance (Ignatiadis & Huber 2021)."""

from __future__ import annotations

import numpy as np

# Bases: nearer peaks are links more often, so they are tested with more weight
STRATA = [5_000, 25_000, 100_000]
N_FOLDS = 5
MIN_GENES = 50  # from which weights are learned; with fewer, all are 1
ALPHA = 0.1  # false discovery rate at which the weights find most links
MIN_WEIGHT = 0.1  # of a stratum in which the other genes have no links


def weighted_qvalues(pvalue: np.ndarray, distance: np.ndarray, gene: np.ndarray) -> np.ndarray:
    """Benjamini-Hochberg over all tests, with weights by distance; NaN without a p-value.

    The weights of a gene have mean 1 and come from the p-values of other genes, so they do not
    depend on the p-values that they multiply: the false discovery rate is that of all tests
    together, in strata and groups of any size.
    """
    from scipy.stats import false_discovery_control  # here, as scipy.stats takes half a second

    qvalue = np.full(len(pvalue), np.nan)
    tested = np.flatnonzero(~np.isnan(pvalue))
    if not len(tested):
        return qvalue
    p, stratum = pvalue[tested], np.searchsorted(STRATA, distance[tested], side="right")
    _, of_gene = np.unique(gene[tested].astype(str), return_inverse=True)
    fold, weight = of_gene % N_FOLDS, np.ones(len(p))
    for one in np.unique(fold):
        here = fold == one
        if len(np.unique(of_gene[~here])) < MIN_GENES:
            continue
        of_stratum = _weights(p[~here], stratum[~here])
        weight[here] = of_stratum[stratum[here]] / of_stratum[stratum[here]].mean()
    qvalue[tested] = false_discovery_control(np.minimum(p / weight, 1))
    return qvalue


def _weights(p: np.ndarray, stratum: np.ndarray) -> np.ndarray:
    """Weight of each stratum with which most tests are found; 1 for all if none is.

    The density of p-values of each stratum is estimated as a decreasing step function (Grenander).
    Steps of all strata are taken from the highest density down, while the expected fraction of
    false discoveries is at most `ALPHA`. The weight of a stratum is the p-value reached in it.
    """
    n_strata = len(STRATA) + 1
    size = np.bincount(stratum, minlength=n_strata)
    steps = [_steps(np.sort(p[stratum == one])) for one in range(n_strata)]
    width, found = (np.concatenate([step[i] for step in steps]) for i in (0, 1))
    owner = np.repeat(np.arange(n_strata), [len(step[0]) for step in steps])
    density = found / np.maximum(width * size[owner], 1e-300)
    order = np.argsort(-density, kind="stable")
    by_chance, n_found = np.cumsum((width * size[owner])[order]), np.cumsum(found[order])
    accepted = np.flatnonzero(by_chance <= ALPHA * n_found)
    if not len(accepted):
        return np.ones(n_strata)
    taken = order[: accepted[-1] + 1]
    reached = np.bincount(owner[taken], width[taken], minlength=n_strata)
    mean = (reached * size).sum() / size.sum()
    return MIN_WEIGHT + (1 - MIN_WEIGHT) * reached / mean


def _steps(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Widths of the steps of the density of ascending p-values, and number of tests in each."""
    from scipy.optimize import isotonic_regression

    if not len(p):
        return p, p
    at, count = np.unique(p, return_counts=True)
    width = np.maximum(np.diff(at, prepend=0.0), 1e-300)
    first = isotonic_regression(count / width, weights=width, increasing=False).blocks[:-1]
    return np.add.reduceat(width, first), np.add.reduceat(count, first)
