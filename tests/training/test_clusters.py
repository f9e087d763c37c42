"""Clusters of cells: planted ones are found, and memberships are what the formula says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score
from thread_counts import in_one_and_two_threads

from epifoundation.peaks.counted import WEIGHT, dense
from epifoundation.training.clusters import MIN_CLUSTER_CELLS, N_KEPT, Clusters, find_clusters


def planted(rng, n_types=4, n_cells=240, apart=10):
    truth = rng.permutation(np.arange(n_cells) % n_types)
    centers = apart * rng.standard_normal((n_types, 6))
    return truth, centers[truth] + rng.standard_normal((n_cells, 6))


def memberships(clusters, scores):
    return dense(*clusters.memberships(scores), len(clusters.centers))


def test_clusters_are_found_and_a_cell_between_two_is_of_both():
    rng = np.random.default_rng(0)
    centers = np.eye(3) * 10
    truth = np.repeat(np.arange(3), 40)
    scores = centers[truth] + rng.standard_normal((120, 3))
    clusters = find_clusters(scores, 3, 1.0, rng)
    weight = memberships(clusters, np.concatenate([scores, [[5.0, 5.0, 0.0]]]))
    np.testing.assert_allclose(weight.sum(axis=1), 1, atol=1e-6)
    assert adjusted_rand_score(truth, weight[:120].argmax(axis=1)) == 1
    assert weight[:120].max(axis=1).min() > 0.99
    assert np.sort(weight[120])[1] > 0.02


@given(st.integers(0, 2**31), st.integers(1, 12), st.floats(0.1, 50))
def test_memberships_are_those_of_the_largest_five_rounded_to_a_byte(seed, n_clusters, temperature):
    rng = np.random.default_rng(seed)
    clusters = Clusters(rng.standard_normal((n_clusters, 4)), temperature)
    scores = rng.standard_normal((20, 4))
    codes, weights = clusters.memberships(scores)
    n_kept = min(N_KEPT, n_clusters)
    assert clusters.n_kept == n_kept
    assert (codes.shape, weights.shape) == ((20, n_kept), (20, n_kept - 1))
    assert codes.dtype == weights.dtype == np.uint8
    for cell, row in zip(scores, dense(codes, weights, n_clusters), strict=True):
        square = np.square(clusters.centers - cell).sum(axis=1)
        nearest = np.argsort(square)[:n_kept]
        expected = np.zeros(n_clusters)
        expected[nearest] = np.exp(-(square[nearest] - square.min()) / temperature)
        expected /= expected.sum()
        np.testing.assert_allclose(row, expected, atol=n_kept / WEIGHT)
        assert row.argmax() == nearest[0]
        assert round(float(row.sum() * WEIGHT)) == WEIGHT


def test_a_softer_temperature_spreads_memberships():
    _, scores = planted(np.random.default_rng(0), apart=2)
    both = [find_clusters(scores, 4, each, np.random.default_rng(1)) for each in (0.1, 5.0)]
    sharp, soft = (memberships(clusters, scores) for clusters in both)
    assert sharp.max(axis=1).mean() > soft.max(axis=1).mean() + 0.2
    assert (sharp.argmax(axis=1) == soft.argmax(axis=1)).all()


@pytest.mark.parametrize("n_cells", [1, 2, MIN_CLUSTER_CELLS, 12, 300])
def test_there_are_as_many_clusters_as_cells_fill(n_cells):
    scores = np.random.default_rng(1).standard_normal((n_cells, 10))
    clusters = find_clusters(scores, 24, 1.0, np.random.default_rng(2))
    assert len(clusters.centers) == max(min(n_cells // MIN_CLUSTER_CELLS, 24), 1)
    weight = memberships(clusters, scores)
    np.testing.assert_allclose(weight.sum(axis=1), 1, atol=1e-6)
    assert (weight.sum(axis=0) > 0).all()


def test_cells_that_are_equal_are_of_one_cluster():
    """As many clusters as there are different cells, without a warning."""
    three = np.random.default_rng(0).standard_normal((3, 5))
    scores = three[np.arange(60) % 3]
    clusters = find_clusters(scores, 10, 1.0, np.random.default_rng(0))
    assert len(clusters.centers) == 3
    weight = memberships(clusters, scores)
    assert adjusted_rand_score(np.arange(60) % 3, weight.argmax(axis=1)) == 1
    assert len(find_clusters(np.ones((30, 4)), 10, 1.0, np.random.default_rng(0)).centers) == 1


def test_without_components_there_is_one_cluster():
    clusters = find_clusters(np.zeros((30, 0)), 10, 1.0, np.random.default_rng(0))
    np.testing.assert_array_equal(memberships(clusters, np.zeros((30, 0))), np.ones((30, 1)))


@pytest.mark.parametrize(("n_clusters", "dtype"), [(256, np.uint8), (257, np.uint16)])
def test_columns_take_two_bytes_where_one_does_not_do(n_clusters, dtype):
    scores = np.arange(n_clusters, dtype=float)[:, None]
    codes, weights = Clusters(scores, 0.1).memberships(scores)
    assert codes.dtype == dtype
    assert weights.dtype == np.uint8
    np.testing.assert_array_equal(codes[:, 0], np.arange(n_clusters))


def test_the_same_seed_gives_the_same_bits_whatever_the_number_of_threads():
    _, scores = planted(np.random.default_rng(0), n_cells=2000)

    def find():
        return find_clusters(scores, 20, 0.5, np.random.default_rng(3))

    one, two = in_one_and_two_threads(find)
    np.testing.assert_array_equal(one.centers, two.centers)
    assert one.temperature == two.temperature
