"""Counts of cells: those of blocks add up to those of all."""

import json
import warnings
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epifoundation.cells.tokens import Tokens
from epifoundation.inference.tally import Tally

cells = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12)


def tokens_of(sizes):
    """Tokens of cells with so many tokens, of so many known peaks and two more unknown ones."""
    n_tokens, n_known = np.array(sizes, dtype=int).reshape(-1, 2).T
    return Tokens(
        ids=np.zeros(n_tokens.sum(), int),
        offsets=np.append(0, np.cumsum(n_tokens)),
        n_open=n_known + 2,
        n_known=n_known,
        total=float(3 * n_known.sum()),
        matched=float(n_known.sum()),
    )


@given(cells, cells, st.one_of(st.none(), st.integers(1, 6)))
def test_tallies_of_blocks_add_up(first, second, max_peaks):
    both, one, other = (
        Tally(),
        Tally(in_unknown_batch=1, unknown_batches=["b", "a"]),
        Tally(in_unknown_batch=2, unknown_batches=["a"]),
    )
    both.count(tokens_of(first + second), max_peaks)
    one.count(tokens_of(first), max_peaks)
    other.count(tokens_of(second), max_peaks)
    both.in_unknown_batch, both.unknown_batches = 3, ["a", "b"]
    assert one + other == other + one == sum((one, other), Tally()) == both
    assert Tally(**json.loads(json.dumps(asdict(both)))) == both  # as blocks are stored


@given(cells, st.one_of(st.none(), st.integers(1, 6)))
def test_counts_are_those_of_brute_force(sizes, max_peaks):
    tally = Tally()
    tally.count(tokens_of(sizes), max_peaks)
    assert tally.cells == len(sizes)
    assert tally.empty == sum(known == 0 for _, known in sizes)
    limit = float("inf") if max_peaks is None else max_peaks
    assert tally.limited == sum(n > limit for n, _ in sizes)
    assert (tally.n_known, tally.n_open) == (
        sum(known for _, known in sizes),
        sum(known + 2 for _, known in sizes),
    )


def test_there_is_one_warning_for_each_problem_and_none_without(model):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Tally(cells=5).warn(model, None)
    with pytest.warns(UserWarning, match="cells") as caught:
        Tally(cells=5000, empty=1200, in_unknown_batch=2, unknown_batches=["x"]).warn(
            model, "batch"
        )
    first, second = (str(each.message) for each in caught)
    assert "2 of 5,000 cells" in first
    assert "['x']" in first
    assert second.startswith("1,200 of 5,000 cells have no open peak that the model knows")
