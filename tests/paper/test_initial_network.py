"""The network that gradient training begins with: measured vectors, base rates, or a model."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

import epifoundation as ep
from epifoundation.paper.cells import Loaded
from epifoundation.paper.initial_network import build

SMALL = {"encoder": "transformer", "dim": 16, "n_layers": 1}
TRAINING = ep.TrainingConfig(n_neighbors=1)
N_PEAKS, N_GENES = 60, 12


def loaded(n_cells=200, *, with_rna=True, seed=0, objective="counts"):
    """Cells of three types; the last 20 are validation cells, in which no peak is open as often."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(3, size=n_cells)
    rates = np.random.default_rng(9).beta(0.5, 1, (3, N_PEAKS))
    is_open = rng.random((n_cells, N_PEAKS)) < rates[kind]
    is_open[:, 0] = True
    share = np.random.default_rng(8).dirichlet(np.ones(N_GENES), 3)
    target = rng.poisson(50 * share[kind]).astype(np.float32)
    if objective == "binary":
        target = (target > 1).astype(np.float32)
    starts = np.arange(N_PEAKS) * 1000
    chrom = np.where(np.arange(N_PEAKS) < 20, "chr1", "chr2")
    peaks = pd.DataFrame({"chrom": chrom, "start": starts, "end": starts + 500})
    rows = np.arange(n_cells)
    n_held = max(n_cells // 10, 1)
    names = [f"g{i}" for i in range(N_GENES)] if with_rna else []
    return Loaded(
        ep.PeakVocabulary(peaks),
        ep.GeneVocabulary(names),
        sp.csr_matrix(is_open.astype(np.int8)),
        sp.csr_matrix(target) if with_rna else None,
        None,
        None,
        rows[:-n_held],
        rows[-n_held:],
        None,
        [],
        None,
    )


def built(data, training=TRAINING, init=None, seed=0, **options):
    config = ep.ModelConfig(**SMALL, **options)
    return build(data, config, training, init, seed, np.random.default_rng(seed))


@pytest.mark.parametrize("with_rna", [True, False])
def test_peaks_that_are_open_in_the_same_cells_begin_with_similar_vectors(with_rna):
    data = loaded(with_rna=with_rna)
    options = {} if with_rna else {"objective": "peaks"}
    networks = built(data, **options), built(data, replace(TRAINING, warm_start=False), **options)
    warm, cold = (each.encoder.tokens.embedding.weight.detach() for each in networks)
    rates = np.random.default_rng(9).beta(0.5, 1, (3, N_PEAKS))
    expected = np.corrcoef((rates - rates.mean(axis=0)).T)
    pairs = np.triu_indices(N_PEAKS, 1)
    agreement = []
    for table in (warm, cold):
        vectors = table[:-1].numpy()
        found = np.corrcoef(vectors - vectors.mean(axis=0))
        agreement.append(np.corrcoef(found[pairs], expected[pairs])[0, 1])
    assert agreement[0] > 0.3
    assert agreement[1] < 0.1
    assert torch.equal(warm[-1], cold[-1])  # the CLS token is drawn
    assert float(warm[:-1].std()) == pytest.approx(float(cold[:-1].std()), rel=1e-3)


@pytest.mark.parametrize("n_cells", [3, 12, 300])
@pytest.mark.parametrize("with_rna", [True, False])
def test_columns_that_few_cells_cannot_fill_are_noise(n_cells, with_rna):
    """But for the one cluster that a handful of cells makes, which is the same for all peaks."""
    options = {} if with_rna else {"objective": "peaks"}
    data = loaded(n_cells, with_rna=with_rna)
    table = built(data, **options).encoder.tokens.embedding.weight.detach()
    assert table.isfinite().all()
    assert (table[:-1].std(dim=0) > 0).sum() >= 16 - (n_cells < 10)


@pytest.mark.parametrize("objective", ["counts", "binary", "gaussian"])
def test_heads_begin_with_base_rates_of_the_training_cells(objective):
    data = loaded(objective=objective)
    network = built(data, objective=objective)
    head = network.expression
    with torch.no_grad():
        head.linear.weight.zero_()
        found = head.predict(torch.zeros(1, 16))[0].numpy()
    values = data.target[data.train].toarray()
    if objective == "counts":
        expected = np.log1p(1e4 * (values.sum(axis=0) + 1) / (values.sum(axis=0) + 1).sum())
    elif objective == "binary":
        expected = (values.sum(axis=0) + 1) / (len(values) + 2)
    else:
        expected = values.mean(axis=0)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    often = data.pattern[data.train].getnnz(axis=0) + 1
    peaks = network.peaks(torch.zeros(1, 16)).softmax(dim=1)[0].detach().numpy()
    np.testing.assert_allclose(peaks, often / often.sum(), rtol=1e-4)
    if objective == "gaussian":
        np.testing.assert_allclose(head.deviation, values.std(axis=0), rtol=1e-4)


def test_the_weights_of_a_model_are_taken_over_but_not_its_labels_and_batches():
    data = loaded()
    there = built(data, seed=3)
    model = ep.EpiFoundation(there, data.peaks, data.genes)
    batches = replace(data, batch_codes=np.zeros(200, int), batches=["a", "b"])
    network = built(batches, init=model, seed=4)
    for name, tensor in there.encoder.state_dict().items():
        assert torch.equal(tensor, network.encoder.state_dict()[name]), name
    assert network.expression.batch.shape == (2, N_GENES)
    z = torch.randn(4, 16)
    torch.testing.assert_close(network.expression(z), there.expression(z))
    torch.testing.assert_close(network.peaks(z), there.peaks(z))


def test_the_same_seed_gives_the_same_network_and_leaves_the_random_state():
    data = loaded()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = built(data).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    other, third = built(data).state_dict(), built(data, seed=1).state_dict()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name
    assert any(not torch.equal(tensor, third[name]) for name, tensor in one.items())


def test_tokens_know_their_chromosomes():
    tokens = built(loaded()).encoder.tokens
    of = tokens.chromosome_of[:-1]
    assert len(of[:20].unique()) == len(of[20:].unique()) == 1
    assert of[0] != of[-1]
    assert of.min() >= 2
