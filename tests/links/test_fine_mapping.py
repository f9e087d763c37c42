"""Inclusion probabilities: an exact posterior, invariances, correlated peaks, no effects."""

import itertools

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.special import logsumexp

from epifoundation.links.fine_mapping import MAX_PRIOR, ONE_MORE, VARIANCES, fine_map, inflation_of


def locus(seed, n=1500, n_peaks=40, effects=((7, 0.8),), excess=0.0, rate=1.5):
    """Counts with effects of some peaks, squared coefficient of variation `excess`."""
    rng = np.random.default_rng(seed)
    is_open = (rng.random((n, n_peaks)) < rng.uniform(0.05, 0.4, n_peaks)).astype(float)
    offset = np.log(rate) + rng.normal(0, 0.5, n)
    mean = np.exp(offset + sum(size * is_open[:, peak] for peak, size in effects))
    if excess:
        mean = mean * rng.gamma(1 / excess, excess, n)
    return rng.poisson(mean).astype(float), offset, is_open


def exact(y, x, n_effects):
    """Inclusion probabilities by enumeration; the noise is that of the posterior mean."""
    n, p = x.shape
    y, x = (y - y.mean()) / y.std(), x - x.mean(axis=0)
    some = min(ONE_MORE, MAX_PRIOR * p)
    prior, noise = np.append(np.full(p, some / p), 1 - some), y @ y / (n - 1)
    sizes = VARIANCES.ravel()
    for _ in range(30):
        weight, included, fitted = [], [], []
        for chosen in itertools.product(range(p + 1), repeat=n_effects):
            for variances in itertools.product(sizes, repeat=n_effects):
                kept = [(j, v) for j, v in zip(chosen, variances, strict=True) if j < p]
                log_weight = np.log(prior[list(chosen)]).sum() - n_effects * np.log(len(sizes))
                each, mean = np.zeros(p), np.zeros(p)
                if kept:
                    columns, variance = np.array(kept).T
                    columns = columns.astype(int)
                    part = x[:, columns]
                    inner = part.T @ part / noise + np.diag(1 / variance)
                    slope = part.T @ y / noise
                    size = np.linalg.solve(inner, slope)
                    log_weight += (slope @ size - np.linalg.slogdet(inner * variance)[1]) / 2
                    each[columns] = 1
                    np.add.at(mean, columns, size)
                weight.append(log_weight)
                included.append(each)
                fitted.append(mean)
        posterior = np.exp(np.array(weight) - logsumexp(weight))
        residual = y - x @ (posterior @ np.array(fitted))
        noise = residual @ residual / (n - 1 - n_effects)
    return posterior @ np.array(included)


def gaussian_locus(seed, effects):
    """Six peaks, the first three of them correlated."""
    rng = np.random.default_rng(seed)
    x = (rng.random((250, 6)) < 0.4).astype(float)
    for column in (1, 2):
        x[:, column] = np.where(rng.random(250) < 0.75, x[:, 0], x[:, column])
    return x @ np.asarray(effects) + rng.normal(0, 1, 250), x


@pytest.mark.parametrize("seed", range(8))
def test_one_effect_is_the_exact_posterior(seed):
    y, x = gaussian_locus(seed, [0, 0.45, 0, 0, 0, 0])
    found = fine_map(y, np.zeros(250), x, "gaussian", max_effects=1)
    expected = exact(y, x, 1)
    np.testing.assert_allclose(found.pip, expected, atol=5e-3)
    assert expected.max() > 0.02


@pytest.mark.parametrize("seed", range(4))
def test_two_effects_are_close_to_the_exact_posterior(seed):
    y, x = gaussian_locus(seed, [0, 0.9, 0, 0, -0.9, 0])
    found = fine_map(y, np.zeros(250), x, "gaussian", max_effects=2)
    expected = exact(y, x, 2)
    np.testing.assert_allclose(found.pip, expected, atol=0.06)
    assert expected[4] > 0.9


@pytest.mark.parametrize("family", ["counts", "binary", "gaussian"])
def test_permuted_peaks_have_permuted_probabilities(family):
    y, offset, x = locus(0, effects=((7, 0.8), (20, -0.6)))
    if family == "binary":
        y, offset = (y > 0).astype(float), np.zeros_like(offset)
    order = np.random.default_rng(1).permutation(x.shape[1])
    one, other = fine_map(y, offset, x, family), fine_map(y, offset, x[:, order], family)
    np.testing.assert_allclose(other.pip, one.pip[order], atol=1e-6)
    np.testing.assert_array_equal(other.credible_set, one.credible_set[order])
    assert one.pip[7] > 0.9
    sparse = fine_map(y, offset, sp.csc_matrix(x), family)
    np.testing.assert_allclose(sparse.pip, one.pip, atol=1e-10)


@pytest.mark.parametrize("family", ["counts", "binary", "gaussian"])
def test_several_effects_are_found_in_separate_sets(family):
    planted = ((3, 0.9), (12, -0.9), (25, 0.7), (33, 0.6))
    y, offset, x = locus(2, n=4000, effects=planted)
    if family == "binary":
        y, offset = (y > 0).astype(float), np.log(np.expm1(np.exp(offset)))
    if family == "gaussian":
        y, offset = np.log1p(y), offset / 2
    found = fine_map(y, offset, x, family)
    peaks = [peak for peak, _ in planted]
    assert (found.pip[peaks] > 0.95).all()
    assert np.delete(found.pip, peaks).max() < 0.2
    assert sorted(found.credible_set[peaks]) == [1, 2, 3, 4]
    assert (np.delete(found.credible_set, peaks) == 0).all()


def test_duplicates_share_the_probability_and_the_set():
    y, offset, x = locus(3)
    twice = np.column_stack([x, x[:, 7], x[:, 9]])
    one, two = fine_map(y, offset, x, "counts"), fine_map(y, offset, twice, "counts")
    assert one.pip[7] > 0.95
    assert two.pip[7] == pytest.approx(two.pip[40], abs=1e-9)
    assert two.pip[7] == pytest.approx(one.pip[7] / 2, abs=0.05)
    assert two.credible_set[[7, 40]].tolist() == [1, 1]
    assert (two.credible_set > 0).sum() == 2
    weighted = fine_map(y, offset, twice, "counts", weights=np.where(np.arange(42) == 40, 3.0, 1.0))
    assert weighted.pip[40] / weighted.pip[7] == pytest.approx(3, rel=0.05)


def test_sets_of_correlated_peaks_contain_the_cause_as_often_as_stated():
    """Groups of four peaks that agree in 97 % of the cells; the cause is one of them."""
    contains, size, probability, true = [], [], [], []
    for seed in range(80):
        rng = np.random.default_rng(seed)
        _, _, x = locus(seed, n=800, n_peaks=40)
        for column in range(40):
            changed = rng.random(800) < 0.03
            x[:, column] = np.where(changed, x[:, column], x[:, column // 4 * 4])
        cause = int(rng.integers(40))
        offset = rng.normal(0, 0.4, 800)
        y = rng.poisson(np.exp(offset + rng.uniform(0.4, 0.9) * x[:, cause])).astype(float)
        found = fine_map(y, offset, x, "counts")
        probability.append(found.pip)
        true.append(np.arange(40) == cause)
        for number in range(1, found.credible_set.max() + 1):
            members = np.flatnonzero(found.credible_set == number)
            contains.append(cause in members)
            size.append(len(members))
    assert len(contains) > 50
    assert np.mean(size) > 1.5
    assert 0.84 <= np.mean(contains) <= 1  # of 90 %, with two standard errors
    probability, true = np.concatenate(probability), np.concatenate(true)
    for low, high in ((0.1, 0.4), (0.4, 0.95)):
        here = (probability > low) & (probability <= high)
        margin = 3 * np.sqrt(0.25 / here.sum())
        assert abs(probability[here].mean() - true[here].mean()) < margin


def test_a_set_is_the_smallest_that_reaches_the_coverage():
    for seed in range(10):
        y, offset, x = locus(seed, n=600, effects=((7, 0.9),))
        rng = np.random.default_rng(seed)
        for column in (8, 9):
            changed = rng.random(600) < 0.05
            x[:, column] = np.where(changed, x[:, column], x[:, 7])
        found = fine_map(y, offset, x, "counts", max_effects=1, coverage=0.8)
        members = found.credible_set == 1
        if members.any():
            assert found.pip[members].sum() >= 0.8
            assert found.pip[members].sum() - found.pip[members].min() < 0.8
            assert found.pip[members].min() >= found.pip[~members].max()
        else:
            assert found.pip.sum() < 0.9
    assert members.any()


def test_peaks_that_are_not_correlated_form_no_set():
    """Two peaks explain the counts equally well; they form a set if they are open together."""
    for overlap, has_set in ((150, False), (195, True)):
        x = np.zeros((1000, 2))
        x[:200, 0] = x[200 - overlap : 400 - overlap, 1] = 1
        if not has_set:
            x[600:, :] = [[1, 0], [0, 1]] * 200  # elsewhere, only one of them is open
        both = x.sum(axis=1)
        y = np.where(both == 2, 6.0, np.where(both == 1, 3.0, 2.0))
        found = fine_map(y, np.zeros(1000), x, "counts", max_effects=1)
        assert found.pip.sum() > 0.95
        np.testing.assert_allclose(found.pip, found.pip.mean(), atol=1e-6)
        assert (found.credible_set > 0).tolist() == [has_set] * 2


@pytest.mark.parametrize(("n", "rate"), [(1500, 1.5), (1500, 0.03), (200, 1.0)])
@pytest.mark.parametrize("excess", [0.0, 1.0])
def test_without_effects_probabilities_are_small(n, rate, excess):
    pips, n_sets = [], 0
    for seed in range(40):
        y, offset, x = locus(seed, n=n, effects=(), excess=excess, rate=rate)
        found = fine_map(y, offset, x, "counts")
        pips.append(found.pip)
        n_sets += found.credible_set.max()
    pips = np.array(pips)
    assert n_sets <= 2
    assert np.median(pips) < 0.02
    assert (pips > 0.5).sum() <= 3
    assert pips.sum(axis=1).mean() < 0.7


def test_covariates_remove_a_confounder():
    """Cells of one state have more RNA and open one peak; the prediction does not know it."""
    n_sets, n_without = 0, 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        y, offset, x = locus(seed, effects=())
        state = rng.random(len(y)) < 0.3
        x[:, 5] = rng.random(len(y)) < np.where(state, 0.8, 0.1)
        y = rng.poisson(np.exp(offset + 0.6 * state)).astype(float)
        n_without += fine_map(y, offset, x, "counts").credible_set.max()
        n_sets += fine_map(
            y, offset, x, "counts", covariates=state[:, None] * 1.0
        ).credible_set.max()
    assert n_without >= 9
    assert n_sets == 0


def test_peaks_elsewhere_remove_a_confounder_that_is_not_known():
    """Cells of a rare state have more RNA and open some peaks everywhere; a link is found still."""
    n_without, n_sets, n_found = 0, 0, 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        y, offset, x = locus(seed, effects=())
        state = rng.random(len(y)) < 0.05
        elsewhere = (rng.random((len(y), 200)) < 0.1).astype(float)
        for peaks, n in ((x, 2), (elsewhere, 12)):
            peaks[:, :n] = rng.random((len(y), n)) < np.where(state, 0.6, 0.05)[:, None]
        rate = np.exp(offset + 1.2 * state)
        y = rng.poisson(rate).astype(float)
        factor = inflation_of(y, offset, elsewhere, "counts")
        assert factor > 2
        n_without += fine_map(y, offset, x, "counts").credible_set.max() > 0
        n_sets += fine_map(y, offset, x, "counts", inflation=factor).credible_set.max() > 0
        y = rng.poisson(rate * np.exp(1.5 * x[:, 7])).astype(float)
        factor = inflation_of(y, offset, elsewhere, "counts")
        n_found += fine_map(y, offset, x, "counts", inflation=factor).credible_set[7] > 0
    assert n_without >= 9
    assert n_sets <= 1
    assert n_found >= 8


@pytest.mark.parametrize("family", ["counts", "binary", "gaussian"])
def test_without_a_confounder_evidence_is_hardly_inflated(family):
    rng = np.random.default_rng(0)
    factors = []
    for seed in range(20):
        y, offset, _ = locus(seed, effects=())
        if family != "counts":
            offset = np.zeros(len(y))
            y = rng.normal(size=len(y)) if family == "gaussian" else rng.random(len(y)) < 0.4
        elsewhere = (rng.random((len(y), 300)) < 0.2).astype(float)
        factors.append(inflation_of(np.asarray(y, float), offset, elsewhere, family))
    assert min(factors) == 1
    assert np.median(factors) < 1.1
    assert max(factors) < 2
    assert inflation_of(np.asarray(y, float), offset, elsewhere[:, :0], family) == 1


@pytest.mark.parametrize("family", ["counts", "binary", "gaussian"])
def test_extreme_genes_are_finite(family):
    _, offset, x = locus(0, n=60, n_peaks=5, effects=())
    x[:, 0], x[:, 1] = 1, 0  # always and never open
    for y in (np.zeros(60), np.ones(60), np.eye(60)[3]):
        found = fine_map(y, offset, x, family)
        assert np.isfinite(found.pip).all()
        assert (found.pip >= 0).all()
        assert (found.pip[:2] <= MAX_PRIOR + 0.01).all()
        assert (found.credible_set == 0).all()
