"""Directions of batches: planted ones are found, biology is left alone, and decoders get back what the embedding loses."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given
from hypothesis import strategies as st

import epifoundation as ep
from epifoundation import EpiFoundation, GeneVocabulary, ModelConfig, PeakVocabulary
from epifoundation.nn import Network, Sizes
from epifoundation.tl._batches import batch_directions, take_out_batches
from epifoundation.tl._encode import embedding_of

DIM = 12


def planted(rng, n_batches, shift, n_cells=1200, n_types=5):
    """Types in one half of the dimensions, batches along directions in the other."""
    kind, batch = rng.integers(n_types, size=n_cells), rng.integers(n_batches, size=n_cells)
    centres = np.zeros((n_types, DIM))
    centres[:, : DIM // 2] = rng.normal(0, 3, (n_types, DIM // 2))
    moved = np.zeros((n_batches, DIM))
    moved[:, DIM // 2 :] = rng.normal(0, shift, (n_batches, DIM // 2))
    return (centres[kind] + moved[batch] + rng.normal(0, 0.5, (n_cells, DIM))).astype(np.float32), kind, batch, moved


def distances(z, codes, within):
    """How far means of `codes` lie apart among cells of one kind, in deviations of cells."""
    apart, spread = [], []
    for kind in np.unique(within):
        means = [z[(within == kind) & (codes == code)].mean(axis=0) for code in np.unique(codes)]
        apart.append(np.linalg.norm(np.subtract(means, np.mean(means, axis=0)), axis=1).max())
        spread.append(z[(within == kind) & (codes == codes[0])].std(axis=0).mean())
    return np.max(apart) / np.mean(spread)


@given(seed=st.integers(0, 2**31), n_batches=st.integers(2, 4), labelled=st.booleans())
def test_planted_batches_are_taken_out_and_types_stay_apart(seed, n_batches, labelled):
    rng = np.random.default_rng(seed)
    z, kind, batch, _ = planted(rng, n_batches, shift=3)
    read, along = batch_directions(z, batch, rng, kind if labelled else None)
    np.testing.assert_allclose(read @ along.T, np.eye(len(read)), atol=1e-4)
    without = z - (z @ read.T) @ along
    assert len(read) <= n_batches  # n_batches - 1 were planted, and one cluster may hold two types
    # What stays is less than a tenth of what groups of cells differ by, so it may be more than a deviation of cells
    assert distances(without, batch, kind) < min(0.2 * distances(z, batch, kind), 1.5)
    assert distances(without, kind, batch) > 0.6 * distances(z, kind, batch)


@given(seed=st.integers(0, 2**31), labelled=st.booleans())
def test_batches_that_are_alike_lose_nothing(seed, labelled):
    rng = np.random.default_rng(seed)
    z, kind, batch, _ = planted(rng, 3, shift=0)
    assert len(batch_directions(z, batch, rng, kind if labelled else None)[0]) == 0


def test_with_labels_batches_of_other_composition_lose_nothing():
    """What tells two batches of different cell types apart is biology."""
    rng = np.random.default_rng(0)
    z, kind, _, _ = planted(rng, 2, shift=0)
    batch = (rng.random(len(z)) < np.linspace(0.05, 0.95, 5)[kind]).astype(int)
    assert len(batch_directions(z, batch, rng, kind)[0]) == 0


def test_batches_farther_apart_than_types_are_found_without_labels():
    """Shifts of each type and batch by itself: as many clusters as there are of both would be of one batch each."""
    rng = np.random.default_rng(0)
    z, kind, batch, _ = planted(rng, 2, shift=6)
    z = np.concatenate([z, rng.normal(0, 0.7, (5, 2, 30))[kind, batch] + rng.normal(0, 0.5, (len(z), 30))], axis=1)
    read, along = batch_directions(z, batch, rng)
    without = z - (z @ read.T) @ along
    assert distances(without, batch, kind) < 0.2 * distances(z, batch, kind)
    assert distances(without, kind, batch) > 0.4 * distances(z, kind, batch)


def test_a_batch_of_few_cells_does_not_count():
    rng = np.random.default_rng(0)
    z, kind, _, _ = planted(rng, 2, shift=0)
    batch = np.zeros(len(z), dtype=int)
    batch[:20] = 1
    z[:20] += 50
    assert len(batch_directions(z, batch, rng, kind)[0]) == 0


@pytest.fixture(scope="module")
def strong():
    return ep.datasets.simulate_multiome(
        900, 600, 60, n_types=4, n_batches=3, batch_effect=1.2, median_fragments=150, rng=3
    )


@pytest.mark.parametrize("supervised", [True, False])
def test_a_model_that_was_told_of_batches_does_not_embed_them(strong, supervised):
    data = strong if supervised else strong["atac"]
    options = {"config": ep.ModelConfig(dim=32), "training": ep.TrainingConfig(max_epochs=8)}
    if not supervised:
        options["objective"] = "peaks"
    explained = []
    for key in (None, "batch"):
        model = ep.tl.pretrain(data, batch_key=key, **options)
        atac = ep.tl.embed(strong["atac"], model, expression=False, copy=True)
        z, kind, batch = atac.obsm["X_epifoundation"], atac.obs["cell_type"], atac.obs["batch"]
        total = z.var(axis=0).sum()
        explained.append([_of_means(z, column) / total for column in (batch, kind)])
    assert explained[0][0] > 0.3
    assert explained[1][0] < 0.05
    assert explained[1][1] > 2 * explained[0][1]


def _of_means(z, column):
    codes = column.cat.codes.to_numpy()
    means = np.stack([z[codes == code].mean(axis=0) for code in range(codes.max() + 1)])
    return means[codes].var(axis=0).sum()


def test_decoders_get_back_what_a_batch_had_along_the_directions():
    """The mean over a batch of what linear decoders say of its cells does not change."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    n_cells, n_peaks = 400, 60
    batch = rng.integers(2, size=n_cells)
    rate = np.where(batch[:, None] == np.arange(n_peaks) % 2, 0.5, 0.05)
    pattern = sp.csr_matrix((rng.random((n_cells, n_peaks)) < rate).astype(np.float32))
    network = Network(ModelConfig(dim=16), Sizes(n_peaks, 8, n_batches=2, peaks_by_batch=True))
    for table in (network.expression.batch, network.peaks.batch):
        torch.nn.init.normal_(table)
    peaks = PeakVocabulary(pd.DataFrame({"chrom": "chr1", "start": np.arange(n_peaks), "end": np.arange(n_peaks) + 1}))
    model = EpiFoundation(network, peaks, GeneVocabulary([f"g{i}" for i in range(8)]))
    blind = take_out_batches(model, pattern, np.arange(n_cells), batch, rng)
    assert blind.network.sizes.n_removed == blind.network.encoder.norm.n_removed > 0
    before, after = (_read_off(m, pattern, batch) for m in (model, blind))
    assert np.linalg.norm(np.subtract(*before[0])) > 5 * np.linalg.norm(np.subtract(*after[0]))  # embedding
    for had, has in zip(before[1:], after[1:], strict=True):
        np.testing.assert_allclose(has, had, atol=1e-4)
    twice = take_out_batches(blind, pattern, np.arange(n_cells), rng.integers(2, size=n_cells), rng)
    assert twice is blind  # of batches that are alike nothing is taken out


@torch.no_grad()
def _read_off(model, pattern, batch):
    """Means over each batch of embedding, expression and logits of peaks."""
    z = torch.from_numpy(embedding_of(model, pattern, None, pd.RangeIndex(pattern.shape[0])))
    codes = torch.from_numpy(batch)
    arrays = z, model.network.expression(z, codes), model.network.peaks(z, codes)
    return [np.stack([array[codes == code].mean(dim=0).numpy() for code in range(2)]) for array in arrays]
