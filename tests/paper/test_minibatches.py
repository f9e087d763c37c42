"""Minibatches: each cell once an epoch, in an order that seed and epoch determine."""

from itertools import chain

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from anndata import AnnData

import epifoundation as ep
from epifoundation.paper import minibatches
from epifoundation.paper.minibatches import (
    Cells,
    Share,
    StoredCells,
    in_order,
    permutation,
    shuffled,
)
from epifoundation.training.rows import Piece, Rows, as_float

SIZES = (70, 1, 130)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Three files with the same columns, and the matrix that they make together."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("parts")
    pieces, blocks = [], []
    for i, n in enumerate(SIZES):
        X = sp.random(n, 30, 0.3, "csr", rng=rng)
        X.data = np.ceil(5 * X.data)
        path = folder / f"{i}.h5ad"
        AnnData(X, obs={"x": np.arange(n)}, var={"x": np.arange(30)}).write_h5ad(path)
        pieces.append(Piece(path, f"part {i}", "atac", n, None))
        blocks.append(X)
    return pieces, sp.vstack(blocks, format="csr")


def cells_of(parts, buffer=40, target=None, *, dense=False):
    rows = np.sort(np.random.default_rng(1).choice(sum(SIZES), 150, replace=False))
    codes = np.arange(sum(SIZES))  # the label of a cell is its row
    pattern = Rows(parts[0], 30, "`X`")
    return StoredCells(pattern, target, rows, codes % 3, codes, buffer, dense)


@pytest.mark.parametrize("dense", [False, True])
def test_a_batch_has_what_its_cells_have(parts, dense):
    cells = cells_of(parts, target=Rows(parts[0], 30, "`X`", as_float), dense=dense)
    whole = parts[1].toarray()
    for batch in cells.loader(10, 3, Share()).batches(0, 0):
        rows = batch.label.numpy()
        np.testing.assert_array_equal(batch.batch, rows % 3)
        np.testing.assert_array_equal(batch.target, whole[rows])
        assert batch.target.dtype == torch.float32
        for i, row in enumerate(rows):
            ids = batch.ids[batch.offsets[i] : batch.offsets[i + 1]]
            np.testing.assert_array_equal(ids, np.flatnonzero(whole[row]))
    cells.pattern.close()
    cells.target.close()


def test_a_pooled_target_is_that_of_neighbours():
    target = sp.csr_matrix(np.arange(12, dtype=np.float32).reshape(4, 3))
    pooling = sp.csr_matrix(np.array([[0.5, 0.5, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1], [0.25] * 4]))
    cells = Cells(sp.csr_matrix(np.ones((4, 2), np.int8)), target, pooling)
    found = cells[np.array([3, 0])].target
    np.testing.assert_allclose(found, (pooling @ target).toarray()[[3, 0]])
    assert cells[np.array([1])].batch is cells[np.array([1])].label is None


def test_each_cell_once_an_epoch(parts, monkeypatch):
    monkeypatch.setattr(minibatches, "RUN", 8)
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
    cells.pattern.close()


@pytest.mark.parametrize("start", [1, 3, 4, 5, 14])
def test_an_epoch_from_any_batch_on(parts, monkeypatch, start):
    monkeypatch.setattr(minibatches, "RUN", 8)
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
    cells.pattern.close()


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_cells(parts, monkeypatch, world):
    monkeypatch.setattr(minibatches, "RUN", 8)
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
    cells.pattern.close()


def test_seed_and_epoch_determine_the_order():
    """Whatever the global random state, and whichever epoch is the first."""
    orders = {(seed, epoch): permutation(270, seed, epoch) for seed in (5, 6) for epoch in range(3)}
    torch.manual_seed(0)
    for (seed, epoch), order in orders.items():
        np.testing.assert_array_equal(np.sort(order), np.arange(270))
        np.testing.assert_array_equal(permutation(270, seed, epoch), order)
    assert len({tuple(order) for order in orders.values()}) == 6


@pytest.mark.parametrize(("n", "batch_size", "sizes"), [(50, 20, [20, 20]), (7, 20, [7])])
def test_an_incomplete_last_batch_is_left_out_but_for_a_single_one(n, batch_size, sizes):
    cells = Cells(sp.csr_matrix(np.eye(n, dtype=np.int8)), label=np.arange(n))
    batches = list(shuffled(cells, batch_size, 0, Share()).batches(0, 0))
    assert [len(batch.label) for batch in batches] == sizes


def test_the_rows_of_each_buffer_are_read_once(parts):
    """Of an epoch, whatever the batch that it begins with."""
    cells = cells_of(parts, buffer=40)
    read = []

    class Counting:
        def __getitem__(self, rows):
            read.append(rows)
            return cells.pattern[rows]

    counting = StoredCells(Counting(), None, cells.rows, None, cells.batch, 40)
    n = len(list(counting.loader(10, 3, Share()).batches(0, 0)))
    assert (n, len(read)) == (15, 4)
    np.testing.assert_array_equal(np.sort(np.concatenate(read)), cells.rows)
    read.clear()
    list(counting.loader(10, 3, Share()).batches(0, 9))
    assert len(read) == 2
    cells.pattern.close()


SMALL = {
    "config": ep.ModelConfig(encoder="transformer", dim=8, n_layers=1),
    "training": ep.TrainingConfig(max_epochs=2, n_neighbors=1, lr=5e-3),
}


def test_files_teach_what_memory_teaches(mdata, tmp_path):
    """Batches, labels and genes as in memory, nearly the same loss: the order is another one."""
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
