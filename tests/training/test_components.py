"""Components of sparse matrices against dense ones; the same bits in any number of threads."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given
from hypothesis import strategies as st
from thread_counts import in_one_and_two_threads

import epifoundation as ep
from epifoundation.training.components import (
    Product,
    cell_weights,
    expression_components,
    log_normalise,
    packed,
    same_bits,
    semantic_components,
)

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data():
    return ep.datasets.simulate_multiome(500, 300, 60, n_types=6, median_fragments=80, rng=0)


@pytest.fixture(scope="module")
def pattern(data):
    return sp.csr_matrix((data["atac"].X > 0).astype(np.int8))


def explained(scores, matrix):
    """How much of a centered matrix lies in the span of scores and a constant."""
    around = matrix - matrix.mean(axis=0)
    basis = np.linalg.qr(scores - scores.mean(axis=0))[0]
    return np.square(basis.T @ around).sum() / np.square(around).sum()


def test_semantic_components_are_those_of_the_weighted_matrix(pattern):
    """Against a dense singular value decomposition, without its first component."""
    found = semantic_components(pattern, 8, np.random.default_rng(0), CPU)
    scores = found.scores(pattern)
    dense = pattern.toarray().astype(float)
    matrix = dense * np.log1p(1e4 / dense.sum(axis=1, keepdims=True))
    matrix *= np.log1p(500 / (1 + dense.sum(axis=0)))
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    assert scores.shape == (500, 8)
    np.testing.assert_allclose(scores.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(scores.std(axis=0), 1, atol=1e-5)
    for i in range(5):  # six types of cells make five clear components behind the first
        assert abs(np.corrcoef(scores[:, i], left[:, i + 1])[0, 1]) > 0.99
    kept = np.linalg.qr(matrix @ right[1:9].T)[0]
    ours = np.linalg.qr(scores * found.scale + found.center)[0]
    assert np.square(ours.T @ matrix).sum() > 0.97 * np.square(kept.T @ matrix).sum()


def test_expression_components_are_those_of_the_matrix(data):
    values = log_normalise(sp.csr_matrix(data["rna"].X))
    found = expression_components(values, 10, np.random.default_rng(0), CPU)
    scores = found.scores(values)
    left, sizes, _ = np.linalg.svd(values.toarray().astype(float), full_matrices=False)
    assert scores.shape == (500, 11)  # one more than asked, as one of them is the mean
    np.testing.assert_allclose(scores.mean(axis=0), 0, atol=1e-3)
    expected = explained(left[:, :11] * sizes[:11], values.toarray())
    assert explained(scores, values.toarray()) > 0.99 * expected


def test_other_cells_get_the_scores_that_they_would_have_among_them(data, pattern):
    values = log_normalise(sp.csr_matrix(data["rna"].X))
    for matrix, components in ((pattern, semantic_components), (values, expression_components)):
        found = components(matrix[:400], 6, np.random.default_rng(0), CPU)
        together = found.scores(matrix)
        np.testing.assert_allclose(found.scores(matrix[400:]), together[400:], atol=1e-5)
        np.testing.assert_allclose(found.scores(matrix[[7]]), together[[7]], atol=1e-5)
        assert together.dtype == np.float64


@pytest.mark.parametrize(("n_cells", "n_columns"), [(2, 30), (5, 4), (40, 1), (40, 2), (3, 3)])
def test_small_data_have_fewer_components(n_cells, n_columns):
    rng = np.random.default_rng(0)
    counts = sp.csr_matrix(rng.poisson(1.0, (n_cells, n_columns)).astype(np.float32))
    for matrix, components in (
        ((counts > 0).astype(np.int8), semantic_components),
        (log_normalise(counts), expression_components),
    ):
        scores = components(matrix, 20, np.random.default_rng(0), CPU).scores(matrix)
        assert len(scores) == n_cells
        assert scores.shape[1] < max(n_cells, n_columns + 1)
        assert np.isfinite(scores).all()


def test_the_same_seed_gives_the_same_bits_whatever_the_number_of_threads(data, pattern):
    values = log_normalise(sp.csr_matrix(data["rna"].X))
    for matrix, components in ((pattern, semantic_components), (values, expression_components)):
        one, two = in_one_and_two_threads(
            lambda of=components, matrix=matrix: of(matrix, 10, np.random.default_rng(5), CPU)
        )
        assert torch.equal(one.loadings, two.loadings)
        np.testing.assert_array_equal(one.center, two.center)
        np.testing.assert_array_equal(one.scores(matrix), two.scores(matrix))


def test_threads_are_given_back():
    n_threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with same_bits():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
        with pytest.raises(ZeroDivisionError), same_bits():
            raise ZeroDivisionError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(n_threads)


@given(st.integers(1, 12), st.integers(1, 9), st.booleans(), st.integers(0, 2**31))
def test_products_are_those_of_the_scaled_dense_matrix(n_rows, n_columns, is_pattern, seed):
    rng = np.random.default_rng(seed)
    matrix = sp.random(n_rows, n_columns, 0.4, "csr", dtype=np.float32, rng=rng)
    matrix = (matrix > 0).astype(np.int8) if is_pattern else matrix
    rows, columns = rng.random(n_rows), rng.random(n_columns)
    dense = matrix.toarray() * rows[:, None] * columns
    product = Product(matrix, CPU, rows=rows, columns=columns)
    right, left = rng.random((n_columns, 3)), rng.random((n_rows, 2))
    np.testing.assert_allclose(product.times(right), dense @ right, atol=1e-5)
    np.testing.assert_allclose(product.transposed_times(left), dense.T @ left, atol=1e-5)


@given(st.integers(0, 2**31))
def test_counts_per_ten_thousand(seed):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(1.5, (7, 5)).astype(np.float32)
    counts[3] = 0
    rows = sp.csr_matrix(counts)
    total = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    found = log_normalise(rows)
    np.testing.assert_allclose(found.toarray(), np.log1p(1e4 * counts / total), rtol=1e-5)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(rows.toarray(), counts)  # as they were


def test_the_weight_of_a_peak_falls_with_the_number_of_open_peaks():
    pattern = sp.csr_matrix(np.array([[1, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0]], np.int8))
    np.testing.assert_allclose(cell_weights(pattern), np.log1p([1e4 / 3, 1e4, 1e4]))


def test_packed_rows_share_their_memory():
    rows = sp.csr_matrix(np.array([[0, 2.0], [1, 3]], np.float32))
    ids, offsets, values = packed(rows, CPU)
    assert (ids.tolist(), offsets.tolist(), values.tolist()) == ([1, 0, 1], [0, 1, 3], [2, 1, 3])
    assert values.data_ptr() == rows.data.ctypes.data


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees_with_the_cpu(data, pattern):
    values = log_normalise(sp.csr_matrix(data["rna"].X))
    for matrix, components in ((pattern, semantic_components), (values, expression_components)):
        one, other = (
            components(matrix, 5, np.random.default_rng(0), torch.device(device)).scores(matrix)
            for device in ("cpu", "cuda")
        )
        np.testing.assert_allclose(one, other, atol=1e-3)


def test_components_of_many_genes_need_no_square_matrix():
    """A matrix of genes x genes would not fit into memory."""
    values = sp.random(40, 300_000, density=1e-3, format="csr", dtype=np.float32, rng=0)
    found = expression_components(values, 5, np.random.default_rng(0), CPU)
    assert found.loadings.shape == (300_000, 6)
