"""Every tool with the paper's encoder."""

import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

import epifoundation as ep

KEY = "X_epifoundation"
SMALL = ep.ModelConfig(encoder="transformer", dim=16, n_heads=2, n_layers=2, feedforward=32)


def quickly(**options):
    return ep.TrainingConfig(max_epochs=1, batch_size=64, **options)


@pytest.fixture(scope="module")
def transformer(simulated):
    return ep.tl.pretrain(
        simulated,
        config=replace(SMALL, decoder="query", objective="binary"),
        training=quickly(balanced_genes=40, n_neighbors=1),
        batch_key="batch",
        label_key="cell_type",
        genome="hg38",
    )


@pytest.mark.parametrize("objective", ["counts", "binary", "gaussian"])
@pytest.mark.parametrize("decoder", ["linear", "query"])
def test_every_objective_and_decoder_is_trained_embedded_saved_and_gone_on_from(
    mdata, objective, decoder, tmp_path
):
    model = ep.tl.pretrain(
        mdata,
        config=replace(SMALL, decoder=decoder),
        objective=objective,
        training=quickly(),
        batch_key="batch",
    )
    ep.tl.embed(mdata, model)
    assert np.isfinite(mdata["atac"].obsm[KEY]).all()
    assert np.isfinite(mdata["rna"].layers["epifoundation"]).all()
    again = ep.models.from_pretrained(model.save_pretrained(tmp_path / "model"))
    before = mdata["atac"].obsm[KEY].copy()
    ep.tl.embed(mdata, again)
    np.testing.assert_array_equal(mdata["atac"].obsm[KEY], before)
    more = ep.tl.pretrain(mdata, init=again, training=quickly(lr=1e-9))
    ep.tl.embed(mdata, more)
    # The running statistics of the batch normalisation move a little.
    cosine = (mdata["atac"].obsm[KEY] * before).sum(1) / np.linalg.norm(before, axis=1) ** 2
    assert cosine.min() > 0.9


def test_atac_alone_is_enough(simulated):
    model = ep.tl.pretrain(
        simulated["atac"],
        config=SMALL,
        objective="peaks",
        training=quickly(),
        label_key="cell_type",
    )
    atac = simulated["atac"].copy()
    ep.tl.embed(atac, model)
    assert set(atac.obs["epifoundation_cell_type"]) <= {"type0", "type1", "type2", "type3"}


def test_chromosomes_of_peaks_and_genes_are_those_of_the_data(simulated, transformer):
    network = transformer.network
    of_peaks, of_genes = (
        network.encoder.tokens.chromosome_of,
        network.expression.genes.chromosome_of,
    )
    names = sorted(simulated["atac"].var["chrom"].unique())
    assert network.sizes.n_chromosomes == len(names)
    assert of_peaks[:-1].tolist() == [
        2 + names.index(chrom) for chrom in transformer.peaks.intervals["chrom"]
    ]
    assert of_genes.tolist() == [2 + names.index(chrom) for chrom in simulated["rna"].var["chrom"]]
    assert of_peaks[-1] == 1


def test_chromosomes_of_genes_come_from_10x_intervals_or_stay_unknown(simulated):
    rna = simulated["rna"]
    for column, expected in (("interval", [2, 2]), (None, [0, 0])):
        mdata = simulated.copy()
        mdata["rna"].var = rna.var[[]]
        if column:
            mdata["rna"].var[column] = [
                f"chr1:{i}-{i + 1}" if i else np.nan for i in range(rna.n_vars)
            ]
        model = ep.tl.pretrain(mdata, config=replace(SMALL, decoder="query"), training=quickly())
        of_genes = model.network.expression.genes.chromosome_of
        assert of_genes[1:3].tolist() == expected
        assert of_genes[0] == 0


@pytest.mark.parametrize("batch_size", [1, 7, 400])
def test_results_do_not_depend_on_the_batch_size(simulated, transformer, batch_size):
    expected = ep.tl.embed(simulated, transformer, copy=True)
    found = ep.tl.embed(simulated, transformer, copy=True, batch_size=batch_size)
    np.testing.assert_allclose(
        found["atac"].obsm[KEY], expected["atac"].obsm[KEY], atol=1e-5, rtol=0
    )
    np.testing.assert_allclose(
        found["rna"].layers["epifoundation"],
        expected["rna"].layers["epifoundation"],
        atol=1e-5,
        rtol=0,
    )


@pytest.mark.parametrize("name", ["set", "transformer"])
def test_bfloat16_gives_float32_results_that_point_the_same_way(
    simulated, model, transformer, name
):
    model = model if name == "set" else transformer
    exact = ep.tl.embed(simulated, model, copy=True)["atac"].obsm[KEY]
    rough = ep.tl.embed(simulated, model, copy=True, dtype="bfloat16")["atac"]
    assert rough.obsm[KEY].dtype == np.float32
    assert rough.uns["epifoundation"]["parameters"]["dtype"] == "bfloat16"
    cosine = (
        (exact * rough.obsm[KEY]).sum(1)
        / np.linalg.norm(exact, axis=1)
        / np.linalg.norm(rough.obsm[KEY], axis=1)
    )
    assert cosine.min() > 0.999
    with pytest.raises(
        ValueError, match=r"`dtype` must be one of \['auto', 'float32', 'bfloat16'\], got 'float16'"
    ):
        ep.tl.embed(simulated, model, dtype="float16")


def test_deep_cells_are_counted_in_a_warning_and_read_the_same_each_time(simulated, transformer):
    limited = ep.EpiFoundation(
        transformer.network, transformer.peaks, transformer.genes, transformer.labels
    )
    network = type(transformer.network)(
        replace(transformer.config, max_peaks=30), transformer.network.sizes
    )
    network.load_state_dict(transformer.network.state_dict())
    limited = ep.EpiFoundation(network, transformer.peaks, transformer.genes, transformer.labels)
    deep = int(((simulated["atac"].X > 0).sum(axis=1) > 30).sum())
    assert 0 < deep < 400
    with pytest.warns(
        UserWarning,
        match=f"{deep} of 400 cells have more than the 30 open peaks that the model reads",
    ):
        first = ep.tl.embed(simulated, limited, copy=True)
    assert first["atac"].uns["epifoundation"]["peaks"]["cells_above_limit"] == deep
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        second = ep.tl.embed(simulated[::-1].copy(), limited, copy=True, batch_size=3)
    np.testing.assert_allclose(
        second["atac"].obsm[KEY][::-1], first["atac"].obsm[KEY], atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("name", ["set", "transformer"])
def test_expression_can_be_predicted_for_the_batch_of_each_cell(
    simulated, model, transformer, name
):
    model = model if name == "set" else transformer
    plain = ep.tl.embed(simulated, model, copy=True)
    own = ep.tl.embed(simulated, model, copy=True, batch_key="batch")
    np.testing.assert_array_equal(own["atac"].obsm[KEY], plain["atac"].obsm[KEY])
    assert not np.allclose(own["rna"].layers["epifoundation"], plain["rna"].layers["epifoundation"])
    other = simulated.copy()
    other["atac"].obs["batch"] = (
        other["atac"].obs["batch"].astype(str).replace("batch0", "batch9").to_numpy()
    )
    with pytest.warns(
        UserWarning,
        match=r"also contains \['batch9'\]; the model knows \['batch0', 'batch1'\]\).*mean batch",
    ):
        mixed = ep.tl.embed(other, model, copy=True, batch_key="batch")
    unseen = (other["atac"].obs["batch"] == "batch9").to_numpy()
    for part, like in ((unseen, plain), (~unseen, own)):
        np.testing.assert_allclose(
            mixed["rna"].layers["epifoundation"][part],
            like["rna"].layers["epifoundation"][part],
            atol=1e-5,
        )
    with pytest.raises(ValueError, match="`batch_key='donor'` is not a column"):
        ep.tl.embed(other, model, batch_key="donor")


def test_presets_are_named():
    assert ep.ModelConfig.preset("paper") == ep.ModelConfig(
        encoder="transformer",
        dim=512,
        n_heads=8,
        n_layers=6,
        feedforward=1024,
        dropout=0.15,
        objective="binary",
        decoder="query",
        max_peaks=12_000,
    )
    recipe = ep.TrainingConfig.preset("paper")
    assert (recipe.batch_size, recipe.accumulate, recipe.lr, recipe.balanced_genes) == (
        8,
        20,
        1e-4,
        8000,
    )
    assert ep.ModelConfig.preset("default") == ep.ModelConfig()
    with pytest.raises(
        ValueError, match=r"Unknown preset 'big'; choose one of \['default', 'paper'\]"
    ):
        ep.ModelConfig.preset("big")


@pytest.mark.parametrize("column", ["chrom", "chromosome"])
@pytest.mark.parametrize("value", [1, 1.0, "1", True])
def test_chromosomes_of_genes_may_be_numbers(simulated, column, value):
    mdata = simulated.copy()
    mdata["rna"].var = pd.DataFrame({column: [value] * 40}, index=simulated["rna"].var_names)
    model = ep.tl.pretrain(mdata, config=replace(SMALL, decoder="query"), training=quickly())
    expected = 0 if value is True else 2
    assert model.network.expression.genes.chromosome_of.tolist() == [expected] * 40


@pytest.mark.parametrize("decoder", ["linear", "query"])
def test_one_gene_is_enough(decoder):
    mdata = ep.datasets.simulate_multiome(60, 50, 1)
    config = replace(SMALL, n_layers=1, decoder=decoder)
    model = ep.tl.pretrain(mdata, config=config, objective="gaussian", training=quickly())
    ep.tl.embed(mdata, model)
    assert np.isfinite(mdata["rna"].layers["epifoundation"]).all()


def test_contradictions_are_refused(simulated, transformer):
    with pytest.raises(ValueError, match="`config.values` is for converted models"):
        ep.tl.pretrain(
            simulated, config=replace(SMALL, decoder="query", objective="binary", values=True)
        )
    with pytest.raises(
        ValueError, match="`balanced_genes` needs cells that are not pooled: pass `n_neighbors=1`"
    ):
        quickly(balanced_genes=40)
    every = simulated.copy()
    every["rna"].X = np.ones(every["rna"].shape, dtype=np.float32)
    with pytest.raises(ValueError, match="none of the 360 training cells has both among 40 genes"):
        ep.tl.pretrain(every, config="paper")
    with pytest.raises(
        ValueError, match="`balanced_genes` is for the objective 'binary', not 'counts'"
    ):
        ep.tl.pretrain(simulated, config="paper", objective="counts")
    with pytest.raises(ValueError, match="`init` has no head for held-out peaks"):
        ep.tl.pretrain(simulated["atac"], init=transformer, objective="peaks")
    with pytest.raises(ValueError, match="Unknown preset 'huge'"):
        ep.tl.pretrain(simulated, config="huge")


@pytest.mark.slow
def test_the_papers_recipe_learns_expression_and_types_of_a_held_out_batch():
    """Objective, sampling, schedule and accumulation of the paper, on a small model and data."""
    mdata = ep.datasets.simulate_multiome(
        2000, 150, 30, n_types=3, n_batches=3, median_fragments=40, median_counts=30, rng=1
    )
    config = replace(
        ep.ModelConfig.preset("paper"), dim=32, n_heads=4, n_layers=2, feedforward=64, dropout=0.05
    )
    training = replace(
        ep.TrainingConfig.preset("paper"),
        max_epochs=10,
        lr=3e-3,
        accumulate=2,
        batch_size=16,
        balanced_genes=30,
    )
    train = mdata[mdata.obs["batch"] != "batch2"].copy()
    test = mdata[mdata.obs["batch"] == "batch2"].copy()
    model = ep.tl.pretrain(train, config=config, training=training, label_key="cell_type")
    history = [epoch["validation"] for epoch in model.training["history"]]
    assert min(history) < 0.85 * history[0]
    assert history[0] == pytest.approx(np.log(2), abs=0.05)  # balanced: a coin, before it learns
    ep.tl.embed(test, model)
    expressed = test["rna"].X.toarray() > 0
    predicted = test["rna"].layers["epifoundation"]
    varied = [g for g in range(30) if 0.1 < expressed[:, g].mean() < 0.9]
    assert len(varied) > 10
    assert (
        np.mean([roc_auc_score(expressed[:, g], predicted[:, g]) for g in varied]) > 0.57
    )  # 0.6 is within reach
    accuracy = (
        test["atac"].obs["epifoundation_cell_type"].astype(str)
        == test["atac"].obs["cell_type"].astype(str)
    ).mean()
    assert accuracy > 0.85
