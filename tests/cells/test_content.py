"""What identifies the content of cells: any change of values, names or order is another content."""

import os

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from epifoundation.cells.content import hash_of, hash_peaks, signature

PARTS = st.one_of(
    st.none(),
    st.text(),
    st.lists(st.text(max_size=5), max_size=5).map(lambda names: pd.Index(names, dtype=object)),
    arrays.arrays(
        st.sampled_from([np.int32, np.int64, np.float32, np.bool_]),
        arrays.array_shapes(min_dims=1, max_dims=2, min_side=0, max_side=4),
    ),
)


def describe(part):
    if isinstance(part, pd.Index):
        return ("names", tuple(part))
    if isinstance(part, np.ndarray):
        return (part.dtype.str, part.shape, part.tobytes())
    return (type(part), part)


@settings(deadline=None)
@given(st.lists(PARTS, max_size=4), st.lists(PARTS, max_size=4))
def test_other_parts_have_another_hash(one, other):
    same = [describe(part) for part in one] == [describe(part) for part in other]
    # An empty list of names is the same as one of text of no length: neither has values
    assert (hash_of(*one) == hash_of(*other)) == same


@pytest.mark.parametrize("change", ["value", "column", "row", "order", "type", "shape"])
def test_other_rows_have_another_hash(change):
    rows = sp.random(20, 30, 0.2, format="csr", random_state=0, dtype=np.float32)
    other = rows.copy()
    if change == "value":
        other.data[7] += 1
    elif change == "column":
        other = other[:, np.roll(np.arange(30), 1)]
    elif change == "row":
        other.indptr[5] += 1  # an entry of the next row
    elif change == "order":
        other = other[::-1]
    elif change == "type":
        other = other.astype(np.float64)
    else:
        other = sp.csr_matrix((other.data, other.indices, other.indptr), shape=(20, 31))
    assert hash_of(rows) == hash_of(rows.copy())
    assert hash_of(rows) != hash_of(other)


def test_columns_of_any_type():
    columns = [
        pd.Series(["a", None, "b"]),
        pd.Series(["a", "b", None]),
        pd.Series(["a", None, "b"], index=[5, 6, 7]).astype("category"),
        pd.Series([1, 2, 3]),
        pd.Series([1.5, np.nan, 3]),
        pd.Series([True, False, True]),
        pd.Series(["a", "half \ud800", "b"], dtype=object),
    ]
    hashes = [hash_of(column) for column in columns]
    assert hashes[0] == hashes[2]  # the same names
    assert len(set(hashes)) == 6


def test_peaks_are_their_names_and_intervals():
    names = ["chr1:10-20", "chr1:30-40"]
    var = pd.DataFrame({"chrom": "chr1", "start": [10, 30], "end": [20, 40]}, index=names)
    assert hash_peaks(var) == hash_peaks(var.assign(matched=1))  # written by tools
    others = [
        var[::-1],
        var.assign(start=[10, 31]),
        var.set_axis(["a", "b"]),
        var.drop(columns=["chrom", "start", "end"]),
    ]
    assert len({hash_peaks(each) for each in [var, *others]}) == 5


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_a_file_that_was_changed_has_another_signature(tmp_path, kind):
    adata = AnnData(sp.identity(8, format="csr", dtype=np.float32))
    path = tmp_path / f"a.{kind}"
    adata.write_h5ad(path) if kind == "h5ad" else adata.write_zarr(path)
    before = signature(path)
    assert signature(str(path)) == before
    file = (
        path
        if kind == "h5ad"
        else next(f for f in path.rglob("*") if f.is_file() and "data" in f.parts)
    )
    status, content = file.stat(), file.read_bytes()
    file.write_bytes(content[::-1])  # in place, and the time is set back
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert signature(path) != before
    assert signature(adata) is None
