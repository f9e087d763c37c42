"""Removed peaks: blocks do not matter, and packed lists are unrolled as by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epifoundation.cells.source import InMemory
from epifoundation.inference import removals


@given(st.lists(st.integers(0, 4), max_size=8))
def test_packed_lists_are_unrolled_as_by_hand(sizes):
    owner, within = removals.unroll(np.array(sizes, dtype=int))
    expected = [(i, j) for i, size in enumerate(sizes) for j in range(size)]
    assert list(zip(owner.tolist(), within.tolist(), strict=True)) == expected


@pytest.mark.parametrize(("read_cells", "max_removals"), [(1, 16_384), (7, 3), (64, 10)])
def test_blocks_do_not_matter(simulated, model, monkeypatch, read_cells, max_removals):
    atac = simulated["atac"][:20, model.peaks.names].copy()

    def scan():
        parts = list(removals.iter_removals(model, InMemory(atac, "atac", "the data"), None))
        return (
            np.concatenate([np.asarray(getattr(part, name)) for part in parts])
            for name in ("cells", "peaks", "before", "after")
        )

    expected = list(scan())
    monkeypatch.setattr(removals, "READ_CELLS", read_cells)
    monkeypatch.setattr(removals, "MAX_REMOVALS", max_removals)
    cells, peaks, before, after = scan()
    open_pairs = sorted(zip(*np.nonzero(atac.X.toarray() > 0), strict=True))
    assert sorted(zip(cells, peaks, strict=True)) == open_pairs
    np.testing.assert_array_equal(cells, expected[0])
    np.testing.assert_array_equal(peaks, expected[1])
    np.testing.assert_allclose(before, expected[2], atol=1e-6)
    np.testing.assert_allclose(after, expected[3], atol=1e-6)
