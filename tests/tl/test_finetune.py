"""Fine-tuning: what it learns, what it leaves alone, and what bad input gets."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import epifoundation as ep

QUICK = replace(ep.TrainingConfig.preset("finetune"), max_epochs=4)


def simulated_world(batch_effect, rng):
    """Cells of three batches, and a model that has seen next to nothing of them."""
    data = ep.datasets.simulate_multiome(
        900, 600, 40, n_types=6, n_batches=3, median_fragments=40, batch_effect=batch_effect, rng=rng
    )
    model = ep.tl.pretrain(
        data, config=ep.ModelConfig(dim=32), training=ep.TrainingConfig(max_epochs=1, warm_start=False), genome="hg38"
    )
    return data, model


@pytest.fixture(scope="module")
def world():
    """Batches that differ little."""
    return simulated_world(0.3, rng=2)


@pytest.fixture(scope="module")
def shifted():
    """Batches that differ."""
    return simulated_world(0.6, rng=3)


@pytest.fixture(scope="module")
def tuned(world):
    data, model = world
    return ep.tl.finetune(data, model, label_key="cell_type", batch_key="batch", validation=["batch2"], training=QUICK)


def accuracy_of(model, reference, query):
    """Of logistic regression on the embedding, on a batch that nothing has learned from."""
    query = ep.tl.annotate(
        query, model, reference=reference, label_key="cell_type", unknown=0, copy=True, key_added="probe"
    )
    return ep.metrics.accuracy(query.obs["cell_type"].astype(str), query.obs["probe_cell_type"].astype(str))


def test_labels_make_the_embedding_of_another_batch_tell_more(shifted):
    data, model = shifted
    atac = data["atac"]
    is_query = (atac.obs["batch"] == "batch1").to_numpy()
    known, query = data[~is_query].copy(), atac[is_query].copy()
    better = ep.tl.finetune(
        known, model, label_key="cell_type", batch_key="batch", validation=["batch2"], training=QUICK
    )
    before, after = (accuracy_of(m, known["atac"], query) for m in (model, better))
    assert after > before + 0.05
    assert better.training["share"] > 0
    ep.tl.annotate(query, better)
    assert (
        ep.metrics.accuracy(query.obs["cell_type"].astype(str), query.obs["epifoundation_cell_type"].astype(str))
        > before
    )


def test_nothing_is_taken_over_where_nothing_is_gained(world):
    """Labels that have nothing to do with the cells leave the encoder as it was."""
    data, model = world
    atac = data["atac"].copy()
    atac.obs["cell_type"] = np.random.default_rng(0).permutation(atac.obs["cell_type"].to_numpy())
    same = ep.tl.finetune(atac, model, label_key="cell_type", batch_key="batch", validation=["batch2"], training=QUICK)
    assert same.training["share"] == 0
    assert not same.network.sizes.n_removed
    np.testing.assert_allclose(embed(atac, same), embed(atac, model), atol=1e-5)


def embed(atac, model):
    return ep.tl.embed(atac, model, expression=False, annotation=False, copy=True).obsm["X_epifoundation"]


def test_neither_data_nor_model_are_changed(world):
    data, model = world
    before, weights = data.copy(), model.weights
    ep.tl.finetune(data, model, label_key="cell_type", training=replace(QUICK, max_epochs=1))
    assert model.weights == weights
    assert not model.labels
    for name in ("atac", "rna"):
        pd.testing.assert_frame_equal(data[name].obs, before[name].obs)
        assert not data[name].obsm
        assert (data[name].X != before[name].X).nnz == 0


def test_the_same_seed_gives_the_same_model(world):
    data, model = world
    options = {"label_key": "cell_type", "training": replace(QUICK, max_epochs=1)}
    revisions = {ep.tl.finetune(data["atac"], model, rng=seed, **options).revision for seed in (3, 3, 4)}
    assert len(revisions) == 2


def test_what_is_told(world, tuned):
    data, model = world
    told = tuned.training
    assert told["finetuned_from"] == {"model": model.name, "revision": model.revision}
    assert told["batches"] == ["batch0", "batch1"]
    assert told["validation"] == ["batch2"]
    assert told["cells"] + told["validation_cells"] == data.n_obs
    assert told["objective"] == "counts"
    assert told["unlabelled_cells"] == 0
    assert tuned.labels == [f"type{i}" for i in range(6)]
    assert tuned.genes.names == model.genes.names
    assert tuned.network.label.is_calibrated


def measured_and_told(data, model, batch=None):
    """Expression as measured and as predicted, for another batch than a cell's own where `batch` says so."""
    counts = data["rna"].X.toarray()
    if batch is not None:
        data = data.copy()
        data["atac"].obs["told"] = batch
    predicted = ep.tl.embed(data, model, batch_key=None if batch is None else "told", copy=True)
    return np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True)), predicted["rna"].layers["epifoundation"]


def test_expression_is_still_predicted(world, tuned):
    data, _ = world
    known = data[(data["atac"].obs["batch"] != "batch2").to_numpy()].copy()
    assert ep.metrics.pearson_per_gene(*measured_and_told(known, tuned)) > 0.2


def test_expression_is_predicted_for_each_batch(shifted):
    data, model = shifted
    tuned = ep.tl.finetune(data, model, label_key="cell_type", batch_key="batch", validation=["batch2"], training=QUICK)
    known = data[(data["atac"].obs["batch"] != "batch2").to_numpy()].copy()
    own = known["atac"].obs["batch"].astype(str)
    errors = []
    for batch in (own, own.map({"batch0": "batch1", "batch1": "batch0"})):
        measured, predicted = measured_and_told(known, tuned, batch)
        errors.append(np.square(predicted - measured).mean())
    assert errors[0] < 0.985 * errors[1]  # for the cells' own batch it is nearer


@pytest.fixture(scope="module")
def batched(world):
    """A model that knows two of the batches."""
    data, _ = world
    return ep.tl.pretrain(
        data[data["atac"].obs["batch"] != "batch2"].copy(),
        config=ep.ModelConfig(dim=16),
        training=ep.TrainingConfig(max_epochs=3),
        batch_key="batch",
    )


def test_going_all_the_way_back_keeps_the_mean_batch_of_a_model_with_batches(world, batched, monkeypatch):
    from epifoundation.tl import _finetune

    monkeypatch.setattr(_finetune, "SHARES", (0.0,))
    data, _ = world
    tuned = ep.tl.finetune(data["atac"], batched, label_key="cell_type", training=replace(QUICK, max_epochs=1))
    assert tuned.training["share"] == 0
    before, after = (
        ep.tl.embed(data["atac"], m, annotation=False, copy=True).obsm["epifoundation_expression"]
        for m in (batched, tuned)
    )
    pd.testing.assert_frame_equal(after, before, atol=1e-4)


def test_many_batches_are_learned_and_come_back(world, tmp_path):
    """Their table is larger than what is learned in full otherwise, and begins with zeros."""
    data, _ = world
    atac = data["atac"].copy()
    atac.obs["many"] = np.arange(atac.n_obs) % 100
    wide = ep.tl.pretrain(
        data["atac"],
        objective="peaks",
        config=ep.ModelConfig(dim=704, n_heads=2, n_layers=0),
        training=ep.TrainingConfig(max_epochs=1, batch_size=256),
    )
    tuned = ep.tl.finetune(atac, wide, batch_key="many", training=replace(QUICK, max_epochs=1, batch_size=256))
    assert (tuned.network.peaks.batch != 0).any()
    tuned.save_adapter(tmp_path / "many")
    assert ep.models.from_pretrained(tmp_path / "many", base=wide).weights == tuned.weights


def test_the_callers_random_state_is_left_alone(world):
    data, model = world
    before = torch.random.get_rng_state()
    ep.tl.finetune(data["atac"], model, label_key="cell_type", batch_key="batch", training=replace(QUICK, max_epochs=1))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("rank", [4, None])
def test_cells_without_a_label_are_counted_and_do_not_matter_to_the_head(world, rank):
    data, model = world
    atac = data["atac"].copy()
    labels = atac.obs["cell_type"].astype(str).astype(object)
    labels[np.random.default_rng(0).random(len(labels)) < 0.6] = np.nan
    atac.obs["partly"] = labels
    tuned = ep.tl.finetune(atac, model, label_key="partly", training=QUICK, rank=rank)
    assert tuned.training["unlabelled_cells"] == labels.isna().sum()
    assert tuned.labels == sorted(labels.dropna().unique())
    assert (tuned.adapter is None) == (rank is None)
    marked = ep.tl.annotate(atac, tuned, unknown=0, copy=True).obs
    right = marked["cell_type"].astype(str) == marked["epifoundation_cell_type"].astype(str)
    assert right[labels.isna()].mean() > 0.5


def test_batches_alone(world):
    data, model = world
    tuned = ep.tl.finetune(data, model, batch_key="batch", training=replace(QUICK, max_epochs=2))
    assert not tuned.labels
    assert tuned.network.expression.batch.shape == (3, 40)
    assert tuned.network.peaks.batch is None  # it is expression that tells what a batch changes
    alone = ep.tl.finetune(data["atac"], model, batch_key="batch", training=replace(QUICK, max_epochs=2))
    assert alone.network.peaks.batch.shape == (3, 32)
    assert (alone.network.peaks.batch != 0).any()


def test_an_adversary_makes_batches_harder_to_tell():
    from sklearn.linear_model import LogisticRegression

    atac = ep.datasets.simulate_multiome(800, 400, 20, n_types=3, batch_effect=0.6, median_fragments=80, rng=4)["atac"]
    model = ep.tl.pretrain(
        atac, objective="peaks", config=ep.ModelConfig(dim=16), training=ep.TrainingConfig(max_epochs=3)
    )
    told = []
    for weight in (0.0, 2.0):
        training = replace(QUICK, max_epochs=30, adversarial=weight, patience=100)
        tuned = ep.tl.finetune(atac, model, batch_key="batch", training=training, rank=None)
        assert len(tuned.training["history"]) == 30
        # before what is linear is taken out, which would hide it
        tuned.network.encoder.norm.n_removed = 0
        z, batch = embed(atac, tuned), atac.obs["batch"].cat.codes.to_numpy()
        half = np.arange(len(z)) % 2 == 0
        told.append(LogisticRegression(max_iter=1000).fit(z[half], batch[half]).score(z[~half], batch[~half]))
    assert told[1] < told[0] - 0.02


@pytest.mark.parametrize(
    "config", [{"encoder": "transformer", "decoder": "query"}, {"encoder": "transformer"}, {"n_heads": 2, "n_seeds": 2}]
)
def test_every_architecture_can_be_tuned(world, config):
    data = world[0][::3].copy()
    objective = "binary" if "decoder" in config else "counts"
    model = ep.tl.pretrain(
        data,
        config=ep.ModelConfig(dim=16, n_layers=1, **config),
        objective=objective,
        training=ep.TrainingConfig(max_epochs=1),
    )
    for given in (data, data["atac"]):
        tuned = ep.tl.finetune(
            given, model, label_key="cell_type", batch_key="batch", training=replace(QUICK, max_epochs=1)
        )
        ep.tl.annotate(data["atac"].copy(), tuned)


def test_a_model_that_predicts_no_peaks_learns_from_few_labels_and_not_from_batches_alone(world):
    data = world[0][::3].copy()
    model = ep.tl.pretrain(
        data,
        config=ep.ModelConfig(encoder="transformer", decoder="query", dim=16, n_layers=1),
        objective="binary",
        training=ep.TrainingConfig(max_epochs=1),
    )
    atac = data["atac"].copy()
    atac.obs["few"] = atac.obs["cell_type"].astype(object).where(np.arange(atac.n_obs) % 15 == 0)
    tuned = ep.tl.finetune(
        atac, model, label_key="few", validation=0.4, training=replace(QUICK, max_epochs=1, batch_size=4)
    )
    assert tuned.training["unlabelled_cells"] == atac.obs["few"].isna().sum()
    with pytest.raises(ValueError, match="has no head for held-out peaks"):
        ep.tl.finetune(atac, model, batch_key="batch")


def test_an_adversary_needs_batches_to_tell_apart(world):
    data, model = world
    training = replace(QUICK, adversarial=1.0)
    for options in ({"label_key": "cell_type"}, {"batch_key": "batch", "validation": ["batch1", "batch2"]}):
        with pytest.raises(ValueError, match=r"An adversary \(`adversarial=1.0`\) tells batches apart"):
            ep.tl.finetune(data["atac"], model, training=training, **options)


def test_other_peaks_are_mapped(world):
    data, model = world
    atac = data["atac"][:, :400].copy()
    atac.var_names = [name.replace(":", "_").replace("-", "_") for name in atac.var_names]
    atac.var = atac.var[[]]
    tuned = ep.tl.finetune(atac, model, label_key="cell_type", training=replace(QUICK, max_epochs=1))
    assert len(tuned.peaks) == len(model.peaks)


def test_an_interruption_ends_with_the_best_so_far(world, monkeypatch):
    from epifoundation.training import KeepBest

    data, model = world
    original = KeepBest.on_train_epoch_end

    def interrupt(self, trainer, module):
        original(self, trainer, module)
        raise KeyboardInterrupt

    monkeypatch.setattr(KeepBest, "on_train_epoch_end", interrupt)
    with pytest.warns(RuntimeWarning, match="interrupted after 1 epoch"):
        tuned = ep.tl.finetune(data["atac"], model, label_key="cell_type", training=QUICK)
    assert tuned.training["interrupted"]
    assert tuned.labels


def with_column(data, values):
    atac = data["atac"].copy()
    atac.obs["column"] = values
    return atac


def test_bad_input(world):
    data, model = world
    n = data.n_obs
    kinds = np.array(["a", "b"])[np.arange(n) % 2]
    one_cell = np.where(np.arange(n) == 0, "rare", kinds)
    for options, error, message in [
        ({}, ValueError, "pass `label_key=`, `batch_key=` or both"),
        ({"label_key": "nowhere"}, ValueError, "no column"),
        ({"label_key": "column", "column": ["a"] * n}, ValueError, "two labels or more"),
        ({"label_key": "column", "column": [np.nan] * n}, ValueError, "two labels or more"),
        ({"batch_key": "column", "column": ["a"] * n}, ValueError, "holds one batch"),
        ({"batch_key": "batch", "validation": ["batch9"]}, ValueError, "batch9"),
        ({"label_key": "cell_type", "rank": 0}, ValueError, "`rank` must be an integer of at least 1"),
        ({"label_key": "cell_type", "training": "nothing"}, ValueError, "Unknown preset"),
        ({"label_key": "cell_type", "genome": "mm10"}, ValueError, "mm10"),
        (
            {"label_key": "column", "batch_key": "batch", "column": [None if i % 2 else "a" for i in range(n)]},
            ValueError,
            "two labels or more",
        ),
    ]:
        atac = with_column(data, options.pop("column", kinds))
        with pytest.raises(error, match=message):
            ep.tl.finetune(atac, model, **options)
    tuned = ep.tl.finetune(
        with_column(data, one_cell), model, label_key="column", training=replace(QUICK, max_epochs=1)
    )
    assert {"a", "b"} <= set(tuned.labels) <= {"a", "b", "rare"}
    with pytest.warns(UserWarning, match="holds one batch"):
        ep.tl.finetune(
            with_column(data, ["a"] * n),
            model,
            label_key="cell_type",
            batch_key="column",
            training=replace(QUICK, max_epochs=1),
        )


def test_a_batch_that_the_model_never_saw_gets_the_mean_batch_and_is_named(world, tuned):
    data, _ = world
    atac = data["atac"][:60].copy()
    atac.obs["batch"] = ["batch0", "batch1", "new"] * 20
    mean = ep.tl.embed(atac, tuned, annotation=False, copy=True).obsm["epifoundation_expression"]
    known = ep.tl.embed(atac[atac.obs["batch"] != "new"].copy(), tuned, annotation=False, batch_key="batch", copy=True)
    with pytest.warns(UserWarning, match=r"20 of 60 cells are of no batch that the model was trained on .*\['new'\]"):
        ep.tl.embed(atac, tuned, annotation=False, batch_key="batch")
    found = atac.obsm["epifoundation_expression"]
    is_new = (atac.obs["batch"] == "new").to_numpy()
    pd.testing.assert_frame_equal(found[is_new], mean[is_new], atol=1e-5)
    pd.testing.assert_frame_equal(found[~is_new], known.obsm["epifoundation_expression"], atol=1e-5)
    assert atac.uns["epifoundation"]["parameters"]["unseen_batches"] == ["new"]
