"""Cells in files to learn from: the rows that are asked for, in an order that seed and epoch settle, in bounded memory."""

import sys
import textwrap
from dataclasses import replace
from itertools import chain

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st

import epifoundation as ep
from epifoundation import stored
from epifoundation.batches import Cells, Share, in_order, permutation, shuffled
from epifoundation.stored import Piece, StoredCells, StoredRows, as_float, as_pattern

SIZES = (70, 1, 130)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Three files with other columns, and the matrix that they make together."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("parts")
    pieces, blocks = [], []
    for i, n in enumerate(SIZES):
        X = sp.random(n, 30 + i, 0.3, "csr", rng=rng)
        X.data = np.ceil(5 * X.data)
        projection = sp.random(30 + i, 25, 0.1, "csr", rng=rng)
        projection.data[:] = 1
        path = folder / f"{i}.h5ad"
        AnnData(X, obs={"x": np.arange(n)}, var={"x": np.arange(30 + i)}).write_h5ad(path)
        pieces.append(Piece(path, "atac", n, projection.astype(np.float32)))
        blocks.append((X, projection))
    return pieces, blocks


def rows_of(parts, change):
    return StoredRows(parts[0], 25, "`X`", change)


@given(rows=st.lists(st.integers(0, sum(SIZES) - 1), max_size=60))
def test_any_rows_in_any_order(parts, rows):
    whole = sp.vstack([X @ projection for X, projection in parts[1]]).toarray()
    matrix = rows_of(parts, as_float)
    assert matrix.shape == (sum(SIZES), 25)
    found = matrix[np.array(rows, dtype=int)]
    matrix.close()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.toarray(), whole[rows].reshape(-1, 25))


def test_patterns_are_projected_as_cells_in_memory_are(parts):
    matrix = rows_of(parts, as_pattern)
    whole = sp.vstack([(X > 0).astype(np.float32) @ projection for X, projection in parts[1]]).toarray()
    assert whole.max() > 1  # several peaks of a file in one of the vocabulary
    found = np.concatenate([part.toarray() for _, part in matrix.blocks(50)])
    matrix.close()
    np.testing.assert_array_equal(found, whole > 0)


def test_peaks_that_lie_in_one_of_the_vocabulary_are_open_once(tmp_path):
    """Cells in a file, as the builder for cells in memory reads them, onto peaks of twice their width."""
    from epifoundation.tl._training_data import _read_pattern

    atac = ep.datasets.simulate_multiome(80, 200, 10, median_fragments=150, rng=0)["atac"]
    narrow = [f"chr1:{i * 250}-{(i + 1) * 250}" for i in range(atac.n_vars)]
    wide = ep.PeakVocabulary.from_names([f"chr1:{i * 500}-{(i + 1) * 500}" for i in range(atac.n_vars // 2)])
    atac = AnnData(atac.X, obs=atac.obs, var=pd.DataFrame(index=narrow))
    atac.write_h5ad(tmp_path / "a.h5ad")
    projection = wide.projection(ep.genome.read_intervals(atac.var))
    of_memory = _read_pattern(atac, wide, projection)
    matrix = StoredRows([Piece(tmp_path / "a.h5ad", "atac", 80, projection)], len(wide), "`X`", as_pattern)
    of_file = matrix[np.arange(80)]
    matrix.close()
    assert (of_memory != of_file).nnz == 0
    assert set(of_file.data) == {1}
    assert ((atac.X > 0).astype(np.float32) @ projection).max() == 2


def test_many_files_are_not_all_open(parts, monkeypatch):
    pieces = [parts[0][0]] * 40
    matrix = StoredRows(pieces, 25, "`X`", as_float)
    matrix[np.arange(0, 40 * SIZES[0], 10)]
    assert len(matrix._opened) <= 16
    matrix.close()
    assert not matrix._opened


def test_bad_values_are_told_with_their_cell(tmp_path):
    X = sp.csr_matrix(np.array([[0, 1.0], [2, 0], [0, -3]]))
    AnnData(X).write_h5ad(tmp_path / "a.h5ad")
    matrix = StoredRows([Piece(tmp_path / "a.h5ad", "atac", 3, None)], 2, "`X`", as_float)
    with pytest.raises(ValueError, match=r"`X` of '.*a.h5ad' must hold non-negative counts: found -3.0 in cell '2'"):
        matrix[np.array([1, 2])]
    matrix.close()


def cells_of(parts, buffer=40):
    rows = np.sort(np.random.default_rng(1).choice(sum(SIZES), 150, replace=False))
    codes = np.arange(sum(SIZES))  # the label of a cell is its row
    return StoredCells(rows_of(parts, as_pattern), None, rows, None, codes, buffer)


def test_cells_that_were_measured_bring_what_they_gave_and_no_others(parts):
    cells = cells_of(parts)
    sample = cells.rows[1::3]
    own = np.random.default_rng(2).standard_normal((len(sample) + 5, 4)).astype(np.float32)  # validation cells follow
    told = replace(cells, sample=sample, own=own)
    rows = cells.rows[10:60]
    fetched = told.fetch(rows, 0)[0].own
    place = {row: i for i, row in enumerate(sample)}
    for row, found in zip(rows, fetched, strict=True):
        np.testing.assert_array_equal(found, own[place[row]] if row in place else np.full(4, np.nan))
    assert 0 < np.isnan(fetched[:, 0]).sum() < len(rows)
    assert cells.fetch(rows, 0)[0].own is None


def test_each_cell_once_an_epoch(parts, monkeypatch):
    monkeypatch.setattr(stored, "RUN", 8)
    cells = cells_of(parts)
    orders = []
    for epoch in range(2):
        seen = np.concatenate([batch.label.numpy() for batch in cells.loader(10, 3, Share()).batches(epoch, 0)])
        np.testing.assert_array_equal(np.sort(seen), cells.rows)
        orders.append(seen)
    assert (orders[0] != orders[1]).mean() > 0.9
    place = np.searchsorted(cells.rows, orders[0])
    assert np.corrcoef(place, np.arange(150))[0, 1] < 0.5
    inside = np.abs(np.diff(place)) == 1  # cells of a run do not come one after the other
    assert inside.mean() < 0.2
    cells.close()


@pytest.mark.parametrize("start", [1, 3, 4, 5, 14])
def test_an_epoch_from_any_batch_on(parts, monkeypatch, start):
    monkeypatch.setattr(stored, "RUN", 8)
    cells = cells_of(parts)
    loader = cells.loader(10, 3, Share())
    whole = [batch.label.tolist() for batch in loader.batches(1, 0)]
    assert [batch.label.tolist() for batch in loader.batches(1, start)] == whole[start:]
    for _ in zip(range(start), loader, strict=False):
        state = loader.state_dict()
    again = cells.loader(10, 3, Share())
    again.load_state_dict(state | {"epoch": 1})
    assert [batch.label.tolist() for batch in again] == whole[start:]
    assert len(again) == len(whole) == 15
    cells.close()


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_cells(parts, monkeypatch, world):
    monkeypatch.setattr(stored, "RUN", 8)
    cells = cells_of(parts)
    seen = [[b.label.tolist() for b in cells.loader(12, 3, Share(rank, world)).batches(0, 0)] for rank in range(world)]
    assert len({len(each) for each in seen}) == 1  # as many steps for each
    assert {len(batch) for each in seen for batch in each} == {12 // world}
    every = np.concatenate([np.concatenate(each) for each in seen])
    assert len(np.unique(every)) == len(every) >= 150 - 12
    memory = Cells(sp.csr_matrix(np.eye(50, dtype=np.float32)), label=np.arange(50))
    seen = [[b.label.tolist() for b in shuffled(memory, 12, 0, Share(rank, world))] for rank in range(world)]
    whole = [b.label.tolist() for b in shuffled(memory, 12, 0, Share())]
    assert [sorted(chain.from_iterable(batch)) for batch in zip(*seen, strict=True)] == [
        sorted(batch) for batch in whole
    ]
    held = [[b.label.tolist() for b in in_order(memory, 7, Share(rank, world))] for rank in range(world)]
    assert sorted(chain.from_iterable(chain.from_iterable(held))) == list(range(50))
    cells.close()


def test_the_order_is_that_of_the_loader_of_torch():
    """With which models were made before."""
    import torch
    from torch.utils.data import DataLoader

    generator = torch.Generator().manual_seed(5)
    loader = DataLoader(range(270), batch_size=64, shuffle=True, generator=generator, drop_last=True)
    for epoch in range(3):
        batches = iter(loader)
        order = torch.cat([next(batches) for _ in range(4)])
        np.testing.assert_array_equal(order, permutation(270, 5, epoch)[:256])


def test_training_from_files_needs_scdataset(mdata, tmp_path, monkeypatch):
    mdata.write(tmp_path / "m.h5mu")
    monkeypatch.setitem(sys.modules, "scdataset", None)
    with pytest.raises(ImportError, match=r"pip install 'epifoundation\[atlas\]'"):
        ep.tl.pretrain(tmp_path / "m.h5mu", training=ep.TrainingConfig(max_epochs=1))


SMALL = {
    "config": ep.ModelConfig(dim=16, n_heads=2),
    "training": ep.TrainingConfig(max_epochs=6, n_neighbors=1, lr=5e-3),
}


def test_files_teach_what_memory_teaches(mdata, tmp_path):
    """Peaks by file: their union is learned on; batches, labels and genes as in memory."""
    one, two = mdata[:200].copy(), mdata[200:].copy()
    two.mod["rna"] = two["rna"][:, ::-1].copy()
    paths = [tmp_path / "a.h5mu", tmp_path / "b.h5mu"]
    for part, path in zip((one, two), paths, strict=True):
        part.write(path)
    options = SMALL | {"batch_key": "batch", "label_key": "cell_type", "genome": "hg38"}
    memory, files = ep.tl.pretrain(mdata, **options), ep.tl.pretrain(paths, **options)
    assert files.genes.names == memory.genes.names
    assert files.labels == memory.labels
    assert files.training["cells"] == memory.training["cells"] == 360
    assert files.training["batches"] == memory.training["batches"]
    losses = [model.training["history"][-1]["validation"] for model in (memory, files)]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    right = []
    for model in (memory, files):
        known = ep.tl.embed(mdata["atac"], model, copy=True)
        right.append((known.obs["epifoundation_cell_type"].astype(str) == known.obs["cell_type"].astype(str)).mean())
    assert right[1] > right[0] - 0.1, right


@pytest.mark.filterwarnings("ignore:.* cells have no open peak or no RNA")
def test_peaks_of_files(mdata, tmp_path):
    atac = mdata["atac"]
    paths = [tmp_path / "a.h5ad", tmp_path / "b.h5ad"]
    atac[:200, :400].copy().write_h5ad(paths[0])
    atac[200:, 300:].copy().write_h5ad(paths[1])
    options = SMALL | {"objective": "peaks", "genome": "hg38"}
    union = ep.tl.pretrain(paths, **options)
    is_open = (
        np.asarray((atac.X[:200, :400] > 0).sum(axis=0)).ravel(),
        np.asarray((atac.X[200:, 300:] > 0).sum(axis=0)).ravel(),
    )
    counts = np.zeros(600)
    counts[:400] += is_open[0]
    counts[300:] += is_open[1]
    assert len(union.peaks) == (counts > 0).sum()
    chosen = ep.pp.consensus_peaks(atac.var[:350], genome="hg38")
    given = ep.tl.pretrain(paths, peaks=chosen, **options)
    assert set(given.peaks.names) <= set(chosen.names)
    again = ep.tl.pretrain(paths, init=given, objective="peaks", genome="hg38", training=SMALL["training"])
    assert list(again.peaks.names) == list(given.peaks.names)
    with pytest.raises(ValueError, match="`peaks` is for cells in files"):
        ep.tl.pretrain(atac, peaks=chosen, **options)


def test_what_cannot_be_learned_from_files(mdata, tmp_path):
    atac = tmp_path / "a.h5ad"
    mdata["atac"].write_h5ad(atac)
    with pytest.raises(ValueError, match=r"needs RNA, and '.*a.h5ad' has no modality 'rna'"):
        ep.tl.pretrain(atac)
    with pytest.raises(ValueError, match=r"`label_key='x'` is no column of `obs` of '.*a.h5ad'"):
        ep.tl.pretrain(atac, objective="peaks", label_key="x")
    with pytest.raises(ValueError, match="No peak is open in at least `min_cells`"):
        ep.tl.pretrain(atac, objective="peaks", min_cells=10_000)
    other = mdata.copy()
    other["rna"].var_names = [f"other{i}" for i in range(40)]
    other.write(tmp_path / "other.h5mu")
    mdata.write(tmp_path / "m.h5mu")
    with pytest.raises(ValueError, match="The files share 0 genes"):
        ep.tl.pretrain([tmp_path / "m.h5mu", tmp_path / "other.h5mu"])
    halves = mdata.copy()
    halves["rna"].X = halves["rna"].X.astype(np.float32) / 2
    halves.write(tmp_path / "halves.h5mu")
    with pytest.raises(ValueError, match="holds fractions and `objective='counts'` expects raw counts"):
        ep.tl.pretrain(tmp_path / "halves.h5mu")


LIMITED = """
import resource, sys, warnings
import torch
import epifoundation as ep
from epifoundation.tl import _stored_data
import lightning.pytorch, scdataset, scipy.sparse, sklearn.decomposition, anndata
ep.settings.progress = False
torch.set_num_threads(1)
training = ep.TrainingConfig(max_epochs=1, warm_start=False, buffer=1000, batch_size=128)
config = ep.ModelConfig(dim=8, n_heads=2, n_layers=0)
warm = ep.datasets.simulate_multiome(100, 200, 10)["atac"]
ep.tl.pretrain(warm, objective="peaks", config=config, training=training)  # what libraries take at first use
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
now = int(status["VmData"].split()[0]) * 1024
limit = now + int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
if sys.argv[3] == "memory":
    data = anndata.read_h5ad(sys.argv[1])
    pattern = [data.X.copy() for _ in range(2)]
else:
    model = ep.tl.pretrain(sys.argv[1], objective="peaks", config=config, training=training, validation=0.02)
    print(model.training["cells"])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the limit on memory is that of Linux")
def test_more_cells_than_memory(tmp_path, forks):
    """A data set of four times the memory that there is."""
    n_cells, n_open = 80_000, 1_250
    rng = np.random.default_rng(0)
    kinds = np.sort(rng.random((200, 2_000)).argpartition(n_open)[:, :n_open].astype(np.int32), axis=1)
    indices = kinds[rng.integers(len(kinds), size=n_cells)].ravel()
    X = sp.csr_matrix((np.ones(len(indices), np.float32), indices, np.arange(0, len(indices) + 1, n_open)))
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
