"""Tokens are the positions of positive entries, from every format and by every chunk."""

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from epifoundation.cells.rows import LoadedRows
from epifoundation.cells.tokens import iter_tokens

matrices = arrays(
    np.float32,
    st.tuples(st.integers(1, 9), st.integers(1, 7)),
    elements=st.sampled_from([0, 0, 1, 2.5]),
)


def collect(matrix, projection=None, n=None, chunk=3):
    names = pd.Index([f"cell{i}" for i in range(matrix.shape[0] if n is None else n)])
    cells, n_open, n_known = [], [], []
    for rows, tokens in iter_tokens(LoadedRows(matrix, names), projection, chunk=chunk):
        assert rows.stop - rows.start == len(tokens)
        cells += [part.tolist() for part in np.split(tokens.ids, tokens.offsets[1:-1])]
        n_open += tokens.n_open.tolist()
        n_known += tokens.n_known.tolist()
    return cells, n_open, n_known


@given(matrices, st.integers(1, 10))
def test_every_format_and_chunk_gives_the_positive_entries(dense, chunk):
    expected = [np.flatnonzero(row).tolist() for row in dense]
    for matrix in (
        dense,
        sp.csr_matrix(dense),
        sp.csc_matrix(dense),
        sp.csr_array(dense),
        sp.coo_matrix(dense),
    ):
        cells, n_open, n_known = collect(matrix, chunk=chunk)
        assert cells == expected
        assert n_open == n_known == [len(cell) for cell in expected]


@given(matrices, st.data())
def test_projection_gives_the_union_of_targets(dense, data):
    n_targets = data.draw(st.integers(1, 6))
    links = data.draw(
        arrays(np.float32, (dense.shape[1], n_targets), elements=st.sampled_from([0, 1]))
    )
    cells, n_open, n_known = collect(dense, sp.csr_matrix(links))
    for row, cell, opened, known in zip(dense, cells, n_open, n_known, strict=True):
        peaks = np.flatnonzero(row)
        assert cell == np.flatnonzero(links[peaks].any(axis=0)).tolist()
        assert opened == len(peaks)
        assert known == links[peaks].any(axis=1).sum()


def test_explicit_zeros_duplicates_and_order_do_not_matter():
    messy = sp.csr_matrix(
        (np.array([1, 0, 2, 1, 1.0]), np.array([3, 1, 0, 3, 2]), np.array([0, 4, 5])), shape=(2, 4)
    )
    before = messy.indices.copy(), messy.data.copy()
    assert collect(messy)[0] == [[0, 3], [2]]
    np.testing.assert_array_equal(messy.indices, before[0])
    np.testing.assert_array_equal(messy.data, before[1])


def test_duplicates_of_a_small_type_do_not_overflow():
    messy = sp.csr_matrix(
        (np.array([200, 56], dtype=np.uint8), np.array([1, 1]), np.array([0, 2])), shape=(1, 3)
    )
    assert collect(messy)[0] == [[1]]
    cancelling = sp.csr_matrix(
        (np.array([2.0, -1.0]), np.array([1, 1]), np.array([0, 2])), shape=(1, 3)
    )
    assert collect(cancelling)[0] == [[1]]  # as in the dense matrix
    assert collect(np.array([[0, 1]], dtype=np.float16))[0] == [[1]]


@pytest.mark.parametrize("form", ["csr_matrix", "csc_matrix", "array"])
def test_backed_data(tmp_path, form):
    dense = np.random.default_rng(0).poisson(0.5, (50, 20)).astype(np.float32)
    matrix = dense if form == "array" else getattr(sp, form)(dense)
    anndata.AnnData(matrix).write_h5ad(tmp_path / "a.h5ad")
    backed = anndata.read_h5ad(tmp_path / "a.h5ad", backed="r")
    assert collect(backed.X, n=50, chunk=7) == collect(dense)
    backed.file.close()


@pytest.mark.parametrize(
    ("value", "message"),
    [(-1, "found -1.0 in cell 'cell4'"), (np.nan, "found nan in cell 'cell4'"), (np.inf, "inf")],
)
@pytest.mark.parametrize("make", [np.asarray, sp.csr_matrix, sp.csc_matrix])
def test_impossible_counts_are_refused_by_cell(make, value, message):
    dense = np.ones((6, 3))
    dense[4, 1] = value
    with pytest.raises(ValueError, match=message):
        collect(make(dense))
