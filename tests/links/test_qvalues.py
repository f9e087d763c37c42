"""q-values of all tests of a call: error rate without links, power with links near genes."""

import numpy as np
import pytest
from scipy.stats import false_discovery_control

from epifoundation.links.qvalues import MIN_GENES, weighted_qvalues


def draw(rng, n_genes, n_groups=1, share=0.0, n_peaks=40):
    """P-values of genes x peaks x groups, their distances and genes, and which are of links."""
    n = n_genes * n_peaks * n_groups
    gene = np.repeat(np.arange(n_genes), n_peaks * n_groups)
    distance = np.tile(rng.integers(0, 250_000, n_genes * n_peaks), n_groups)
    is_link = (rng.random(n) < share) & (distance < 5_000)
    return np.where(is_link, rng.beta(0.15, 8, n), rng.random(n)), distance, gene, is_link


@pytest.mark.parametrize(("n_genes", "n_groups"), [(3, 1), (3, 20), (80, 1), (80, 6)])
def test_without_links_a_call_rarely_has_one(n_genes, n_groups):
    """Also where a stratum of a group has one to three tests. Expected: 10 % of the calls."""
    rng, n_calls = np.random.default_rng(n_genes + n_groups), 150
    calls = [draw(rng, n_genes, n_groups)[:3] for _ in range(n_calls)]
    assert np.mean([(weighted_qvalues(*each) <= 0.1).any() for each in calls]) <= 0.17


def test_links_near_genes_are_found_more_often_than_by_equal_weights():
    rng = np.random.default_rng(0)
    found, false, plain = 0, [], 0
    for _ in range(20):
        p, distance, gene, is_link = draw(rng, 200, share=0.5)
        here = weighted_qvalues(p, distance, gene) <= 0.1
        found += (here & is_link).sum()
        false.append((here & ~is_link).sum() / max(here.sum(), 1))
        plain += ((false_discovery_control(p) <= 0.1) & is_link).sum()
    assert found > 1.1 * plain
    assert np.mean(false) <= 0.12


def test_few_genes_have_equal_weights_and_untested_pairs_no_qvalue():
    p, distance, gene, _ = draw(np.random.default_rng(1), MIN_GENES, share=0.3)
    np.testing.assert_allclose(weighted_qvalues(p, distance, gene), false_discovery_control(p))
    p[3:7] = np.nan
    qvalue = weighted_qvalues(p, distance, gene)
    assert np.flatnonzero(np.isnan(qvalue)).tolist() == [3, 4, 5, 6]
    kept = ~np.isnan(p)
    expected = weighted_qvalues(p[kept], distance[kept], gene[kept])
    np.testing.assert_allclose(qvalue[kept], expected)
    assert np.isnan(weighted_qvalues(np.full(3, np.nan), np.zeros(3), np.arange(3))).all()
    zeros = weighted_qvalues(np.zeros(len(p)), distance, gene)
    assert (zeros == 0).all()
