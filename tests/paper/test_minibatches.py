"""Minibatches: each cell once an epoch, in an order that seed and epoch determine."""

from itertools import chain

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import epifoundation as ep
from epifoundation.paper import minibatches
from epifoundation.paper.minibatches import (
    MinibatchCells,
    from_files,
    in_order,
    permutation,
    shuffled,
)
from epifoundation.training.processes import World
from epifoundation.training.rows import Rows, as_float

ALONE = World()
N_CELLS = 201


@pytest.fixture
def stored(parts):
    """Cells in files, the label of each its row, and the 150 of them that are learned from."""
    rows = np.sort(np.random.default_rng(1).choice(N_CELLS, 150, replace=False))
    codes = np.arange(N_CELLS)
    pattern, target = Rows(parts[0], 25, "`X`"), Rows(parts[0], 25, "`X`", as_float)
    yield MinibatchCells(pattern, target, codes % 3, codes), rows
    pattern.close()
    target.close()


def loader_of(stored, batch_size=10, world=ALONE):
    return from_files(*stored, 40, batch_size, 3, world)


def labels_of(batches):
    return [batch.label.tolist() for batch in batches]


def test_a_batch_has_what_its_cells_have(parts, stored):
    whole = sp.vstack([X @ projection for X, projection in parts[1]]).toarray()
    for batch in loader_of(stored).batches(0, 0):
        rows = batch.label.numpy()
        np.testing.assert_array_equal(batch.batch, rows % 3)
        np.testing.assert_array_equal(batch.target, whole[rows])
        assert batch.target.dtype == torch.float32
        for i, row in enumerate(rows):
            ids = batch.ids[batch.offsets[i] : batch.offsets[i + 1]]
            np.testing.assert_array_equal(ids, np.flatnonzero(whole[row]))


def test_a_pooled_target_is_that_of_neighbours():
    target = sp.csr_matrix(np.arange(12, dtype=np.float32).reshape(4, 3))
    pooling = sp.csr_matrix(np.array([[0.5, 0.5, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1], [0.25] * 4]))
    cells = MinibatchCells(sp.csr_matrix(np.ones((4, 2), np.int8)), target, pooling=pooling)
    found = cells[np.array([3, 0])].target
    np.testing.assert_allclose(found, (pooling @ target).toarray()[[3, 0]])
    assert cells[np.array([1])].batch is cells[np.array([1])].label is None


def test_each_cell_once_an_epoch(stored, monkeypatch):
    monkeypatch.setattr(minibatches, "MINIBATCH_RUN", 8)
    orders = []
    for epoch in range(2):
        orders.append(np.concatenate(labels_of(loader_of(stored).batches(epoch, 0))))
        np.testing.assert_array_equal(np.sort(orders[-1]), stored[1])
    assert (orders[0] != orders[1]).mean() > 0.9
    place = np.searchsorted(stored[1], orders[0])
    assert np.corrcoef(place, np.arange(150))[0, 1] < 0.5
    inside = np.abs(np.diff(place)) == 1  # cells of a run do not come one after the other
    assert inside.mean() < 0.2


@pytest.mark.parametrize("start", [1, 3, 4, 5, 14])
def test_an_epoch_from_any_batch_on(stored, monkeypatch, start):
    monkeypatch.setattr(minibatches, "MINIBATCH_RUN", 8)
    loader = loader_of(stored)
    whole = labels_of(loader.batches(1, 0))
    assert labels_of(loader.batches(1, start)) == whole[start:]
    for _ in zip(range(start), loader, strict=False):
        state = loader.state_dict()
    again = loader_of(stored)
    again.load_state_dict(state | {"epoch": 1})
    assert labels_of(again) == whole[start:]
    assert len(again) == len(whole) == 15


@pytest.mark.parametrize("n_processes", [2, 3])
def test_processes_share_cells(stored, monkeypatch, n_processes):
    monkeypatch.setattr(minibatches, "MINIBATCH_RUN", 8)
    worlds = [World(rank, n_processes) for rank in range(n_processes)]
    seen = [labels_of(loader_of(stored, 12, world).batches(0, 0)) for world in worlds]
    assert len({len(each) for each in seen}) == 1  # as many steps for each
    assert {len(batch) for each in seen for batch in each} == {12 // n_processes}
    every = np.concatenate([np.concatenate(each) for each in seen])
    assert len(np.unique(every)) == len(every) >= 150 - 12
    memory = MinibatchCells(sp.csr_matrix(np.eye(50, dtype=np.float32)), label=np.arange(50))
    seen = [labels_of(shuffled(memory, 12, 0, world)) for world in worlds]
    whole = labels_of(shuffled(memory, 12, 0, ALONE))
    together = [sorted(chain.from_iterable(batch)) for batch in zip(*seen, strict=True)]
    assert together == [sorted(batch) for batch in whole]
    held = [labels_of(in_order(memory, 7, world)) for world in worlds]
    assert sorted(chain.from_iterable(chain.from_iterable(held))) == list(range(50))


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
    cells = MinibatchCells(sp.csr_matrix(np.eye(n, dtype=np.int8)), label=np.arange(n))
    batches = labels_of(shuffled(cells, batch_size, 0, ALONE).batches(0, 0))
    assert [len(batch) for batch in batches] == sizes


def test_the_rows_of_each_buffer_are_read_once(stored):
    """Of an epoch, whatever the batch that it begins with."""
    cells, rows = stored
    read = []

    class Counting:
        def __getitem__(self, rows):
            read.append(rows)
            return cells.pattern[rows]

    counting = MinibatchCells(Counting(), label=cells.label), rows
    n = len(list(loader_of(counting).batches(0, 0)))
    assert (n, len(read)) == (15, 4)
    np.testing.assert_array_equal(np.sort(np.concatenate(read)), rows)
    read.clear()
    list(loader_of(counting).batches(0, 9))
    assert len(read) == 2


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
