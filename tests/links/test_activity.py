"""Levels of peaks from the cells in which they are open."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from epifoundation.links.activity import match_levels, nearest_sample, usual_levels

pairs = st.lists(st.tuples(st.integers(0, 6), st.floats(0, 3)), min_size=1, max_size=30)


@given(pairs)
def test_levels_keep_the_order_the_ties_and_the_sum(drawn):
    activity, levels = (np.array(each) for each in zip(*drawn, strict=True))
    found = match_levels(activity, levels)
    np.testing.assert_allclose(found.sum(), levels.sum(), atol=1e-9)
    order = np.argsort(activity, kind="stable")
    assert (np.diff(found[order]) >= -1e-12).all()
    for value in np.unique(activity):
        assert len(np.unique(found[activity == value])) == 1


def test_without_ties_the_distribution_is_the_same():
    rng = np.random.default_rng(0)
    levels = rng.uniform(0, 3, 500)
    activity = rng.permutation(500)
    found = match_levels(activity, levels)
    assert np.sort(found).tolist() == np.sort(levels).tolist()
    assert (np.argsort(found) == np.argsort(activity)).all()


def test_the_sample_from_which_cells_were_drawn_is_found():
    rng = np.random.default_rng(0)
    common = rng.uniform(0, 2, (800, 1))
    levels = common + rng.uniform(0, 1.5, (800, 12))
    for sample in (0, 5, 11):
        n_open = rng.poisson(2 * levels[:, sample])
        assert nearest_sample(n_open, levels) == sample


def test_usual_levels_descend():
    levels = usual_levels(150_000)
    assert levels[0] > 3
    assert (np.diff(levels) <= 0).all()
    assert levels[-1] == 0.62
    assert len(usual_levels(0)) == 0
