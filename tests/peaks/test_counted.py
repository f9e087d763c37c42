"""Cells that were counted: hashes of their open peaks, and what little is kept of them."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from epifoundation import PeakVocabulary
from epifoundation.peaks.counted import WEIGHT, CountedCells, dense, hash_tokens, peak_keys
from epifoundation.training.clusters import Clusters
from epifoundation.training.counting import counted_labels
from epifoundation.training.measure import MAX_DIM

N_PEAKS = 60


def peaks(n=N_PEAKS):
    starts = np.arange(n) * 1000
    return PeakVocabulary(pd.DataFrame({"chrom": "chr1", "start": starts, "end": starts + 500}))


KEYS = peak_keys(peaks())


def hashes_of(cells, keys=KEYS):
    offsets = np.cumsum([0, *(len(cell) for cell in cells)])
    return hash_tokens(np.array([p for cell in cells for p in cell], dtype=int), offsets, keys)


cells = st.lists(st.sets(st.integers(0, N_PEAKS - 1)), min_size=1, max_size=10)


@given(cells, st.randoms())
def test_hashes_depend_on_the_set_of_open_peaks_alone(cells, random):
    found = hashes_of([sorted(cell) for cell in cells])
    assert found.dtype == np.uint64
    shuffled = [random.sample(sorted(cell), len(cell)) for cell in cells]
    np.testing.assert_array_equal(hashes_of(shuffled), found)
    for cell, each in zip(cells, found, strict=True):  # by itself or among others
        assert hashes_of([sorted(cell)])[0] == each
        assert int(each) == sum(int(KEYS[peak]) for peak in cell) % 2**64


@given(cells)
def test_cells_with_other_peaks_have_other_hashes(cells):
    distinct = {frozenset(cell) for cell in cells}
    assert len(set(hashes_of([sorted(cell) for cell in distinct]).tolist())) == len(distinct)


def test_a_cell_without_open_peaks_at_the_end_or_in_between():
    found = hashes_of([[], [3], [], [], [1, 2], []])
    assert (found[[0, 2, 3, 5]] == 0).all()
    assert int(found[1]) == int(KEYS[3])
    assert int(found[4]) == (int(KEYS[1]) + int(KEYS[2])) % 2**64


def test_many_cells_and_peaks_without_a_collision():
    rng = np.random.default_rng(0)
    keys = peak_keys(peaks(3000))
    assert len(set(keys.tolist())) == 3000
    pattern = sp.random(20_000, 3000, 0.003, "csr", rng=rng)
    found = hash_tokens(pattern.indices, pattern.indptr, keys)
    pattern.sort_indices()
    sets = {pattern.indices[a:b].tobytes() for a, b in pairwise(pattern.indptr)}
    assert len(np.unique(found)) == len(sets)


def test_the_key_of_a_peak_depends_on_where_it_lies_and_not_on_the_others():
    """So cells are recognized whatever other peaks a vocabulary has, in any order."""
    vocabulary = peaks()
    order = np.random.default_rng(0).permutation(N_PEAKS)[:40]
    part = PeakVocabulary(vocabulary.intervals.iloc[order].reset_index(drop=True), genome="hg38")
    np.testing.assert_array_equal(peak_keys(part), KEYS[order])
    moved = PeakVocabulary(vocabulary.intervals.assign(end=lambda table: table["end"] + 1))
    assert not np.isin(peak_keys(moved), KEYS).any()
    elsewhere = PeakVocabulary(vocabulary.intervals.assign(chrom="chr2"))
    assert not np.isin(peak_keys(elsewhere), KEYS).any()


def test_keys_are_the_same_in_each_version():
    """A saved model recognizes its cells in other sessions and on other machines."""
    names = ["chr1:0-500", "chrX:123456-123999"]
    found = peak_keys(PeakVocabulary.from_names(names))
    assert found.tolist() == [15133938435940480955, 8119750738146954166]


def some_counted(seed, n=30, width=9, n_kept=4):
    """Hashes, columns, and weights of all columns but the first."""
    rng = np.random.default_rng(seed)
    hashes = rng.integers(2**64, size=n, dtype=np.uint64)
    codes = np.stack([rng.permutation(width)[:n_kept] for _ in range(n)]).astype(np.uint8)
    weights = rng.multinomial(WEIGHT, np.full(n_kept, 1 / n_kept), n).astype(np.uint8)
    return hashes, codes, weights[:, 1:]


@given(st.integers(0, 2**31))
def test_cells_are_found_by_their_hash_and_others_are_not(seed):
    hashes, codes, weights = some_counted(seed)
    counted = CountedCells.of(hashes, codes, weights)
    assert len(counted) == 30
    assert (np.diff(counted.hashes.astype(object)) > 0).all()
    rng = np.random.default_rng(seed)
    asked = rng.permutation(60)
    others = rng.integers(2**64, size=30, dtype=np.uint64)
    found = counted.find(np.concatenate([hashes, others])[asked], 9)
    assert found.dtype == np.float32
    for row, cell in zip(found, asked, strict=True):
        if cell >= 30:
            assert np.isnan(row).all()
            continue
        expected = np.zeros(9)
        first = WEIGHT - weights[cell].sum(dtype=int)
        expected[codes[cell]] = np.array([first, *weights[cell]]) / 255
        np.testing.assert_allclose(row, expected, atol=1e-6)


def test_without_cells_or_hashes_nothing_is_found():
    cells = some_counted(0)
    none = CountedCells.of(*(each[:0] for each in cells))
    assert len(none) == 0
    assert none.find(cells[0], 9) is None
    counted = CountedCells.of(*cells)
    assert counted.find(cells[0] + np.uint64(1), 9) is None
    assert counted.find(cells[0][:0], 9) is None
    assert counted.find(np.array([0, 2**64 - 1], dtype=np.uint64), 9) is None


NAMES = "hashes", "codes", "weights"


@given(st.integers(0, 2**31), st.integers(1, 5))
def test_of_cells_with_the_same_open_peaks_one_is_kept_whatever_their_order(seed, n_hashes):
    hashes, *others = some_counted(seed)
    cells = [hashes[np.arange(30) % n_hashes], *others]
    kept = CountedCells.of(*cells)
    assert len(kept) == n_hashes
    order = np.random.default_rng(seed).permutation(30)
    again = CountedCells.of(*(each[order] for each in cells))
    for name in NAMES:
        np.testing.assert_array_equal(getattr(again, name), getattr(kept, name))
    there = {tuple(each[i].tobytes() for each in cells) for i in range(30)}
    for i in range(n_hashes):  # one of the cells, and no mixture of them
        assert tuple(getattr(kept, name)[i].tobytes() for name in NAMES) in there


def test_memberships_as_a_matrix_by_hand():
    codes = np.array([[2, 0], [1, 2]], np.uint8)
    weights = np.array([[51], [0]], np.uint8)
    expected = np.array([[0.2, 0.0, 0.8], [0.0, 1.0, 0.0]])
    np.testing.assert_allclose(dense(codes, weights, 3), expected, atol=1e-6)
    whole = dense(codes, weights, 3, unit=1)
    np.testing.assert_array_equal(whole, [[51, 0, 204], [0, 255, 0]])
    label = dense(np.array([[1], [0]], np.uint8), np.zeros((2, 0), np.uint8), 2)
    np.testing.assert_array_equal(label, [[0, 1], [1, 0]])
    nothing = np.zeros((2, 0), np.uint8)
    np.testing.assert_array_equal(dense(nothing, nothing, 3), np.zeros((2, 3)))


@pytest.mark.parametrize("n_labels", [3, 256, 257])
def test_a_cell_takes_at_most_30_bytes_with_clusters_and_labels(n_labels):
    """In a file, with the memberships of a default model in as many clusters as it has at most."""
    n, rng = 5000, np.random.default_rng(0)
    clusters = Clusters(rng.standard_normal((MAX_DIM, 4)), 1.0)
    memberships = clusters.memberships(rng.standard_normal((n, 4)))
    hashes = rng.integers(2**64, size=n, dtype=np.uint64)
    labels = rng.integers(n_labels, size=n)
    labels[0] = n_labels - 1
    blocks = {
        "encoder": CountedCells.of(hashes, *memberships),
        "labels": counted_labels(hashes, labels, np.ones(n, bool)),
    }
    found = blocks["labels"].find(hashes, n_labels)
    np.testing.assert_array_equal(found.argmax(axis=1), labels)
    arrays = {f"{at}.{name}": getattr(each, name) for at, each in blocks.items() for name in NAMES}
    assert len(save(arrays)) <= 30 * n


def test_the_cells_of_a_model_take_at_most_30_bytes_each(model):
    """Clusters and labels together, as they are saved; the header of the file aside."""
    n_cells = model.training["cells"] + model.training["validation_cells"]
    assert model.cells.keys() == {"encoder", "labels"}
    assert n_cells >= len(model.cells["encoder"]) >= 0.99 * n_cells
    assert len(model.cell_bytes) - 1000 <= 30 * n_cells
