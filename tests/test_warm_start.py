"""Vectors of peaks that are measured: against means written out, and without a cell against those measured without it."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score

import epifoundation as ep
from epifoundation.nn import ModelConfig, Network, Sizes
from epifoundation.nn.set_encoder import STD
from epifoundation.tl._encode import embedding_of
from epifoundation.training import Pretraining
from epifoundation.vocabulary import PeakVocabulary
from epifoundation.warm_start import PSEUDO, known_of_cells, measure, memberships


def random_cells(seed, n_cells=30, n_peaks=40):
    rng = np.random.default_rng(seed)
    pattern = sp.csr_matrix((rng.random((n_cells, n_peaks)) < rng.uniform(0.02, 0.6, n_peaks)).astype(np.float32))
    return pattern, rng.standard_normal((n_cells, 8))


@given(st.integers(0, 10_000))
def test_a_vector_is_a_mean_over_cells_shrunken_and_in_one_unit(seed):
    pattern, known = random_cells(seed)
    vectors, share, own = measure(pattern, known, 0.02)
    sizes = own[0] / known[0]  # of each column
    for peak in range(pattern.shape[1]):
        cells = pattern[:, peak].nonzero()[0]
        expected = sizes * known[cells].sum(axis=0) / (len(cells) + PSEUDO)
        np.testing.assert_allclose(vectors[peak], expected, rtol=1e-4, atol=1e-6)
        for cell in cells[:3]:  # brute force: the mean over the others
            others = sizes * (known[cells].sum(axis=0) - known[cell]) / (len(cells) - 1 + PSEUDO)
            without = vectors[peak] + share[peak] * (vectors[peak] - own[cell])
            np.testing.assert_allclose(without, others, rtol=1e-3, atol=1e-6)
    sums = []
    for cell in range(pattern.shape[0]):
        peaks = pattern[cell].indices
        without = vectors[peaks] + share[peaks, None] * (vectors[peaks] - own[cell])
        sums.append(without.sum(axis=0) / max(len(peaks), 1) ** 0.5)
    np.testing.assert_allclose(np.std(sums, axis=0), 0.02, rtol=1e-3)


def test_clusters_are_found_and_a_cell_between_two_is_of_both():
    rng = np.random.default_rng(0)
    centres = np.eye(3) * 10
    truth = np.repeat(np.arange(3), 40)
    scores = np.concatenate([centres[truth] + rng.standard_normal((120, 3)), [[5.0, 5.0, 0.0]]])
    weight = memberships(scores, 3, rng)
    np.testing.assert_allclose(weight.sum(axis=1), 1)
    assert adjusted_rand_score(truth, weight[:120].argmax(axis=1)) == 1
    assert weight[:120].max(axis=1).min() > 0.99
    assert np.sort(weight[120])[1] > 0.05


@pytest.mark.parametrize("n_cells", [2, 12, 300])
@pytest.mark.parametrize("has_rna", [True, False])
def test_however_few_the_cells_all_columns_are_filled(n_cells, has_rna):
    pattern, _ = random_cells(0, n_cells)
    scores = np.random.default_rng(1).standard_normal((n_cells, 10)) if has_rna else None
    known = known_of_cells(pattern, scores, 24, np.random.default_rng(2))
    assert known.shape == (n_cells, 24)
    assert np.isfinite(known).all()
    np.testing.assert_allclose(known.mean(axis=0), 0, atol=1e-12)
    assert all(np.isfinite(each).all() for each in measure(pattern, known, 0.02))
    assert (known.std(axis=0) > 0).all()


@pytest.fixture(scope="module")
def learned():
    """A model that is random but for its peaks, which were measured on the first 60 of 80 cells."""
    pattern, known = random_cells(3, 80, 120)
    names = pd.DataFrame({"chrom": "chr1", "start": np.arange(120) * 1000, "end": np.arange(120) * 1000 + 500})
    peaks = PeakVocabulary(names, genome="hg38")
    torch.manual_seed(0)
    network = Network(ModelConfig(dim=8, n_layers=1), Sizes(120)).eval()
    vectors, share, own = measure(pattern[:60], known[:60], STD)
    network.encoder.start_from(torch.from_numpy(vectors), torch.from_numpy(share))
    every = np.full((80, 8), np.nan, dtype=np.float32)
    every[:60] = own
    return ep.EpiFoundation(network, peaks, []), pattern, known, every


def test_a_training_cell_is_embedded_as_if_it_had_not_been_counted(learned):
    model, pattern, known, own = learned
    found = embedding_of(model, pattern, None, pd.RangeIndex(80), show=False, own=own)
    whole = embedding_of(model, pattern, None, pd.RangeIndex(80), show=False)
    np.testing.assert_array_equal(found[60:], whole[60:])
    assert np.abs(found[:60] - whole[:60]).max() > 0.05
    sizes = own[0] / known[0]
    network = model.network
    for cell in (0, 17, 59):  # measured anew without it
        others = np.delete(np.arange(60), cell)
        count = pattern[others].getnnz(axis=0)
        vectors = (pattern[others].T @ known[others]) / (count + PSEUDO)[:, None] * sizes
        again = Network(model.config, network.sizes).eval()
        again.load_state_dict(network.state_dict())
        again.encoder.start_from(torch.from_numpy(vectors.astype(np.float32)), torch.zeros(120))
        tokens = torch.from_numpy(pattern[cell].indices.astype(np.int64))
        expected = again.encode(tokens, torch.tensor([0, len(tokens)])).detach().numpy()[0]
        np.testing.assert_allclose(found[cell], expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["planted", "noise"])
def test_the_head_in_closed_form_tells_peaks_where_there_is_something_to_tell(kind):
    mdata = ep.datasets.simulate_multiome(900, 500, 40, n_types=4, median_fragments=100, rng=2)
    if kind == "noise":
        rng = np.random.default_rng(0)
        mdata["rna"].X = mdata["rna"].X[rng.permutation(900)]
    model = ep.tl.pretrain(mdata[:700].copy(), config=ep.ModelConfig(dim=16), training=ep.TrainingConfig(max_epochs=4))
    known, other = (mdata["atac"][rows].copy() for rows in (slice(None, 700), slice(700, None)))
    shown, asked = other.copy(), other.X.toarray() > 0
    hidden = np.random.default_rng(1).random(shown.shape) < 0.5
    shown.X = sp.csr_matrix(other.X.toarray() * ~hidden)
    asked &= hidden
    base = (known.X.toarray() > 0).sum(axis=0) + 1.0
    embedding = ep.tl.embed(shown, model, copy=True).obsm["X_epifoundation"]
    there = ~np.isnan(embedding).any(axis=1)
    asked = asked[there]
    logits = model.network.peaks(torch.from_numpy(embedding[there])).log_softmax(dim=1).detach().numpy()
    loss = -(asked * logits).sum() / asked.sum()
    of_base = -(asked * np.log(base / base.sum())).sum() / asked.sum()
    if kind == "planted":
        assert loss < of_base - 0.05
    else:
        assert loss < of_base + 0.02


@pytest.fixture
def seen(monkeypatch):
    """What was measured, and the batches that were learned from."""
    told, batches = [], []

    def measured(*arguments):
        told.append((arguments[0], *measure(*arguments)))
        return told[-1][1:]

    def loss(self, batch, keep):
        batches.append(batch)
        return learn(self, batch, keep)

    learn = Pretraining._loss
    monkeypatch.setattr("epifoundation.tl._build_network.measure", measured)
    monkeypatch.setattr(Pretraining, "_loss", loss)
    return told, batches


def few(**options):
    data = ep.datasets.simulate_multiome(300, 400, 20, n_types=3, median_fragments=100, rng=3)
    training = ep.TrainingConfig(max_epochs=2, **options)
    return ep.tl.pretrain(data, config=ep.ModelConfig(dim=16), training=training, rng=0)


def test_training_takes_each_cell_out_of_the_vectors_of_its_own_peaks(seen):
    few()
    ((pattern, _, _, own),), batches = seen
    place = {frozenset(pattern[row].indices): row for row in range(pattern.shape[0])}
    n_seen = 0
    for batch in batches:
        if batch.own is None:  # of validation cells
            continue
        for cell, (start, stop) in enumerate(zip(batch.offsets[:-1], batch.offsets[1:], strict=True)):
            row = place[frozenset(batch.ids[start:stop].tolist())]
            np.testing.assert_array_equal(batch.own[cell].numpy(), own[row])
            n_seen += 1
    assert n_seen >= 2 * (pattern.shape[0] // 64) * 64


def test_measured_vectors_stay_unless_they_are_to_learn(seen):
    vectors = few().network.encoder.peak.weight
    np.testing.assert_array_equal(vectors.numpy(), seen[0][0][1])
    learned = few(peak_lr=0.05).network.encoder
    assert learned.is_measured
    assert not np.array_equal(learned.peak.weight.numpy(), seen[0][1][1])
    cold = few(warm_start=False)
    assert not cold.network.encoder.is_measured
    assert len(seen[0]) == 2
    assert (cold.network.encoder.peak.weight.std(dim=1) > 0).all()
