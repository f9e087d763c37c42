"""The head for held-out peaks in closed form: better than base rates where there is a reason."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

import epifoundation as ep
from epifoundation.nn import Network, Sizes
from epifoundation.paper.cells import Loaded
from epifoundation.paper.peak_head import fit_peak_head
from epifoundation.paper.train import with_heads
from epifoundation.training.features import embedding_of

N_TYPES, N_PEAKS, DIM = 4, 150, 16


def planted(n_cells, seed, *, types=True):
    """Open peaks of cells of some types; without `types`, of rates that are the same for all."""
    rates = np.random.default_rng(1).beta(0.5, 2, (N_TYPES, N_PEAKS))
    rng = np.random.default_rng(seed)
    rate = rates[rng.integers(N_TYPES, size=n_cells)] if types else rates.mean(axis=0)
    is_open = rng.random((n_cells, N_PEAKS)) < rate
    is_open[:, :2] = True  # no cell is empty
    return sp.csr_matrix(is_open.astype(np.int8))


def loaded(pattern):
    starts = np.arange(N_PEAKS) * 1000
    peaks = pd.DataFrame({"chrom": "chr1", "start": starts, "end": starts + 500})
    rows = np.arange(pattern.shape[0])
    train, held = rows[rows % 8 > 0], rows[rows % 8 == 0]
    nothing = ep.GeneVocabulary([]), pattern, None, None, None
    return Loaded(ep.PeakVocabulary(peaks), *nothing, train, held, None, [], None)


def fitted(pattern, *, informative):
    """A model whose embedding is the types of cells, or nothing of them, with the head."""
    torch.manual_seed(0)
    config = ep.ModelConfig(encoder="set-1", dim=DIM, n_layers=0)
    network = Network(config, Sizes(N_PEAKS))
    rates = np.random.default_rng(1).beta(0.5, 2, (N_TYPES, N_PEAKS))
    with torch.no_grad():
        if informative:
            mixed = np.random.default_rng(2).normal(0, 0.02, (N_TYPES, DIM))
            around = (rates - rates.mean(axis=0)).T @ mixed
            network.encoder.peak.weight.copy_(torch.from_numpy(around))
    data = loaded(pattern)
    model = ep.EpiFoundation(network, data.peaks, data.genes)
    fits = {"peaks": partial(fit_peak_head, model)}
    return with_heads(model, data, fits, np.random.default_rng(0))


def losses(model, known, other):
    """Negative log-likelihood of half of the open peaks given the rest: head and base rates."""
    is_open = other.toarray() > 0
    hidden = np.random.default_rng(1).random(is_open.shape) < 0.5
    hidden[:, :2] = False
    shown, asked = sp.csr_matrix((is_open & ~hidden).astype(np.int8)), is_open & hidden
    embedding = torch.from_numpy(embedding_of(model, shown))
    found = model.network.peaks(embedding).log_softmax(dim=1).numpy()
    base = np.asarray(known.sum(axis=0)).ravel() + 1.0
    return [-(asked * each).sum() / asked.sum() for each in (found, np.log(base / base.sum()))]


def test_held_out_peaks_are_predicted_where_the_embedding_tells_types_apart():
    known, other = planted(800, 0), planted(200, 5)
    loss, base = losses(fitted(known, informative=True), known, other)
    assert loss < base - 0.1


@pytest.mark.parametrize("types", [False, True])
def test_it_is_hardly_worse_than_base_rates_where_there_is_nothing(types):
    known, other = planted(800, 0, types=types), planted(200, 5, types=types)
    loss, base = losses(fitted(known, informative=False), known, other)
    assert loss < base + 0.02


def test_what_cannot_be_halved_leaves_base_rates():
    """Validation cells of one open peak each: there is nothing to choose the gain on."""
    pattern = planted(80, 0).tolil()
    for row in range(0, 80, 8):
        pattern[row] = 0
        pattern[row, 3] = 1
    pattern = pattern.tocsr()
    head = fitted(pattern, informative=True).network.peaks
    assert not head.linear.weight.any()
    often = pattern[np.arange(80) % 8 > 0].getnnz(axis=0) + 1
    np.testing.assert_allclose(head.linear.bias, np.log(often / often.sum()), rtol=1e-4)
