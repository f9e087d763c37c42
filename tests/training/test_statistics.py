"""Sums over cells: against brute force, and the same bits in any blocks and any order."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given
from hypothesis import strategies as st

from epifoundation.peaks.counted import WEIGHT
from epifoundation.training.components import log_normalise
from epifoundation.training.counting import PASS_ENTRIES, _blocks_of
from epifoundation.training.statistics import (
    FIXED,
    HELD,
    MAX_RECENT,
    TRAIN,
    Statistics,
    profile_units,
    whole_numbers,
)

N_PEAKS, N_GENES = 25, 6
CPU = torch.device("cpu")


def of_counts(counts):
    return whole_numbers(counts, log_normalise(counts), "counts")


class Data:
    """Cells with open peaks, memberships, labels, expression and validation cells, at random."""

    def __init__(self, seed, n_cells=40, dim=7, n_kept=3, n_labels=4):
        rng = np.random.default_rng(seed)
        self.dim, self.n_kept, self.n_labels, self.n_cells = dim, n_kept, n_labels, n_cells
        self.pattern = sp.csr_matrix((rng.random((n_cells, N_PEAKS)) < 0.3).astype(np.int8))
        self.keys = rng.integers(2**64, size=N_PEAKS, dtype=np.uint64)
        codes = np.stack([rng.permutation(dim)[:n_kept] for _ in range(n_cells)])
        self.codes = codes.astype(np.uint8 if dim <= 256 else np.uint16)
        parts = rng.multinomial(WEIGHT, np.full(n_kept, 1 / n_kept), n_cells)
        self.weights = parts[:, 1:].astype(np.uint8)  # the first is what is left of 255
        self.labels = rng.integers(-1, n_labels, n_cells)
        self.is_held = rng.random(n_cells) < 0.3
        self.counts = sp.csr_matrix(rng.poisson(2.0, (n_cells, N_GENES)).astype(np.float32))

    def empty(self, objective="counts"):
        n_genes = dict.fromkeys(profile_units(objective), N_GENES)
        sizes = self.n_cells, N_PEAKS, self.dim, self.n_labels
        return Statistics(*sizes, n_kept=self.n_kept, n_genes=n_genes, device=CPU)

    def add(self, statistics, rows, expression=None):
        statistics.add(
            rows,
            self.pattern[rows],
            (self.codes[rows], self.weights[rows]),
            keys=self.keys,
            is_held=self.is_held[rows],
            labels=self.labels[rows],
            expression=of_counts(self.counts[rows]) if expression is None else expression,
        )
        return statistics

    @property
    def known(self):
        """What is known of each cell, in whole numbers, (n_cells, dim + n_labels)."""
        known = np.zeros((self.n_cells, self.dim + self.n_labels), np.int64)
        for cell in range(self.n_cells):
            weights = [WEIGHT - int(self.weights[cell].sum()), *map(int, self.weights[cell])]
            known[cell, self.codes[cell]] = weights
            if self.labels[cell] >= 0:
                known[cell, self.dim + self.labels[cell]] = WEIGHT
        return known


def assert_same(one, other):
    others = other.tensors()
    for name, values in one.tensors().items():
        np.testing.assert_array_equal(np.asarray(values), np.asarray(others[name]), err_msg=name)


def test_sums_are_those_of_brute_force():
    data = Data(0)
    found = data.add(data.empty(), np.arange(40))
    known, is_open = data.known, data.pattern.toarray().astype(bool)
    for part, inside in ((TRAIN, ~data.is_held), (HELD, data.is_held)):
        for peak in range(N_PEAKS):
            expected = known[inside & is_open[:, peak]].sum(axis=0)
            np.testing.assert_array_equal(found.memberships[part, peak].numpy(), expected)
        np.testing.assert_array_equal(found.totals[part], known[inside].sum(axis=0))
        assert torch.equal(found.sums([part]), found.memberships[part])
    assert torch.equal(found.sums([TRAIN, HELD]), found.memberships.sum(dim=0, dtype=torch.int32))
    memberships, counts = known[:, :7], data.counts.toarray().astype(np.int64)
    np.testing.assert_array_equal(found.profiles["counts"], memberships.T @ counts)
    normalised = log_normalise(data.counts).toarray().astype(np.float64)
    assert normalised.max() > 5
    measured = found.profiles["measured"] / FIXED
    np.testing.assert_allclose(measured, memberships.T @ normalised, rtol=1e-4, atol=0.5)
    np.testing.assert_array_equal(found.codes, data.codes)
    np.testing.assert_array_equal(found.weights, data.weights)
    for cell in range(40):
        keys = data.keys[is_open[cell]]
        assert int(found.hashes[cell]) == sum(map(int, keys)) % 2**64
    assert found.usable.all()


@given(
    seed=st.integers(0, 2**31),
    order=st.permutations(range(40)),
    cuts=st.lists(st.integers(1, 39), unique=True),
)
def test_any_blocks_in_any_order_give_the_same_bits(seed, order, cuts):
    data = Data(seed)
    expected = data.add(data.empty(), np.arange(40))
    found = data.empty()
    for rows in np.split(np.array(order), sorted(cuts)):
        data.add(found, rows)
    assert_same(found, expected)


@given(st.integers(0, 2**31), st.integers(1, 5))
def test_parts_add_up_to_the_whole(seed, n_parts):
    """As processes put theirs together: sums of all tensors; cells are in one part each."""
    data = Data(seed)
    expected = data.add(data.empty(), np.arange(40))
    parts = [data.add(data.empty(), np.arange(40)[i::n_parts]).tensors() for i in range(n_parts)]
    total = {name: parts[0][name] for name in parts[0]}
    for part in parts[1:]:
        total = {name: total[name] + part[name] for name in total}
    found = data.empty()
    found.set(total)
    assert_same(found, expected)


def test_cells_that_are_not_added_are_not_usable_and_count_nowhere():
    data = Data(1)
    rows = np.array([3, 7, 30])
    found = data.add(data.empty(), rows)
    assert np.flatnonzero(found.usable).tolist() == rows.tolist()
    assert found.totals.sum() == data.known[rows].sum()
    assert not found.weights[~found.usable].any()


def test_what_profiles_are_sums_of():
    rows = sp.csr_matrix(np.array([[0, 3, 1.0], [2, 0, 0]], dtype=np.float32))
    for objective in ("counts", "binary", "gaussian", "peaks"):
        assert (whole_numbers(rows, rows, objective) is None) == (not profile_units(objective))
    assert not profile_units("gaussian")  # a regression, not a mean by cluster
    assert not profile_units("peaks")
    is_expressed = (rows > 0).astype(np.float32)
    binary = whole_numbers(is_expressed, is_expressed, "binary")
    np.testing.assert_array_equal(binary.toarray(), rows.toarray() > 0)
    counts = of_counts(rows)
    np.testing.assert_array_equal(counts.toarray().real, rows.toarray())
    measured = counts.toarray().imag
    assert measured.dtype == np.float64
    expected = np.log1p(1e4 * rows.toarray() / rows.toarray().sum(axis=1, keepdims=True))
    np.testing.assert_allclose(measured / FIXED, expected, atol=1e-4)
    assert rows.dtype == np.float32
    assert rows.max() == 3  # not changed


def test_labels_alone_need_no_clusters():
    """As for columns beside an encoder that there is already."""
    data = Data(2)
    found = Statistics(40, N_PEAKS, 0, 4, n_kept=0, n_genes={}, device=CPU)
    nothing = np.zeros((40, 0), np.uint8)
    found.add(
        np.arange(40),
        data.pattern,
        (nothing, nothing),
        keys=data.keys,
        is_held=data.is_held,
        labels=data.labels,
    )
    expected = data.add(data.empty(), np.arange(40))
    np.testing.assert_array_equal(found.memberships, expected.memberships[:, :, 7:])
    np.testing.assert_array_equal(found.totals, expected.totals[:, 7:])
    np.testing.assert_array_equal(found.hashes, expected.hashes)


@pytest.mark.parametrize("dim", [256, 257, 300])
def test_more_clusters_than_a_byte_counts(dim):
    data = Data(3, dim=dim)
    data.codes[:, 0] = dim - 1
    data.codes[:, 1:] = [0, 1]
    found = data.add(data.empty(), np.arange(40))
    assert found.codes.dtype == (np.uint8 if dim == 256 else np.uint16)
    np.testing.assert_array_equal(found.codes, data.codes)
    np.testing.assert_array_equal(found.totals.sum(axis=0), data.known.sum(axis=0))


@pytest.mark.parametrize("at_a_time", [10_000, 16_384, 65_793])
def test_sums_over_many_cells_are_exact(at_a_time):
    """Of more cells than float32 has whole numbers for: all have one peak, and the same cluster."""
    n = 140_000
    found = Statistics(n, 1, 2, 0, n_kept=2, n_genes={}, device=CPU)
    keys, is_held = np.ones(1, np.uint64), np.arange(n) % 70 == 0
    for start in range(0, n, at_a_time):
        rows = np.arange(start, min(start + at_a_time, n))
        pattern = sp.csr_matrix(np.ones((len(rows), 1), np.int8))
        codes = np.tile(np.array([1, 0], np.uint8), (len(rows), 1))
        weights = np.full((len(rows), 1), 2, np.uint8)
        found.add(rows, pattern, (codes, weights), keys=keys, is_held=is_held[rows])
    expected = [[2 * 138_000, 253 * 138_000], [2 * 2_000, 253 * 2_000]]
    assert 253 * 138_000 > 2**24
    assert found.memberships[:, 0].tolist() == found.totals.tolist() == expected
    assert found.sums([TRAIN])[0].tolist() == expected[0]
    assert found.sums([TRAIN, HELD])[0].tolist() == [2 * n, 253 * n]


@pytest.mark.parametrize(("n_cells", "n_open"), [(70_000, 1), (3_000, 2_000), (0, 1)])
def test_a_sample_is_counted_by_blocks_that_sums_are_exact_for(n_cells, n_open):
    """However few peaks are open in its cells."""
    indices = np.tile(np.arange(n_open, dtype=np.int32), n_cells)
    indptr = np.arange(0, n_cells * n_open + 1, n_open)
    pattern = sp.csr_matrix((np.ones(len(indices), np.int8), indices, indptr), (n_cells, n_open))
    blocks = list(_blocks_of(pattern))
    every = [row for block in blocks for row in range(block.start, block.stop)]
    assert every == list(range(n_cells))
    assert max((block.stop - block.start for block in blocks), default=0) <= MAX_RECENT
    assert max((block.stop - block.start for block in blocks), default=0) * n_open <= PASS_ENTRIES


def test_peaks_that_are_open_in_a_counted_cell():
    """In the sums that were taken over, or in cells that were added since."""
    data = Data(5)
    is_open = data.pattern.toarray().astype(bool)
    is_open[:20, [1, 4]] = is_open[20:, [1, 9]] = False
    data.pattern = sp.csr_matrix(is_open.astype(np.int8))
    found = data.empty()
    assert not found.is_open().any()
    first = data.add(data.empty(), np.arange(20))
    np.testing.assert_array_equal(first.is_open(), is_open[:20].any(axis=0))
    found.set(first.tensors())
    data.add(found, np.arange(20, 40))
    np.testing.assert_array_equal(found.is_open(), is_open.any(axis=0))
    assert not found.is_open()[1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_sums_on_a_gpu_are_those_of_the_cpu():
    data = Data(4)
    expected = data.add(data.empty(), np.arange(40))
    sizes = data.n_cells, N_PEAKS, data.dim, data.n_labels
    n_genes = dict.fromkeys(profile_units("counts"), N_GENES)
    device = torch.device("cuda")
    found = Statistics(*sizes, n_kept=data.n_kept, n_genes=n_genes, device=device)
    data.add(found, np.arange(40))
    assert torch.equal(found.memberships.cpu(), expected.memberships)
