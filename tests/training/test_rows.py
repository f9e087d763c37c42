"""Rows of sources on common columns: any rows in any order, by blocks, in bounded memory."""

import sys
import textwrap

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st

import epifoundation as ep
from epifoundation.cells.source import InMemory
from epifoundation.training import rows as rows_module
from epifoundation.training.rows import MAX_OPEN, Piece, Rows, as_float, as_pattern, in_blocks

SIZES = (70, 1, 130)  # of the fixture `parts`
N_CELLS = sum(SIZES)


def rows_of(parts, change=None):
    return Rows(parts[0], 25, "`X`", change)


@given(rows=st.lists(st.integers(0, N_CELLS - 1), max_size=60))
def test_any_rows_in_any_order(parts, rows):
    """Some of them twice."""
    whole = sp.vstack([X @ projection for X, projection in parts[1]]).toarray()
    matrix = rows_of(parts, as_float)
    assert matrix.shape == (N_CELLS, 25)
    found = matrix[np.array(rows, dtype=int)]
    matrix.close()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.toarray(), whole[rows].reshape(-1, 25))


def test_patterns_are_projected_as_the_open_peaks_are(parts):
    matrix = rows_of(parts)
    whole = [(X > 0).astype(np.float32) @ projection for X, projection in parts[1]]
    whole = sp.vstack(whole).toarray()
    assert whole.max() > 1  # several peaks of a source in one of the vocabulary
    found = matrix[np.arange(N_CELLS)]
    matrix.close()
    np.testing.assert_array_equal(found.toarray(), whole > 0)
    assert found.dtype == np.int8
    assert found.has_sorted_indices
    assert set(found.data) == {1}


def test_peaks_that_lie_in_one_of_the_vocabulary_are_open_once(tmp_path):
    """In files and in memory: peaks of twice their width are open where one of two is."""
    atac = ep.datasets.simulate_multiome(80, 200, 10, median_fragments=150, rng=0)["atac"]
    n = atac.n_vars // 2
    narrow = [f"chr1:{i * 250}-{(i + 1) * 250}" for i in range(atac.n_vars)]
    wide = ep.PeakVocabulary.from_names([f"chr1:{i * 500}-{(i + 1) * 500}" for i in range(n)])
    atac = AnnData(atac.X, obs=atac.obs, var=pd.DataFrame(index=narrow))
    atac.write_h5ad(tmp_path / "a.h5ad")
    projection = wide.projection(ep.genome.read_intervals(atac.var))
    found = []
    for place in (atac, tmp_path / "a.h5ad"):
        matrix = Rows([Piece(place, "a", "atac", 80, projection)], len(wide), "`X`")
        found.append(matrix[np.arange(80)])
        matrix.close()
    is_open = atac.X.toarray() > 0
    expected = is_open[:, 0::2] | is_open[:, 1::2]
    for each in found:
        np.testing.assert_array_equal(each.toarray(), expected)
        assert set(each.data) == {1}
    assert (is_open[:, 0::2] & is_open[:, 1::2]).any()


@pytest.mark.parametrize("most", [1, 7, 64, 10_000])
def test_blocks_hold_each_row_once_and_are_of_one_source(parts, monkeypatch, most):
    monkeypatch.setattr(rows_module, "PASS_CELLS", most)
    matrix = rows_of(parts)
    blocks = list(in_blocks(matrix))
    matrix.close()
    every = np.concatenate([np.arange(block.start, block.stop) for block in blocks])
    np.testing.assert_array_equal(every, np.arange(N_CELLS))
    assert max(block.stop - block.start for block in blocks) == min(most, max(SIZES))
    starts = {block.start for block in blocks}
    assert {0, SIZES[0], SIZES[0] + SIZES[1]} <= starts


def test_blocks_hold_as_many_values_as_fit(parts, monkeypatch):
    monkeypatch.setattr(rows_module, "PASS_ENTRIES", 100)
    matrix = rows_of(parts)
    blocks = list(in_blocks(matrix))
    matrix.close()
    length = np.concatenate([np.diff(X.indptr) for X, _ in parts[1]])
    entries = [length[block].sum() for block in blocks]
    assert max(entries) <= 100
    assert np.mean(entries) > 60


def test_the_mean_number_of_values_counts_no_zeros_that_are_stored():
    dense = np.array([[1, 0, 2], [0, 0, 0], [3, 4, 5], [0, 6, 0]], dtype=np.float32)
    stored = sp.csr_matrix(dense)
    stored.data[0] = 0  # and is there
    for X in (dense, sp.csr_matrix(dense), sp.csc_matrix(dense)):
        matrix = Rows([Piece(AnnData(X), "a", "atac", 4, None)], 3, "`X`", as_float)
        assert matrix.mean_entries(np.array([0, 2, 3])) == 2
        assert matrix.mean_entries(np.arange(4)) == 1.5
    matrix = Rows([Piece(AnnData(stored), "a", "atac", 4, None)], 3, "`X`", as_float)
    assert matrix.mean_entries(np.array([0, 3])) == 1


def test_long_runs_are_read_by_parts(parts, monkeypatch):
    expected = rows_of(parts)[np.arange(N_CELLS)].toarray()
    monkeypatch.setattr(rows_module, "READ_RUN", 16)
    matrix = rows_of(parts)
    np.testing.assert_array_equal(matrix[np.arange(N_CELLS)].toarray(), expected)
    some = np.arange(N_CELLS)[::-3]
    np.testing.assert_array_equal(matrix[some].toarray(), expected[some])
    matrix.close()


def test_rows_that_are_far_apart_are_not_read_over(parts, monkeypatch):
    read, original = [], InMemory.read

    def reading(self, *args):
        read.append(args[:2])
        return original(self, *args)

    monkeypatch.setattr(InMemory, "read", reading)
    data = AnnData(sp.csr_matrix(np.eye(400, 3)), obs={"x": np.arange(400)}, var={"x": range(3)})
    matrix = Rows([Piece(data, "a", "atac", 400, None)], 3, "`X`")
    matrix[np.array([0, 10, 300, 399])]
    assert read == [(0, 11), (300, 301), (399, 400)]


def test_many_files_are_not_all_open(parts):
    matrix = Rows([parts[0][0]] * 40, 25, "`X`", as_float)
    matrix[np.arange(0, 40 * SIZES[0], 10)]
    assert 0 < len(matrix._opened) <= MAX_OPEN
    matrix.close()
    assert not matrix._opened


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("n_pieces", [1, 2])
def test_bad_values_are_named_with_their_cell(tmp_path, stored, n_pieces):
    X = sp.csr_matrix(np.array([[0, 1.0], [2, 0], [0, -3]]))
    data = AnnData(X, obs=pd.DataFrame(index=["a", "b", "c"]))
    data.write_h5ad(tmp_path / "a.h5ad")
    place = tmp_path / "a.h5ad" if stored else data
    pieces = [Piece(place, "one", "atac", 3, None)] * n_pieces
    matrix = Rows(pieces, 2, "`X`", as_float)
    of = "" if n_pieces == 1 else " of .*a.h5ad'" if stored else " of one"
    said = f"`X`{of} must contain non-negative counts: found -3.0 in cell 'c'"
    with pytest.raises(ValueError, match=said):
        matrix[np.array([1, 2])]
    assert matrix[np.array([0, 1])].sum() == 3  # only what is read is checked
    signed = Rows(pieces, 2, "`X`", as_float, signed=True)
    assert signed[np.array([2])].min() == -3
    matrix.close()
    signed.close()


def test_a_layer(mdata):
    rna = mdata["rna"].copy()
    rna.layers["twice"] = 2 * rna.X
    matrix = Rows([Piece(rna, "a", "rna", rna.n_obs, None, "twice")], rna.n_vars, "`X`", as_float)
    np.testing.assert_array_equal(matrix[np.arange(9)].toarray(), 2 * rna.X[:9].toarray())


def test_patterns_of_what_is_not_canonical():
    """Zeros that are stored, columns that are there twice or out of order."""
    values, columns = [1.0, 0.0, 2.0, 3.0, -1.0, 1.0], [2, 1, 2, 0, 3, 3]
    rows = sp.csr_matrix((values, columns, [0, 4, 6]), shape=(2, 4))
    found = as_pattern(rows)
    np.testing.assert_array_equal(found.toarray(), [[1, 0, 1, 0], [0, 0, 0, 1]])
    assert found.has_canonical_format
    assert rows.data.tolist() == values


LIMITED = """
import resource, sys, warnings
import torch
import epifoundation as ep
import sklearn.cluster, sklearn.linear_model, anndata
ep.settings.progress = False
torch.set_num_threads(1)
training = ep.TrainingConfig(sample=1000, landmarks=100)
config = ep.ModelConfig(dim=8)
warm = ep.datasets.simulate_multiome(300, 200, 10)["atac"]
# Memory that libraries take at first use
ep.tl.pretrain(warm, objective="peaks", config=config, training=training)
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
now = int(status["VmData"].split()[0]) * 1024
limit = now + int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
if sys.argv[3] == "memory":
    data = anndata.read_h5ad(sys.argv[1])
    pattern = [data.X.copy() for _ in range(2)]
else:
    options = {"config": config, "training": training, "validation": 0.02}
    model = ep.tl.pretrain(sys.argv[1], objective="peaks", **options)
    print(model.training["cells"])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the limit on memory is that of Linux")
def test_more_cells_than_memory(tmp_path, forks):
    """A data set of four times the memory that there is."""
    n_cells, n_open = 80_000, 1_250
    rng = np.random.default_rng(0)
    kinds = np.sort(
        rng.random((200, 2_000)).argpartition(n_open)[:, :n_open].astype(np.int32), axis=1
    )
    indices = kinds[rng.integers(len(kinds), size=n_cells)].ravel()
    X = sp.csr_matrix(
        (np.ones(len(indices), np.float32), indices, np.arange(0, len(indices) + 1, n_open))
    )
    names = [f"chr1:{i * 1000}-{i * 1000 + 500}" for i in range(2_000)]

    AnnData(X, var=pd.DataFrame(index=names)).write_h5ad(tmp_path / "a.h5ad")
    size = X.data.nbytes + X.indices.nbytes
    del X, indices
    (tmp_path / "script.py").write_text(textwrap.dedent(LIMITED))

    def run(how):
        process = forks.start(tmp_path / "script.py", tmp_path / "a.h5ad", size // 4, how)
        return process, *process.communicate()

    streamed, out, errors = run("files")
    assert streamed.returncode == 0, errors[-2000:]
    assert int(out) == 78_400
    whole, _, errors = run("memory")
    assert whole.returncode != 0
    assert "MemoryError" in errors or "Unable to allocate" in errors
