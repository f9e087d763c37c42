"""Rows read past zarr are those that anndata reads through it."""

from itertools import pairwise

import anndata
import numpy as np
import pytest
import scipy.sparse as sp
import zarr
from anndata.io import sparse_dataset, write_elem
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.core.array import ShardsConfigParam

from epifoundation.cells.formats import open_source
from epifoundation.cells.matrix import read_rows
from epifoundation.cells.zarr_csr import StoredArray, StoredCsr

pytestmark = [
    # what anndata and zarr say of the formats that they write by default, now or later
    pytest.mark.filterwarnings("ignore:.*[Zz]arr.*:UserWarning")
]

N_CELLS = 37


def matrix(dtype=np.float32, seed=0):
    found = sp.random(N_CELLS, 50, 0.3, "csr", rng=np.random.default_rng(seed))
    found.data = np.ceil(found.data * 100).astype(dtype)
    return found


def write(path, X, zarr_format=2, **options):
    root = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    if zarr_format == 2:  # anndata would choose shards, which are of format 3
        options = {"shards": None} | options
    write_elem(root, "X", X, dataset_kwargs={"chunks": (23,), **options})
    return zarr.open_group(path, mode="r")["X"]


def compressors():
    from numcodecs import LZ4, Blosc, GZip, Zstd
    from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

    yield from (
        (2, None),
        (2, Blosc("lz4")),
        (2, Blosc("zstd", shuffle=2)),
        (2, Zstd()),
        (2, GZip()),
        (2, LZ4()),
    )
    yield from (
        (3, None),
        (3, BloscCodec(cname="lz4")),
        (3, ZstdCodec()),
        (3, ZstdCodec(checksum=True)),
    )
    yield (3, GzipCodec())


@pytest.mark.parametrize(
    ("zarr_format", "compressor"),
    list(compressors()),
    ids=lambda value: (
        getattr(type(value), "__name__", "")
        if value.__class__.__module__ != "builtins"
        else str(value)
    ),
)
@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.uint8])
def test_formats(tmp_path, zarr_format, compressor, dtype):
    X = matrix(dtype)
    stored = StoredCsr.of(
        write(tmp_path / "a.zarr", X, zarr_format, compressors=compressor), X.shape
    )
    for start, stop in ((0, N_CELLS), (0, 1), (5, 6), (30, N_CELLS), (7, 7), (2, 31)):
        found = read_rows(stored, start, stop)
        assert found.dtype == dtype
        assert found.shape == (stop - start, 50)
        assert (found != X[start:stop]).nnz == 0


@settings(max_examples=15, deadline=None)
@given(
    bounds=st.lists(st.integers(0, N_CELLS), min_size=2, max_size=8),
    seed=st.integers(0, 3),
    chunk=st.integers(1, 600),
)
def test_any_rows_in_any_order(tmp_path_factory, bounds, seed, chunk):
    X = matrix(seed=seed)
    group = write(tmp_path_factory.mktemp("rows") / "a.zarr", X, chunks=(chunk,))
    stored, oracle = StoredCsr.of(group, X.shape), sparse_dataset(group)
    for start, stop in map(sorted, pairwise(bounds)):
        found = read_rows(stored, start, stop)
        if stop > start:
            assert (found != oracle[start:stop]).nnz == 0
        assert found.shape == (stop - start, 50)


def test_a_missing_chunk_has_the_fill_value(tmp_path):
    array = zarr.create_array(
        tmp_path / "a.zarr", shape=(10,), chunks=(4,), dtype="f4", fill_value=7, zarr_format=2
    )
    array[:4] = 1
    np.testing.assert_array_equal(
        StoredArray.of(zarr.open_array(tmp_path / "a.zarr"))[0:10], [1] * 4 + [7] * 6
    )


@pytest.mark.parametrize("left", [0, 10, 20, -1])
def test_a_truncated_chunk(tmp_path, left):
    X = sp.csr_matrix(np.arange(1, 20_001, dtype=np.float32).reshape(20, 1000))
    anndata.AnnData(X).write_zarr(tmp_path / "a.zarr")
    file = next(path for path in (tmp_path / "a.zarr/X/data").rglob("*0") if path.is_file())
    file.write_bytes(file.read_bytes()[:left])
    source = open_source(tmp_path / "a.zarr", "atac")
    with pytest.raises(OSError, match=r"Rows 0 to 19 of .*a\.zarr' could not be read"):
        source.read(0, 20)


def test_arrays_that_zarr_has_to_read(tmp_path):
    def array(name, **options):
        options = {"shape": (10,), "chunks": (4,), "dtype": "i4", "zarr_format": 3} | options
        return zarr.create_array(tmp_path / name, **options)

    assert StoredArray.of(array("plain")) is not None
    assert StoredArray.of(array("two", shape=(10, 2), chunks=(4, 2))) is None
    assert StoredArray.of(array("shards", shards=(8,))) is not None
    at_the_start = ShardsConfigParam(shape=(8,), index_location="start")
    assert StoredArray.of(array("shards with the index at the start", shards=at_the_start)) is None
    assert StoredArray.of(array("text", dtype=str, zarr_format=2)) is None
    assert StoredArray.of(array("big", dtype=">i4", zarr_format=2)) is None
    memory = zarr.create_array(zarr.storage.MemoryStore(), shape=(10,), chunks=(4,), dtype="i4")
    assert StoredArray.of(memory) is None


def test_names_by_chunks(tmp_path):
    names = np.array([f"cell{i}" for i in range(N_CELLS)], dtype=object)
    adata = anndata.AnnData(matrix())
    adata.obs_names = names
    adata.write_zarr(tmp_path / "a.zarr", chunks=(10, 50))
    source = open_source(tmp_path / "a.zarr", "atac")
    for start, stop in ((3, 17), (0, 5), (17, 37), (36, 37), (4, 4)):
        assert list(source.names(start, stop)) == list(names[start:stop])
