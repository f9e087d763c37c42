"""Rows in chunks equal those of the dense matrix, from every kind of matrix and file."""

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from epifoundation.cells.formats import open_source
from epifoundation.cells.matrix import read_rows
from epifoundation.cells.rows import LoadedRows, SelectedRows, iter_rows
from epifoundation.cells.source import InMemory

matrices = arrays(
    np.float32,
    st.tuples(st.integers(0, 9), st.integers(1, 7)),
    elements=st.sampled_from([0, 0, 1, 2.5]),
)


class Lazy:
    """Stands for a dask array, whose slices are computed on request."""

    def __init__(self, dense):
        self.dense, self.shape, self.dtype = dense, dense.shape, dense.dtype

    def __getitem__(self, rows):
        return Lazy(self.dense[rows])

    def compute(self):
        return self.dense


IN_MEMORY = {
    "dense": np.asarray,
    "csr_matrix": sp.csr_matrix,
    "csr_array": sp.csr_array,
    "csc_matrix": sp.csc_matrix,
    "csc_array": sp.csc_array,
    "coo_matrix": sp.coo_matrix,
    "lazy": Lazy,
}


def names_of(n):
    return pd.Index([f"cell{i}" for i in range(n)])


def read_all(source, chunk, **options):
    """All rows, dense; the chunks follow each other and have the size that was requested."""
    at, parts = 0, []
    for rows, part in iter_rows(source, chunk=chunk, **options):
        assert isinstance(part, sp.csr_matrix)
        assert (rows.start, rows.stop) == (at, min(at + chunk, source.n_obs))
        assert part.shape[0] == rows.stop - rows.start
        at = rows.stop
        parts.append(part.toarray())
    assert at == source.n_obs
    return np.concatenate(parts) if parts else None


@pytest.mark.parametrize("kind", IN_MEMORY)
@given(dense=matrices, chunk=st.integers(1, 10))
def test_matrices_in_memory(kind, dense, chunk):
    found = read_all(LoadedRows(IN_MEMORY[kind](dense), names_of(len(dense))), chunk)
    if len(dense):
        np.testing.assert_array_equal(found, dense)
    else:
        assert found is None


@pytest.mark.parametrize("form", ["csr_matrix", "csc_matrix", "dense"])
@pytest.mark.parametrize("kind", ["h5ad", "zarr", "backed"])
def test_files(tmp_path, kind, form):
    dense = np.random.default_rng(0).poisson(0.5, (50, 20)).astype(np.float32)
    adata = anndata.AnnData(IN_MEMORY[form](dense), obs=pd.DataFrame(index=names_of(50)))
    adata.layers["twice"] = IN_MEMORY[form](2 * dense)
    path = tmp_path / ("a.zarr" if kind == "zarr" else "a.h5ad")
    adata.write_zarr(path) if kind == "zarr" else adata.write_h5ad(path)
    opened = anndata.read_h5ad(path, backed="r") if kind == "backed" else path
    source = open_source(opened, "atac")
    try:
        for chunk in (7, 50, 1000):
            np.testing.assert_array_equal(read_all(source, chunk), dense)
            np.testing.assert_array_equal(read_all(source, chunk, layer="twice"), 2 * dense)
        np.testing.assert_array_equal(source.read(13, 99).toarray(), dense[13:])
    finally:
        source.close()
        if kind == "backed":
            opened.file.close()


@pytest.mark.parametrize("kind", IN_MEMORY)
@pytest.mark.parametrize("value", [-1, np.nan, np.inf])
def test_an_impossible_count_is_refused_by_the_name_of_its_cell(kind, value):
    dense = np.ones((9, 3), np.float32)
    dense[7, 2] = value
    rows = iter_rows(LoadedRows(IN_MEMORY[kind](dense), names_of(9)), chunk=4, what="The layer")
    assert next(rows)[0] == slice(0, 4)  # rows before are read
    with pytest.raises(
        ValueError, match=rf"^The layer must contain .* {value}(\.0)? in cell 'cell7'"
    ):
        list(rows)


def test_half_precision_becomes_single_and_other_types_stay():
    for dtype, expected in ((np.float16, np.float32), (np.int64, np.int64), (np.uint8, np.uint8)):
        rows = read_rows(np.arange(6).reshape(2, 3).astype(dtype), 0, 2)
        assert rows.dtype == expected
        np.testing.assert_array_equal(rows.toarray(), [[0, 1, 2], [3, 4, 5]])


@given(rows=st.lists(st.integers(0, 299), min_size=1, max_size=80), data=st.data())
def test_selected_rows_are_those_of_the_source(rows, data):
    """In any order, some of them twice, from single runs or many."""
    matrix = sp.random(300, 7, 0.3, "csr", np.float32, np.random.default_rng(0))
    names = pd.Index([f"cell{i}" for i in range(300)])
    data_of_all = AnnData(matrix, obs=pd.DataFrame(index=names))
    selected = SelectedRows(InMemory(data_of_all, "atac", "the data"), np.array(rows))
    start = data.draw(st.integers(0, len(rows) - 1))
    stop = data.draw(st.integers(start + 1, len(rows)))
    found = selected.read(start, stop)
    np.testing.assert_array_equal(found.toarray(), matrix[rows[start:stop]].toarray())
    assert list(selected.names(start, stop)) == list(names[rows[start:stop]])
    whole = InMemory(AnnData(matrix[rows]), "atac", "the data")
    np.testing.assert_array_equal(selected.bounds(9, 20), whole.bounds(9, 20))
