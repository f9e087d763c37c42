"""The score: its coefficients, its limits, and what p-values add."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta

from epifoundation.links.pair_features import ATLAS_FEATURES, FEATURES
from epifoundation.links.score import MIN_TESTS, crispr_score, posterior, provenance

USUAL = dict(
    zip((*FEATURES, *ATLAS_FEATURES), (11.0, 2.0, -3.7, 1.0, 1.4, 0.7, 2.5, 0.1), strict=True)
)


def probability(atlas=True, **changed):
    values = {name: np.array([value]) for name, value in (USUAL | changed).items()}
    return float(crispr_score(atlas=atlas).probability(values)[0])


@pytest.mark.parametrize("atlas", [True, False])
def test_elements_that_are_near_and_accessible_are_more_probable(atlas):
    usual = probability(atlas)
    assert 0 < usual < 0.2  # one in ten pairs at this distance is regulated
    assert probability(atlas, distance=8.0) > usual > probability(atlas, distance=13.0)
    assert probability(atlas, activity=3.0) > usual > probability(atlas, activity=0.5)
    assert probability(atlas, nearer_genes=0.0) > usual > probability(atlas, nearer_genes=2.5)
    assert probability(atlas, competition=-4.4) > usual > probability(atlas, competition=-3.0)
    assert (probability(atlas, coaccessibility=0.6) > usual) is atlas


def test_values_beyond_those_of_the_fit_count_as_its_limits():
    low, high = provenance()["limits"]["competition"]
    assert probability(competition=low - 5) == probability(competition=low)
    assert probability(competition=high + 5) == probability(competition=high)
    assert probability(distance=20.0) < probability(distance=15.0)  # has no limits


def test_coefficients_without_a_chromosome_differ_from_those_of_all():
    every = crispr_score(atlas=True)
    assert crispr_score(atlas=True, left_out="chr11") != every
    assert crispr_score(atlas=True, left_out="chrY") == every  # no pair is on it
    assert len(provenance()["left_out"]) == 23
    json.dumps(provenance())


def test_uniform_pvalues_change_nothing():
    rng = np.random.default_rng(0)
    prior = rng.uniform(0.01, 0.3, 20_000)
    found = posterior(prior, rng.uniform(size=20_000))
    assert np.abs(found - prior).mean() < 0.01


def test_posterior_is_calibrated_where_pvalues_inform():
    rng = np.random.default_rng(1)
    prior = rng.beta(0.3, 2, 40_000)
    linked = rng.uniform(size=len(prior)) < prior
    pvalue = np.where(
        linked, beta(0.2, 1).rvs(len(prior), random_state=rng), rng.uniform(size=len(prior))
    )
    found = posterior(prior, np.maximum(pvalue, 1e-9))
    for low, high in ((0, 0.05), (0.05, 0.3), (0.3, 0.7), (0.7, 1)):
        inside = (found >= low) & (found < high)
        assert abs(found[inside].mean() - linked[inside].mean()) < 0.02
    assert np.mean((found - linked) ** 2) < 0.8 * np.mean((prior - linked) ** 2)


@given(st.lists(st.floats(1e-6, 1), min_size=MIN_TESTS, max_size=200), st.floats(0.01, 0.9))
def test_smaller_pvalues_are_never_less_probable(pvalues, prior):
    p = np.sort(pvalues)
    found = posterior(np.full(len(p), prior), p)
    assert (np.diff(found) <= 1e-12).all()
    assert ((found >= 0) & (found <= 1)).all()


def test_untested_pairs_keep_the_prior():
    prior = np.linspace(0.1, 0.9, 100)
    none = np.full(100, np.nan)
    assert posterior(prior, none).tolist() == prior.tolist()
    few = none.copy()
    few[: MIN_TESTS - 1] = 1e-6
    assert posterior(prior, few).tolist() == prior.tolist()
    some = np.full(100, 1e-5)
    some[::2] = np.nan
    found = posterior(prior, some)
    assert (found[::2] == prior[::2]).all()
    assert (found[1::2] > prior[1::2]).all()
