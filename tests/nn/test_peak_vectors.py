"""Vectors of peaks: sums by hand, and a counted cell is left out as if it were a new one."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given
from hypothesis import strategies as st

from epifoundation.nn import PeakVectors

N_PEAKS, WIDTH = 40, 5


def random_cells(seed, n_cells=30):
    """Open peaks of cells, and what is known of each: memberships that add up to 1."""
    rng = np.random.default_rng(seed)
    is_open = rng.random((n_cells, N_PEAKS)) < rng.uniform(0.02, 0.6, N_PEAKS)
    is_open[:, 0] |= ~is_open.any(axis=1)
    return is_open, rng.dirichlet(np.full(WIDTH, 0.3), n_cells)


def measured(is_open, known, pseudocount, base=None):
    """Vectors as the formula has them, in float64."""
    base = known.mean(axis=0) if base is None else base
    count = is_open.sum(axis=0)
    weight = (is_open.T @ (known - base)) / (count + pseudocount)[:, None]
    vectors = PeakVectors(N_PEAKS, WIDTH)
    for name, values in {"weight": weight, "count": count, "base": base}.items():
        getattr(vectors, name).copy_(torch.from_numpy(values))
    vectors.pseudocount.fill_(pseudocount)
    return vectors


def packed(is_open):
    rows = sp.csr_matrix(is_open)
    return tuple(torch.from_numpy(each.astype(np.int64)) for each in (rows.indices, rows.indptr))


seeds = st.integers(0, 2**31)


@given(seeds)
def test_sums_are_sums_of_vectors_and_columns_are_over_the_root_of_their_number(seed):
    is_open, known = random_cells(seed)
    vectors = measured(is_open, known, 5)
    ids, offsets = packed(is_open)
    sums, columns = vectors.sums(ids, offsets), vectors(ids, offsets)
    for cell, peaks in enumerate(is_open):
        expected = vectors.weight[torch.from_numpy(peaks)].double().sum(dim=0).float()
        torch.testing.assert_close(sums[cell], expected, atol=1e-5, rtol=1e-5)
        expected = expected / peaks.sum() ** 0.5
        torch.testing.assert_close(columns[cell], expected, atol=1e-5, rtol=1e-5)


@given(seeds, st.floats(1, 50), st.floats(0, 1))
def test_without_a_cell_vectors_are_those_measured_without_it(seed, pseudocount, share):
    """In chunks of counted and new cells, with the mean of all cells as it was."""
    is_open, known = random_cells(seed)
    vectors = measured(is_open, known, pseudocount)
    rng = np.random.default_rng(seed)
    is_counted = rng.random(len(known)) < share
    some = np.where(is_counted[:, None], known, np.nan).astype(np.float32)
    found = vectors.sums(*packed(is_open), torch.from_numpy(some))
    whole = vectors.sums(*packed(is_open))
    for cell, peaks in enumerate(is_open):
        if not is_counted[cell]:
            torch.testing.assert_close(found[cell], whole[cell])
            continue
        others = np.delete(np.arange(len(known)), cell)
        without = measured(is_open[others], known[others], pseudocount, known.mean(axis=0))
        expected = without.weight[torch.from_numpy(peaks)].sum(dim=0)
        torch.testing.assert_close(found[cell], expected, atol=2e-5, rtol=1e-4)


@given(seeds, st.permutations(range(12)), st.integers(1, 12))
def test_chunks_and_order_do_not_matter(seed, order, at_a_time):
    is_open, known = random_cells(seed, 12)
    vectors = measured(is_open, known, 5)
    known[::3] = np.nan
    some = torch.from_numpy(known.astype(np.float32))
    expected = vectors(*packed(is_open), some)
    for start in range(0, 12, at_a_time):
        rows = list(order[start : start + at_a_time])
        found = vectors(*packed(is_open[rows]), some[rows])
        torch.testing.assert_close(found, expected[rows], atol=1e-6, rtol=1e-5)


def test_a_peak_that_is_open_in_one_cell_says_nothing_of_that_cell():
    is_open = np.zeros((3, N_PEAKS), bool)
    is_open[0, 7] = is_open[1:, 3] = True
    known = np.eye(3, WIDTH)
    for pseudocount in (1, 5):
        vectors = measured(is_open, known, pseudocount)
        found = vectors.sums(*packed(is_open), torch.from_numpy(known.astype(np.float32)))
        torch.testing.assert_close(found[0], torch.zeros(WIDTH), atol=1e-6, rtol=0)
        assert found[1].abs().max() > 0.1
        assert vectors.sums(*packed(is_open))[0].abs().max() > 0.1


@pytest.mark.parametrize("is_counted", [False, True])
def test_a_cell_without_open_peaks_is_nan_and_changes_no_other(is_counted):
    is_open, known = random_cells(0, 4)
    vectors = measured(is_open, known, 5)
    is_open[2] = False
    some = torch.from_numpy(known.astype(np.float32)) if is_counted else None
    found = vectors(*packed(is_open), some)
    assert found[2].isnan().all()
    assert found[[0, 1, 3]].isfinite().all()
    assert vectors(*packed(is_open[:0])).shape == (0, WIDTH)


def test_without_counted_cells_among_them_known_makes_no_difference():
    is_open, known = random_cells(1)
    vectors = measured(is_open, known, 5)
    nothing = torch.full((len(known), WIDTH), torch.nan)
    assert torch.equal(vectors(*packed(is_open), nothing), vectors(*packed(is_open)))


def test_tokens_of_either_width_give_the_same():
    is_open, known = random_cells(2)
    vectors = measured(is_open, known, 5)
    known[::2] = np.nan
    some = torch.from_numpy(known.astype(np.float32))
    ids, offsets = packed(is_open)
    assert torch.equal(vectors(ids, offsets, some), vectors(ids.int(), offsets.int(), some))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees_with_the_cpu():
    is_open, known = random_cells(3)
    vectors = measured(is_open, known, 5)
    known[::2] = np.nan
    arguments = (*packed(is_open), torch.from_numpy(known.astype(np.float32)))
    expected = vectors(*arguments)
    found = vectors.cuda()(*(tensor.cuda() for tensor in arguments)).cpu()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
