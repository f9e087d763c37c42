"""Fine-tuning: what it learns, what it leaves as it was, and what bad input gets."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

import epifoundation as ep

SMALL = ep.ModelConfig(encoder="transformer", dim=16, n_heads=2, n_layers=1)
QUICK = replace(ep.TrainingConfig.preset("finetune"), max_epochs=1, batch_size=128)
ENCODERS = pytest.mark.parametrize("encoder", ["set", "transformer"])


def simulated_world(batch_effect, rng):
    """Cells of three batches, and a model of them without labels and batches."""
    data = ep.datasets.simulate_multiome(
        900,
        600,
        40,
        n_types=6,
        n_batches=3,
        median_fragments=40,
        batch_effect=batch_effect,
        rng=rng,
    )
    return data, ep.tl.pretrain(data, config=ep.ModelConfig(dim=32), genome="hg38")


@pytest.fixture(scope="module")
def world():
    """Batches that differ little."""
    return simulated_world(0.3, rng=2)


@pytest.fixture(scope="module")
def transformer(world):
    """A transformer that has hardly been trained."""
    training = ep.TrainingConfig(max_epochs=1, batch_size=128, warm_start=False)
    return ep.tl.pretrain(world[0], config=SMALL, training=training, genome="hg38")


@pytest.fixture(scope="module")
def tuned(world):
    data, model = world
    return ep.tl.finetune(
        data, model, label_key="cell_type", batch_key="batch", validation=["batch2"]
    )


def options_of(encoder, model, transformer):
    """A model with this encoder, and options with which it is tuned quickly."""
    return (model, {}) if encoder == "set" else (transformer, {"training": QUICK})


def embed(atac, model):
    return ep.tl.embed(atac, model, expression=False, annotation=False, copy=True).obsm[
        "X_epifoundation"
    ]


def test_labels_improve_the_embedding_of_another_batch():
    """A model of the ATAC of one batch gets the labels of another batch; judged on a third."""
    atac = ep.datasets.simulate_multiome(
        900, 600, 40, n_types=6, n_batches=3, median_fragments=15, rng=1
    )["atac"]
    first, known, query = (atac[atac.obs["batch"] == f"batch{i}"].copy() for i in range(3))
    model = ep.tl.pretrain(first, objective="peaks", config=ep.ModelConfig(dim=16), genome="hg38")
    better = ep.tl.finetune(known, model, label_key="cell_type")
    before, after = (
        KNeighborsClassifier(15)
        .fit(embed(known, m), known.obs["cell_type"])
        .score(embed(query, m), query.obs["cell_type"])
        for m in (model, better)
    )
    assert after > before + 0.05
    ep.tl.annotate(query, better, unknown=0)
    true, found = (query.obs[name].astype(str) for name in ("cell_type", "epifoundation_cell_type"))
    assert ep.metrics.accuracy(true, found) > before


def test_columns_of_clusters_stay_as_they_were(world):
    """Labels are further columns, which are flat if labels have nothing to do with the cells."""
    data, model = world
    atac = data["atac"].copy()
    atac.obs["cell_type"] = np.random.default_rng(0).permutation(atac.obs["cell_type"].to_numpy())
    same = ep.tl.finetune(atac, model, label_key="cell_type")
    embedding = embed(atac, same)
    np.testing.assert_allclose(embedding[:, :32], embed(atac, model), atol=1e-6)
    shares = atac.obs["cell_type"].value_counts(normalize=True).sort_index()
    assert np.abs(embedding[:, 32:] - shares.to_numpy()).mean() < 0.05


def test_labels_are_measured_as_in_pretraining(world):
    """The vectors for labels are those of a model that had the labels from the beginning."""
    data, model = world
    later = ep.tl.finetune(data, model, label_key="cell_type", rank=None)
    at_once = ep.tl.pretrain(
        data, config=ep.ModelConfig(dim=32), label_key="cell_type", genome="hg38"
    )
    assert later.labels == at_once.labels
    for name in ("weight", "count", "base"):
        one, other = (getattr(m.network.label_columns.vectors, name) for m in (later, at_once))
        assert torch.equal(one, other)
    # Landmarks of the readout are drawn again
    assert np.abs(embed(data["atac"], later) - embed(data["atac"], at_once)).mean() < 0.02


def test_a_transformer_keeps_its_weights_where_nothing_is_gained(world, transformer):
    """Labels that have nothing to do with the cells leave the encoder as it was."""
    atac = world[0]["atac"].copy()
    atac.obs["cell_type"] = np.random.default_rng(0).permutation(atac.obs["cell_type"].to_numpy())
    same = ep.tl.finetune(
        atac,
        transformer,
        label_key="cell_type",
        batch_key="batch",
        validation=["batch2"],
        training=QUICK,
    )
    assert same.training["share"] == 0
    assert not same.network.sizes.n_removed
    np.testing.assert_allclose(embed(atac, same), embed(atac, transformer), atol=1e-5)


@ENCODERS
def test_neither_data_nor_model_are_changed(world, transformer, encoder):
    data = world[0]
    model, options = options_of(encoder, world[1], transformer)
    before, weights = data.copy(), model.weights
    cells = model.cell_bytes
    ep.tl.finetune(data, model, label_key="cell_type", batch_key="batch", **options)
    assert model.weights == weights
    assert model.cell_bytes == cells
    assert not model.labels
    for name in ("atac", "rna"):
        pd.testing.assert_frame_equal(data[name].obs, before[name].obs)
        assert not data[name].obsm
        assert (data[name].X != before[name].X).nnz == 0


@ENCODERS
def test_the_same_seed_gives_the_same_model(world, transformer, encoder):
    model, options = options_of(encoder, world[1], transformer)
    atac = world[0]["atac"]
    revisions = {
        ep.tl.finetune(atac, model, label_key="cell_type", rng=seed, **options).revision
        for seed in (3, 3, 4)
    }
    assert len(revisions) == 2


def test_what_is_said_of_it(world, tuned):
    data, model = world
    report = tuned.training
    assert report["finetuned_from"] == {"model": model.name, "revision": model.revision}
    assert report["batches"] == ["batch0", "batch1", "batch2"]  # those of validation cells, too
    assert report["validation"] == ["batch2"]
    assert report["cells"] + report["validation_cells"] == data.n_obs
    assert report["objective"] == "counts"
    assert report["unlabelled_cells"] == 0
    assert "history" not in report
    assert tuned.labels == [f"type{i}" for i in range(6)]
    assert tuned.network.dim == 32 + 6
    assert tuned.genes.names == model.genes.names
    assert tuned.network.label.is_calibrated
    assert len(tuned.cells["labels"]) == len(tuned.cells["encoder"]) == data.n_obs


def measured_and_predicted(data, model, batch=None):
    """Expression as measured and as predicted, for the batch that `batch` gives each cell."""
    counts = data["rna"].X.toarray()
    if batch is not None:
        data = data.copy()
        data["atac"].obs["stated"] = batch
    predicted = ep.tl.embed(data, model, batch_key=None if batch is None else "stated", copy=True)
    return np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True)), predicted["rna"].layers[
        "epifoundation"
    ]


def test_expression_is_still_predicted(world, tuned):
    data, _ = world
    known = data[(data["atac"].obs["batch"] != "batch2").to_numpy()].copy()
    assert ep.metrics.pearson_per_gene(*measured_and_predicted(known, tuned)) > 0.2


def test_expression_is_predicted_for_each_batch():
    data, model = simulated_world(0.6, rng=3)
    tuned = ep.tl.finetune(
        data, model, label_key="cell_type", batch_key="batch", validation=["batch2"]
    )
    known = data[(data["atac"].obs["batch"] != "batch2").to_numpy()].copy()
    own = known["atac"].obs["batch"].astype(str)
    errors = []
    for batch in (own, own.map({"batch0": "batch1", "batch1": "batch0"})):
        measured, predicted = measured_and_predicted(known, tuned, batch)
        errors.append(np.square(predicted - measured).mean())
    assert errors[0] < 0.985 * errors[1]  # for the cells' batch it is nearer


@pytest.fixture(scope="module")
def batched(world):
    """A transformer that knows two of the batches."""
    data, _ = world
    return ep.tl.pretrain(
        data[data["atac"].obs["batch"] != "batch2"].copy(),
        config=SMALL,
        training=ep.TrainingConfig(max_epochs=2, batch_size=128),
        batch_key="batch",
    )


def test_going_all_the_way_back_keeps_the_mean_batch_of_a_model_with_batches(
    world, batched, monkeypatch
):
    from epifoundation.paper import train

    monkeypatch.setattr(train, "SHARES", (0.0,))
    data, _ = world
    tuned = ep.tl.finetune(data["atac"], batched, label_key="cell_type", training=QUICK)
    assert tuned.training["share"] == 0
    before, after = (
        ep.tl.embed(data["atac"], m, annotation=False, copy=True).obsm["epifoundation_expression"]
        for m in (batched, tuned)
    )
    pd.testing.assert_frame_equal(after, before, atol=1e-4)


def test_many_batches_are_learned_and_come_back(world, tmp_path):
    """Their table is larger than what is learned in full otherwise, and begins with zeros."""
    atac = world[0]["atac"].copy()
    atac.obs["many"] = np.arange(atac.n_obs) % 450
    wide = ep.tl.pretrain(
        atac,
        objective="peaks",
        config=replace(SMALL, dim=160, feedforward=16),
        training=ep.TrainingConfig(max_epochs=1, batch_size=256),
    )
    tuned = ep.tl.finetune(atac, wide, batch_key="many", training=replace(QUICK, batch_size=256))
    assert tuned.network.peaks.batch.numel() > 65_536
    assert (tuned.network.peaks.batch != 0).any()
    tuned.save_adapter(tmp_path / "many")
    assert ep.models.from_pretrained(tmp_path / "many", base=wide).weights == tuned.weights


@ENCODERS
def test_the_callers_random_state_is_left_alone(world, transformer, encoder):
    model, options = options_of(encoder, world[1], transformer)
    before = torch.random.get_rng_state()
    ep.tl.finetune(world[0]["atac"], model, label_key="cell_type", batch_key="batch", **options)
    assert torch.equal(torch.random.get_rng_state(), before)


@ENCODERS
@pytest.mark.parametrize("rank", [8, None])
def test_cells_without_a_label_are_counted_and_do_not_matter_to_the_head(
    world, transformer, rank, encoder
):
    model, options = options_of(encoder, world[1], transformer)
    atac = world[0]["atac"].copy()
    labels = atac.obs["cell_type"].astype(str).astype(object)
    labels[np.random.default_rng(0).random(len(labels)) < 0.6] = np.nan
    atac.obs["partly"] = labels
    tuned = ep.tl.finetune(atac, model, label_key="partly", rank=rank, **options)
    assert tuned.training["unlabelled_cells"] == labels.isna().sum()
    assert tuned.labels == sorted(labels.dropna().unique())
    assert (tuned.adapter is None) == (rank is None)
    marked = ep.tl.annotate(atac, tuned, unknown=0, copy=True).obs
    right = marked["cell_type"].astype(str) == marked["epifoundation_cell_type"].astype(str)
    assert right[labels.isna()].mean() > (0.8 if encoder == "set" else 0.3)  # by chance 1 in 6


def test_batches_alone(world, transformer):
    data, model = world
    tuned = ep.tl.finetune(data, model, batch_key="batch")
    assert not tuned.labels
    assert tuned.network.expression.batch.shape == (3, 40)
    assert tuned.training["batches"] == ["batch0", "batch1", "batch2"]
    alone = ep.tl.finetune(data["atac"], model, batch_key="batch")
    assert torch.equal(
        alone.network.expression.linear.weight, model.network.expression.linear.weight
    )
    by_gradient = ep.tl.finetune(data, transformer, batch_key="batch", training=QUICK)
    assert by_gradient.network.expression.batch.shape == (3, 40)
    assert by_gradient.network.peaks.batch is None  # expression says what a batch changes
    alone = ep.tl.finetune(data["atac"], transformer, batch_key="batch", training=QUICK)
    assert alone.network.peaks.batch.shape == (3, 16)
    assert (alone.network.peaks.batch != 0).any()


def test_batches_that_lie_apart_come_together():
    """Of a model that was pretrained on one batch and does not know that there are others."""
    from sklearn.linear_model import LogisticRegression

    data = ep.datasets.simulate_multiome(
        900, 600, 40, n_types=3, batch_effect=1.0, median_fragments=60, rng=4
    )
    atac = data["atac"]
    batch = (atac.obs["batch"] == "batch0").to_numpy()
    model = ep.tl.pretrain(data, config=ep.ModelConfig(dim=32), genome="hg38")
    tuned = ep.tl.finetune(atac, model, batch_key="batch", label_key="cell_type")
    assert tuned.network.sizes.n_removed
    half = np.arange(len(batch)) % 2 == 0
    before, after = (
        LogisticRegression(max_iter=1000).fit(z[half], batch[half]).score(z[~half], batch[~half])
        for z in (embed(atac, model), embed(atac, tuned)[:, :32])
    )
    assert after < before - 0.1


@pytest.mark.parametrize(
    ("config", "objective"),
    [
        (ep.ModelConfig(dim=16), "counts"),
        (ep.ModelConfig(dim=16), "binary"),
        (ep.ModelConfig(dim=16), "gaussian"),
        (SMALL, "counts"),
        (replace(SMALL, decoder="query"), "binary"),
    ],
    ids=["counts", "binary", "gaussian", "transformer", "paper"],
)
def test_every_architecture_can_be_tuned(world, config, objective):
    data = world[0][::3].copy()
    options = {} if config.is_measured else {"training": ep.TrainingConfig(max_epochs=1)}
    model = ep.tl.pretrain(data, config=config, objective=objective, **options)
    options = {} if config.is_measured else {"training": QUICK}
    for given in (data, data["atac"]):
        tuned = ep.tl.finetune(given, model, label_key="cell_type", batch_key="batch", **options)
        atac = ep.tl.annotate(data["atac"], tuned, copy=True)
        assert np.isfinite(atac.obsm["epifoundation_probabilities"]).all(axis=None)


def test_a_model_that_predicts_no_peaks_learns_from_few_labels_and_not_from_batches_alone(world):
    data = world[0][::3].copy()
    model = ep.tl.pretrain(
        data,
        config=replace(SMALL, decoder="query"),
        objective="binary",
        training=ep.TrainingConfig(max_epochs=1),
    )
    atac = data["atac"].copy()
    atac.obs["few"] = atac.obs["cell_type"].astype(object).where(np.arange(atac.n_obs) % 15 == 0)
    tuned = ep.tl.finetune(
        atac, model, label_key="few", validation=0.4, training=replace(QUICK, batch_size=4)
    )
    assert tuned.training["unlabelled_cells"] == atac.obs["few"].isna().sum()
    with pytest.raises(ValueError, match="has no head for held-out peaks"):
        ep.tl.finetune(atac, model, batch_key="batch")


@ENCODERS
def test_other_peaks_are_mapped(world, transformer, encoder):
    model, options = options_of(encoder, world[1], transformer)
    atac = world[0]["atac"][:, :400].copy()
    atac.var_names = [name.replace(":", "_").replace("-", "_") for name in atac.var_names]
    atac.var = atac.var[[]]
    tuned = ep.tl.finetune(atac, model, label_key="cell_type", **options)
    assert len(tuned.peaks) == len(model.peaks)


def test_an_interruption_ends_with_the_best_so_far(world, transformer, monkeypatch):
    from epifoundation.paper.callbacks import KeepBest

    original = KeepBest.on_train_epoch_end

    def interrupt(self, trainer, module):
        original(self, trainer, module)
        raise KeyboardInterrupt

    monkeypatch.setattr(KeepBest, "on_train_epoch_end", interrupt)
    training = replace(QUICK, max_epochs=4)
    with pytest.warns(RuntimeWarning, match="interrupted after 1 epoch"):
        tuned = ep.tl.finetune(
            world[0]["atac"], transformer, label_key="cell_type", training=training
        )
    assert tuned.training["interrupted"]
    assert tuned.labels


def with_column(data, values):
    atac = data["atac"].copy()
    atac.obs["column"] = values
    return atac


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "pass `label_key=`, `batch_key=` or both"),
        ({"label_key": "nowhere"}, "not a column"),
        ({"label_key": "column", "column": ["a"]}, "two labels or more"),
        ({"label_key": "column", "column": [np.nan]}, "two labels or more"),
        ({"batch_key": "column", "column": ["a"]}, "has a single batch"),
        ({"batch_key": "batch", "validation": ["batch9"]}, "batch9"),
        ({"label_key": "cell_type", "rank": 0}, "`rank` must be an integer of at least 1"),
        ({"label_key": "cell_type", "rank": 4}, "`rank=4` does not apply to a set encoder"),
        ({"label_key": "cell_type", "training": "nothing"}, "Unknown preset"),
        (
            {"label_key": "cell_type", "training": QUICK},
            "does not apply to the encoder 'set': it is fitted",
        ),
        (
            {"label_key": "cell_type", "engine": ep.Engine(compile=True)},
            r"`Engine\(compile=True\)` does not apply",
        ),
        ({"label_key": "cell_type", "mapping": ep.PeakMapping(genome="mm10")}, "mm10"),
        (
            {"label_key": "column", "batch_key": "batch", "column": [None, "a"]},
            "two labels or more",
        ),
    ],
)
def test_bad_input(world, options, message):
    data, model = world
    column = options.get("column", ["a", "b"])
    atac = with_column(data, [column[i % len(column)] for i in range(data.n_obs)])
    with pytest.raises(ValueError, match=message):
        ep.tl.finetune(
            atac, model, **{name: value for name, value in options.items() if name != "column"}
        )


def test_options_of_the_set_encoder_are_refused_for_a_transformer(world, transformer):
    training = replace(QUICK, pseudocount=9.0)
    with pytest.raises(ValueError, match="`pseudocount=9.0` does not apply to .*'transformer'"):
        ep.tl.finetune(world[0]["atac"], transformer, label_key="cell_type", training=training)


def test_a_label_of_one_cell_and_a_batch_without_others(world):
    data, model = world
    kinds = np.array(["a", "b"])[np.arange(data.n_obs) % 2].astype(object)
    one_cell = np.where(np.arange(data.n_obs) == 0, "rare", kinds)
    tuned = ep.tl.finetune(with_column(data, one_cell), model, label_key="column")
    assert {"a", "b"} <= set(tuned.labels) <= {"a", "b", "rare"}
    with pytest.warns(UserWarning, match="has a single batch"):
        ep.tl.finetune(
            with_column(data, ["a"] * data.n_obs), model, label_key="cell_type", batch_key="column"
        )


def test_a_batch_that_the_model_never_saw_gets_the_mean_batch_and_is_named(world, tuned):
    data, _ = world
    atac = data["atac"][:60].copy()
    atac.obs["batch"] = ["batch0", "batch1", "new"] * 20
    mean = ep.tl.embed(atac, tuned, annotation=False, copy=True).obsm["epifoundation_expression"]
    known = ep.tl.embed(
        atac[atac.obs["batch"] != "new"].copy(),
        tuned,
        annotation=False,
        batch_key="batch",
        copy=True,
    )
    with pytest.warns(
        UserWarning,
        match=r"20 of 60 cells are from batches that the model was not trained on .*\['new'\]",
    ):
        ep.tl.embed(atac, tuned, annotation=False, batch_key="batch")
    found = atac.obsm["epifoundation_expression"]
    is_new = (atac.obs["batch"] == "new").to_numpy()
    pd.testing.assert_frame_equal(found[is_new], mean[is_new], atol=1e-5)
    pd.testing.assert_frame_equal(found[~is_new], known.obsm["epifoundation_expression"], atol=1e-5)
    assert atac.uns["epifoundation"]["parameters"]["unseen_batches"] == ["new"]


def test_offsets_of_expression_keep_the_names_of_their_batches(simulated, model):
    """Batches of ATAC alone are projected out; expression is predicted for those of the RNA."""
    atac = simulated["atac"].copy()
    atac.obs["donor"] = np.array(["x", "y", "z"])[np.arange(atac.n_obs) % 3]
    tuned = ep.tl.finetune(atac, model, batch_key="donor")
    assert tuned.network.sizes.n_batches == 2
    assert tuned.training["batches"] == ["batch0", "batch1"]
    mdata = simulated.copy()
    mdata["atac"].obs["donor"] = atac.obs["donor"]
    assert ep.tl.finetune(mdata, model, batch_key="donor").training["batches"] == ["x", "y", "z"]
