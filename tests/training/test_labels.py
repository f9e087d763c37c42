"""Columns for labels beside any encoder."""

import numpy as np
import pandas as pd
import pytest
import torch

import epifoundation as ep
from epifoundation.nn import Network, Sizes
from epifoundation.training.split import draw


@pytest.fixture(scope="module")
def unlabelled(simulated):
    return ep.tl.pretrain(simulated, config=ep.ModelConfig(dim=16), genome="hg38")


def a_model_without_knowledge(simulated, encoder):
    """Of random weights: whatever it embeds, labels are read off the peaks."""
    torch.manual_seed(0)
    peaks = ep.PeakVocabulary.from_var(simulated["atac"].var, genome="hg38")
    config = ep.ModelConfig(
        encoder=encoder, dim=8, n_layers=1 if encoder == "transformer" else None, objective="peaks"
    )
    sizes = {"n_chromosomes": 1} if encoder == "transformer" else {"n_encoder_landmarks": 20}
    return ep.EpiFoundation(
        Network(config, Sizes(len(peaks), **sizes)), peaks, ep.GeneVocabulary([])
    )


@pytest.mark.parametrize("encoder", ["set", "transformer"])
def test_a_reference_is_read_whatever_the_encoder(simulated, encoder):
    model = a_model_without_knowledge(simulated, encoder)
    rng = np.random.default_rng(0).random(400) < 0.5
    query = simulated[~rng].copy()
    ep.tl.annotate(query, model, reference=simulated[rng].copy(), label_key="cell_type")
    found = query["atac"].obs["epifoundation_cell_type"].astype(str)
    assert (found == query["atac"].obs["cell_type"].astype(str)).mean() > 0.9


def test_labels_leave_the_encoder_as_it_was_and_replace_others(simulated, unlabelled):
    tuned = ep.tl.finetune(simulated, unlabelled, label_key="cell_type")
    other = simulated.copy()
    other["atac"].obs["half"] = pd.Categorical(
        np.where(other["atac"].obs["cell_type"] == "type0", "one", "rest")
    )
    again = ep.tl.finetune(other, tuned, label_key="half")
    assert (tuned.network.dim, again.network.dim) == (16 + len(tuned.labels), 16 + 2)
    embedded = []
    for model in (unlabelled, tuned, again):
        ep.tl.embed(atac := simulated["atac"].copy(), model, expression=False)
        embedded.append(atac.obsm["X_epifoundation"][:, :16])
    np.testing.assert_allclose(embedded[1], embedded[0], atol=1e-6)
    np.testing.assert_allclose(embedded[2], embedded[0], atol=1e-6)
    assert set(again.cells) == {"encoder", "labels"}


def test_shuffled_labels_are_not_learned(simulated, unlabelled):
    """Each cell is left out of the vectors of its labels: wrong labels are not reproduced."""
    data = simulated.copy()
    rng = np.random.default_rng(0)
    data["atac"].obs["cell_type"] = rng.permutation(
        data["atac"].obs["cell_type"].astype(str).to_numpy()
    )
    ep.tl.annotate(data, unlabelled, reference=data, label_key="cell_type", unknown=0)
    found = data["atac"].obs["epifoundation_cell_type"].astype(str).to_numpy()
    chance = data["atac"].obs["cell_type"].value_counts(normalize=True).max()
    assert (found == data["atac"].obs["cell_type"].to_numpy()).mean() < chance + 0.12


@pytest.mark.parametrize("most", [1, 31, 64, 200, 1000])
def test_cells_are_drawn_in_runs_and_of_each_label_some(most):
    rows = np.arange(0, 2000, 2)
    labels = np.zeros(2000, int)
    labels[[10, 500, 1998]] = 1
    drawn = draw(rows, most, np.random.default_rng(0))
    assert len(drawn) == min(most, len(rows))
    assert set(drawn) <= set(rows)
    assert (np.diff(drawn) > 0).all()
    with_labels = draw(rows, most, np.random.default_rng(0), labels)
    assert set(drawn) <= set(with_labels)
    assert {10, 500, 1998} <= set(with_labels)
    if most < 1000:
        assert len(with_labels) <= most + 40
