"""Cells that a model was measured on are embedded as if it had been measured without them."""

from dataclasses import replace

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict

import epifoundation as ep

KEY = "X_epifoundation"
PSEUDOCOUNT = ep.TrainingConfig().pseudocount


def embed(data, model):
    return ep.tl.embed(data, model, expression=False, annotation=False, copy=True).obsm[KEY]


def open_peaks(atac, model):
    """Which peaks of the model are open, float64 (n_cells, n_peaks)."""
    at = atac.var_names.get_indexer(model.peaks.names)
    assert (at >= 0).all()
    return (atac.X.toarray()[:, at] > 0).astype(np.float64)


def memberships(atac, model):
    """Of each cell in the clusters, as the model keeps them."""
    matrix = sp.csr_matrix(open_peaks(atac, model))
    known = (
        model.known(matrix.indices.astype(np.int64), matrix.indptr.astype(np.int64))["encoder"]
        .double()
        .numpy()
    )
    np.testing.assert_allclose(known.sum(axis=1), 1, atol=1e-6)
    assert (known >= -1e-9).all()
    return known


def one_hot(labels, names):
    return (np.asarray(labels.astype(str))[:, None] == np.array(names)).astype(np.float64)


def left_out(matrix, known, pseudocount):
    """Columns of cells, by vectors measured again without each cell, from matrices alone."""
    around = known - known.mean(axis=0)
    sums, count = matrix.T @ around, matrix.sum(axis=0)
    columns = []
    for cell, mine in zip(matrix, around, strict=True):
        inside = cell > 0
        vectors = (sums[inside] - mine) / (count[inside, None] - 1 + pseudocount)
        columns.append(vectors.sum(axis=0) / np.sqrt(inside.sum()))
    return torch.from_numpy(np.stack(columns).astype(np.float32))


def expected(atac, model, of_labels=None):
    """The embedding of all cells that a model was measured on, each left out of its vectors."""
    matrix, network = open_peaks(atac, model), model.network
    features = network.encoder.features(left_out(matrix, memberships(atac, model), PSEUDOCOUNT))
    found = [network.encoder.embed(features)]
    if model.labels:
        columns = left_out(matrix, one_hot(atac.obs["cell_type"], model.labels), PSEUDOCOUNT)
        found.append(network.label_columns.readout(torch.cat([features, columns], dim=1)))
    return torch.cat(found, dim=1).numpy()


@pytest.fixture(scope="module")
def plain(simulated):
    """A model without labels and batches; do not change it."""
    return ep.tl.pretrain(simulated, config=ep.ModelConfig(dim=16), genome="hg38")


@pytest.mark.parametrize("name", ["model", "plain"])
def test_each_is_left_out_of_the_vectors_of_its_peaks(request, simulated, name):
    model, atac = request.getfixturevalue(name), simulated["atac"]
    found = embed(atac, model)
    np.testing.assert_allclose(found, expected(atac, model), atol=1e-4)
    unaware = embed(atac, replace(model, cells={}))
    assert np.abs(found - unaware).max() > 0.05
    columns = (
        torch.from_numpy(open_peaks(atac, model).astype(np.float32))
        @ model.network.encoder.vectors.weight
    )
    columns = (
        columns
        / torch.from_numpy(
            open_peaks(atac, model).sum(axis=1, keepdims=True).astype(np.float32)
        ).sqrt()
    )
    dim = model.config.dim
    in_all = model.network.encoder.embed(model.network.encoder.features(columns))
    np.testing.assert_allclose(unaware[:, :dim], in_all, atol=1e-4)


def test_memberships_are_those_of_clusters_of_rna(simulated, plain):
    """Cells of one cluster are of one type, as the RNA says."""
    likeliest = memberships(simulated["atac"], plain).argmax(axis=1)
    table = pd.crosstab(likeliest, simulated["atac"].obs["cell_type"].to_numpy())
    assert table.max(axis=1).sum() > 0.9 * simulated.n_obs


def test_files_and_saved_models_recognize_them(simulated, model, tmp_path):
    atac = simulated["atac"].copy()
    found = embed(atac, model)
    model.save_pretrained(tmp_path / "model")
    model.save_pretrained(tmp_path / "without", cells=False)
    atac.write_h5ad(tmp_path / "a.h5ad")
    for given in (model, tmp_path / "model"):
        ep.tl.embed(tmp_path / "a.h5ad", given, output=tmp_path / "out.h5ad", overwrite=True)
        np.testing.assert_allclose(
            anndata.read_h5ad(tmp_path / "out.h5ad").obsm[KEY], found, atol=1e-5
        )
    np.testing.assert_array_equal(embed(atac, tmp_path / "model"), found)
    np.testing.assert_array_equal(
        embed(atac, tmp_path / "without"), embed(atac, replace(model, cells={}))
    )


def test_other_cells_are_not_touched(simulated, model):
    """New ones, and counted ones of which a peak was closed or opened."""
    new = ep.datasets.simulate_multiome(60, 600, 40, n_types=4, rng=7)["atac"]
    edited = simulated["atac"][:60].copy()
    matrix = open_peaks(edited, model)
    flipped = edited.X.tolil()
    for i in range(60):
        name = model.peaks.names[
            int(np.flatnonzero(matrix[i] > 0)[0] if i % 2 else np.flatnonzero(matrix[i] == 0)[0])
        ]
        at = edited.var_names.get_loc(name)
        flipped[i, at] = 1 - (flipped[i, at] > 0)
    edited.X = flipped.tocsr()
    for atac in (new, edited):
        np.testing.assert_array_equal(embed(atac, model), embed(atac, replace(model, cells={})))


def test_they_are_recognized_with_other_names_order_and_further_peaks(simulated, model):
    atac = simulated["atac"]
    found = embed(atac, model)
    order = np.random.default_rng(0).permutation(atac.n_vars)
    rows = np.random.default_rng(1).permutation(400)
    # Each a little wider: the same peaks of the model are open. And one that it does not know
    places = atac.var.iloc[order]
    wider = [
        f"{chrom}:{start - 9}-{end + 9}"
        for chrom, start, end in zip(places["chrom"], places["start"], places["end"], strict=True)
    ]
    matrix = sp.hstack([7 * atac.X[:, order], np.ones((400, 1))]).tocsr()[rows]
    obs = pd.DataFrame(index=[f"cell-{i}" for i in range(400)])
    other = anndata.AnnData(matrix, obs=obs, var=pd.DataFrame(index=[*wider, "chr9:1-90"]))
    np.testing.assert_allclose(embed(other, model), found[rows], atol=1e-5)


def test_all_predictions_are_made_from_that_embedding(simulated, model):
    atac = ep.tl.embed(simulated["atac"], model, copy=True)
    embedding = torch.from_numpy(expected(atac, model))
    np.testing.assert_allclose(
        atac.obsm["epifoundation_expression"],
        model.network.expression.predict(embedding),
        atol=1e-3,
    )
    np.testing.assert_allclose(
        atac.obsm["epifoundation_probabilities"], model.network.label(embedding), atol=1e-3
    )
    ep.tl.annotate(atac, model)
    np.testing.assert_allclose(
        atac.obs["epifoundation_novelty"], model.network.label.score_novelty(embedding), atol=1e-2
    )
    imputed = ep.tl.impute_accessibility(
        atac, model, peaks=model.peaks.names[:4], depth=20, copy=True
    )
    shares = model.network.peaks(embedding).softmax(dim=1)[:, :4].numpy()
    # The calibration keeps their order
    found = imputed.obsm["epifoundation_accessibility"].to_numpy().ravel()
    assert (np.diff(found[np.argsort(shares.ravel())]) > -1e-4).all()
    assert np.corrcoef(found, shares.ravel())[0, 1] > 0.98


def test_cells_of_a_reference_are_left_out_of_its_labels(simulated, plain):
    """When a reference is annotated itself; `plain` is a model of these cells without labels."""
    atac = simulated["atac"]
    tuned = ep.tl.finetune(atac, plain, label_key="cell_type", validation=0.2, rank=None)
    assert set(tuned.cells) == {"encoder", "labels"}
    embedding = torch.from_numpy(expected(atac, tuned))
    np.testing.assert_allclose(embed(atac, tuned), embedding, atol=1e-4)
    annotated = ep.tl.annotate(
        atac, plain, reference=atac, label_key="cell_type", calibration=0.2, copy=True
    )
    np.testing.assert_allclose(
        annotated.obsm["epifoundation_probabilities"], tuned.network.label(embedding), atol=1e-3
    )
    # Of a reference without labels for some, those are new to its labels
    partly = atac.copy()
    partly.obs["cell_type"] = partly.obs["cell_type"].astype(object).where(np.arange(400) % 4 > 0)
    some = ep.tl.finetune(partly, plain, label_key="cell_type")
    assert len(some.cells["labels"]) == 300
    assert len(some.cells["encoder"]) == 400


def test_they_mix_with_new_cells():
    """A random forest can hardly tell them from new cells of the same types."""
    data = ep.datasets.simulate_multiome(800, 600, 40, n_types=4, median_fragments=20, rng=1)
    counted = np.arange(800) < 400
    model = ep.tl.pretrain(data[counted].copy(), config=ep.ModelConfig(dim=16))
    forest = RandomForestClassifier(100, min_samples_leaf=5, random_state=0)
    aware, unaware = (
        roc_auc_score(
            counted,
            cross_val_predict(
                forest, embed(data["atac"], m), counted, cv=4, method="predict_proba"
            )[:, 1],
        )
        for m in (model, replace(model, cells={}))
    )
    assert aware < 0.6
    assert unaware > aware + 0.08


def test_batches_that_are_projected_out_leave_them_recognized():
    data = ep.datasets.simulate_multiome(
        400, 600, 40, n_types=3, batch_effect=1.0, median_fragments=60, rng=4
    )
    model = ep.tl.pretrain(data, config=ep.ModelConfig(dim=16), batch_key="batch")
    assert model.network.sizes.n_removed
    np.testing.assert_allclose(embed(data["atac"], model), expected(data["atac"], model), atol=1e-4)
    plain = ep.tl.pretrain(data, config=ep.ModelConfig(dim=16))
    tuned = ep.tl.finetune(data, plain, batch_key="batch")
    assert tuned.network.sizes.n_removed
    np.testing.assert_allclose(embed(data["atac"], tuned), expected(data["atac"], tuned), atol=1e-4)


def test_cells_that_were_learned_from_are_marked(mdata, model, tmp_path):
    """In memory and by blocks; the label head of a reference knows other cells than the encoder."""
    atac = mdata["atac"]
    hashes = {tuple(row.indices) for row in atac.X}
    new = ep.datasets.simulate_multiome(60, 600, 40, n_types=4, rng=7)["atac"]
    is_new = np.array([tuple(row.indices) not in hashes for row in new.X])
    both = anndata.concat({"old": atac[:50], "new": new[is_new]}, index_unique="-", merge="same")
    is_old = both.obs_names.str.endswith("-old")
    both.write_h5ad(tmp_path / "both.h5ad")
    ep.tl.embed(both, model)
    assert list(both.obs["epifoundation_in_training"]) == list(is_old)
    assert list(both.obs["epifoundation_in_reference"]) == list(is_old)
    ep.tl.annotate(both, model, reference=atac[25:].copy(), label_key="cell_type")
    in_reference = is_old & (np.arange(both.n_obs) >= 25)
    assert list(both.obs["epifoundation_in_training"]) == list(is_old)
    assert list(both.obs["epifoundation_in_reference"]) == list(in_reference)
    out = ep.tl.annotate(
        tmp_path / "both.h5ad",
        model,
        reference=atac[25:].copy(),
        label_key="cell_type",
        output=tmp_path / "out.h5ad",
    )
    found = anndata.read_h5ad(out).obs
    for key in ("epifoundation_in_training", "epifoundation_in_reference"):
        assert found[key].dtype == bool
        assert list(found[key]) == list(both.obs[key])
    without = replace(model, cells={})
    ep.tl.embed(both, without)
    assert not {"epifoundation_in_training", "epifoundation_in_reference"} & set(both.obs)
