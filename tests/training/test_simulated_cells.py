"""Simulated open peaks: depth, clusters, and embeddings like those of cells that were measured."""

import numpy as np
import pytest
import torch

import epifoundation as ep
from epifoundation.training.features import embedding_of
from epifoundation.training.rows import as_pattern
from epifoundation.training.set_clusters import SPREAD, SetClusters
from epifoundation.training.simulated_cells import simulate_peaks


def simulate(model, memberships, rng):
    clusters = SetClusters(model)
    return simulate_peaks(clusters.rates, memberships, rng, clusters.depth, SPREAD)


def test_mean_depth_is_that_of_the_training_cells(model, simulated):
    known = np.asarray((simulated["atac"].X > 0).sum(axis=1)).mean()
    assert SetClusters(model).depth == pytest.approx(known, rel=0.02)


def test_depth_varies_around_that_of_the_training_cells(model):
    uniform = np.full((2_000, 32), 1 / 32)
    found = simulate(model, uniform, np.random.default_rng(0))
    assert found.shape == (2_000, len(model.peaks))
    assert set(found.data.tolist()) == {1}
    n_open = np.diff(found.indptr)
    # Several fragments in a peak are one open peak
    assert 0.6 * SetClusters(model).depth < n_open.mean() <= 1.05 * SetClusters(model).depth
    assert np.log(n_open).std() > 0.4


def test_peaks_are_open_as_often_as_in_their_cluster(model):
    one = np.zeros((6_000, 32))
    one[:, 7] = 1
    found = simulate(model, one, np.random.default_rng(0))
    rates = model.network.peaks(torch.eye(32)).softmax(dim=1).numpy()
    share = np.asarray(found.mean(axis=0)).ravel()
    agreement = [np.corrcoef(share, row)[0, 1] for row in rates]
    assert np.argmax(agreement) == 7
    assert agreement[7] > 0.95


def test_embeddings_are_like_those_of_new_cells():
    """The spread of each column of the embedding is that of measured cells of another batch."""
    mdata = ep.datasets.simulate_multiome(1_000, 800, 60, n_types=4, median_fragments=60, rng=3)
    is_new = (mdata.obs["batch"] == "batch1").to_numpy()
    model = ep.tl.pretrain(mdata[~is_new].copy(), config=ep.ModelConfig(dim=16), genome="hg38")
    to_model = model.peaks.projection(ep.genome.parse_intervals(mdata["atac"].var_names))
    pattern = as_pattern((mdata["atac"].X[is_new] @ to_model).tocsr())
    measured = embedding_of(model, pattern)
    drawn = simulate(model, np.clip(measured, 0, None) + 1e-6, np.random.default_rng(0))
    found = embedding_of(model, drawn)
    assert found.std() == pytest.approx(measured.std(), rel=0.25)
    assert np.corrcoef(found.mean(axis=0), measured.mean(axis=0))[0, 1] > 0.9


def test_a_seed_gives_the_same_peaks(model):
    uniform = np.full((50, 32), 1 / 32)
    one, two, other = (simulate(model, uniform, np.random.default_rng(s)) for s in (1, 1, 2))
    assert (one != two).nnz == 0
    assert (one != other).nnz > 0
