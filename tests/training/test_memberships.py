"""Memberships of RNA in planted clusters, for any depth and any capture rate of genes."""

import numpy as np
import pytest
import scipy.sparse as sp

from epifoundation.training.memberships import memberships_of
from epifoundation.training.set_clusters import SetClusters


@pytest.fixture(scope="module")
def planted():
    """Counts of cells of five clusters of unequal size, and the fractions of each cluster."""
    rng = np.random.default_rng(0)
    profiles = rng.dirichlet(np.full(60, 0.5), 5)
    codes = rng.choice(5, 400, p=[0.5, 0.2, 0.15, 0.1, 0.05])
    return rng, profiles, codes


def draw(rng, rates, depth):
    return sp.csr_matrix(rng.poisson(depth * rates).astype(np.float32))


@pytest.mark.parametrize("largest", [0.4, 0.7, 0.95])
@pytest.mark.parametrize("depth", [30, 3_000])
def test_certainty_is_that_of_the_model_at_any_depth(planted, depth, largest):
    rng, profiles, codes = planted
    found = memberships_of(draw(rng, profiles[codes], depth), profiles, largest, counts=True)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert found.max(axis=1).mean() == pytest.approx(largest, abs=1e-3)
    assert (found.argmax(axis=1) == codes).mean() > 0.9


def test_genes_may_be_captured_at_other_rates(planted):
    rng, profiles, codes = planted
    rates = np.exp(rng.normal(0, 1.5, 60))
    counts = draw(rng, profiles[codes] * rates, 300)
    found = memberships_of(counts, profiles, 0.6, counts=True)
    naive = (counts @ np.log(profiles + 1e-12).T).argmax(axis=1)
    accuracy = (found.argmax(axis=1) == codes).mean()
    assert accuracy > 0.95
    assert accuracy > (naive == codes).mean()


def test_values_belong_to_the_nearest_profile(planted):
    rng, profiles, codes = planted
    values = sp.csr_matrix(profiles[codes] + rng.normal(0, 0.005, (400, 60)))
    found = memberships_of(values, profiles, 0.6, counts=False)
    distances = ((values.toarray()[:, None] - profiles) ** 2).sum(axis=2)
    assert (found.argmax(axis=1) == distances.argmin(axis=1)).all()


def test_profiles_are_fractions_of_the_counts_of_the_chosen_genes(model):
    genes = np.array([3, 5, 11, 20])
    clusters = SetClusters(model)
    every, some = clusters.profiles(np.arange(len(model.genes))), clusters.profiles(genes)
    np.testing.assert_allclose(every.sum(axis=1), 1)
    expected = every[:, genes] / every[:, genes].sum(axis=1, keepdims=True)
    np.testing.assert_allclose(some, expected)


def test_the_largest_membership_is_that_of_the_training_cells(model):
    cells = model.cells["encoder"]
    found = [max(255 - row.astype(int).sum(), row.max(initial=0)) for row in cells.weights]
    assert SetClusters(model).certainty == pytest.approx(np.mean(found) / 255)
