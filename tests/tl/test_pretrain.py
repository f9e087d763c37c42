"""``ep.tl.pretrain``: planted truth, the same model for the same seed, bad input, Ctrl-C."""

import signal
import textwrap
import time
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

import epifoundation as ep
from epifoundation._validate import layer_names

SMALL = {"config": ep.ModelConfig(dim=16)}
# Trained by gradient
TRAINED = {
    "config": ep.ModelConfig(encoder="transformer", dim=8, n_heads=1, n_layers=1),
    "training": ep.TrainingConfig(max_epochs=2, batch_size=128),
}
BOTH = pytest.mark.parametrize("options", [SMALL, TRAINED], ids=["set", "transformer"])


def held_out_pearson(mdata, model, rows):
    atac = mdata["atac"][rows].copy()
    ep.tl.embed(atac, model)
    measured = np.log1p(mdata["rna"][rows].X.toarray())
    return ep.metrics.pearson_per_gene(measured, atac.obsm["epifoundation_expression"])


@pytest.mark.parametrize("objective", ["counts", "binary", "gaussian"])
def test_expression_of_unseen_cells_is_predicted(objective):
    # Whether a gene is expressed says something only where counts are few.
    sparse = {"median_counts": 60} if objective == "binary" else {}
    mdata = ep.datasets.simulate_multiome(400, 600, 40, n_types=4, rng=1, **sparse)
    if objective == "gaussian":
        mdata["rna"].layers["log"] = np.log1p(mdata["rna"].X.toarray())
    rows = np.arange(mdata.n_obs) < 300
    model = ep.tl.pretrain(
        mdata[rows].copy(),
        objective=objective,
        layer="log" if objective == "gaussian" else None,
        config=ep.ModelConfig(dim=32),
    )
    assert model.config.objective == objective
    assert held_out_pearson(mdata, model, ~rows) > (0.1 if objective == "binary" else 0.25)


def test_atac_alone_separates_the_types(simulated):
    from sklearn.neighbors import KNeighborsClassifier

    atac = simulated["atac"].copy()
    model = ep.tl.pretrain(atac[:300].copy(), objective="peaks", config=ep.ModelConfig(dim=32))
    assert len(model.genes) == 0
    ep.tl.embed(atac, model)
    X, y = atac.obsm["X_epifoundation"], atac.obs["cell_type"].to_numpy()
    assert KNeighborsClassifier(5).fit(X[:300], y[:300]).score(X[300:], y[300:]) > 0.9


@BOTH
def test_the_data_are_not_changed_and_neither_is_the_random_state(mdata, options):
    atac, rna = mdata["atac"].X.copy(), mdata["rna"].X.copy()
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    ep.tl.pretrain(mdata, **options)
    assert (atac != mdata["atac"].X).nnz == (rna != mdata["rna"].X).nnz == 0
    assert list(mdata["atac"].obsm) == layer_names(mdata["rna"]) == []
    assert torch.equal(torch.get_rng_state(), state[0])
    np.testing.assert_array_equal(np.random.get_state()[1], state[1])  # noqa: NPY002


@BOTH
def test_the_seed_decides(simulated, options):
    a, b, other = (ep.tl.pretrain(simulated, **options, rng=seed) for seed in (3, 3, 4))
    assert a.revision == b.revision != other.revision


@BOTH
def test_validation_by_batch_is_what_it_says(simulated, options):
    model = ep.tl.pretrain(simulated, **options, batch_key="batch", validation="batch1")
    n = int((simulated["atac"].obs["batch"] == "batch0").sum())
    assert (model.training["cells"], model.training["validation_cells"]) == (n, simulated.n_obs - n)
    # In the end, a set encoder is measured on all cells, with those of the held-out batch
    assert model.training["batches"] == (["batch0"] if options is TRAINED else ["batch0", "batch1"])
    assert model.training["validation"] == ["batch1"]


def test_a_model_has_losses_if_it_was_trained(simulated):
    trained, measured = (ep.tl.pretrain(simulated, **options) for options in (TRAINED, SMALL))
    assert [sorted(epoch) for epoch in trained.training["history"]] == [["train", "validation"]] * 2
    assert "history" not in measured.training
    assert measured.training["sampled_cells"] == simulated.n_obs


def test_the_formats_of_both_matrices_do_not_matter(simulated):
    reference = ep.tl.pretrain(simulated, **SMALL)
    other = simulated.copy()
    other["atac"].X = sp.csc_matrix(other["atac"].X)
    other["rna"].X = other["rna"].X.toarray()
    assert ep.tl.pretrain(other, **SMALL).revision == reference.revision


def test_peaks_that_are_never_open_are_no_tokens(mdata):
    atac = mdata["atac"]
    atac.X = atac.X @ sp.diags((np.arange(600) != 5).astype(np.float32), format="csr")
    model = ep.tl.pretrain(mdata, **SMALL)
    assert atac.var_names[5] not in set(model.peaks.names)
    fewer = ep.tl.pretrain(mdata, **SMALL, min_cells=20)
    assert len(fewer.peaks) < len(model.peaks)


@pytest.fixture(scope="module")
def trained(simulated):
    """A transformer with batches; do not change it."""
    return ep.tl.pretrain(simulated, **TRAINED, batch_key="batch", genome="hg38")


def reordered(simulated):
    """Genes in another order, ten of them left out, and two thirds of the peaks."""
    other = simulated.copy()
    other["rna"].var_names = [f"gene{(i * 7) % 40}" for i in range(40)]
    other["rna"].X = simulated["rna"].X[:, [(i * 7) % 40 for i in range(40)]]
    return other[:, list(other["atac"].var_names[:400]) + list(other["rna"].var_names[:30])].copy()


def test_a_transformer_goes_on_from_its_weights(simulated, trained):
    options = ep.TrainingConfig(max_epochs=1, lr=1e-5)
    further = ep.tl.pretrain(reordered(simulated), init=trained, training=options)
    assert further.config == trained.config
    assert further.genes.names == trained.genes.names
    assert further.peaks.same_as(trained.peaks.intervals)
    # A tiny step away is nearly the same; new random weights would point anywhere
    one, other = (
        ep.tl.embed(simulated["atac"], m, copy=True).obsm["X_epifoundation"]
        for m in (trained, further)
    )
    assert (
        (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    ).min() > 0.9
    adapted = ep.tl.pretrain(simulated["atac"], init=trained, objective="peaks", training=options)
    assert adapted.genes.names == trained.genes.names


def test_a_set_encoder_is_measured_anew_with_the_vocabulary_of_another(simulated, model):
    other = reordered(simulated)
    further = ep.tl.pretrain(other, init=model)
    assert further.config == model.config
    assert further.peaks.same_as(model.peaks.intervals)
    assert further.genes.names == [
        name for name in model.genes.names if name in set(other["rna"].var_names)
    ]
    ep.tl.embed(other, further)
    measured = np.log1p(other["rna"].X.toarray())
    assert ep.metrics.pearson_per_gene(measured, other["rna"].layers["epifoundation"]) > 0.3
    same = ep.tl.pretrain(
        simulated, init=model, batch_key="batch", label_key="cell_type", genome="hg38"
    )
    assert same.revision == model.revision


def test_the_vocabulary_of_another_model_serves_for_atac_alone(simulated, model, tmp_path):
    alone = ep.tl.pretrain(
        simulated["atac"], init=model, objective="peaks", checkpoint=tmp_path / "model"
    )
    assert (alone.config.objective, len(alone.genes)) == ("peaks", 0)
    assert alone.peaks.same_as(model.peaks.intervals)
    atac = simulated["atac"].copy()
    ep.tl.embed(atac, tmp_path / "model")
    assert list(atac.obsm) == ["X_epifoundation"]


def test_labels_become_a_calibrated_head(simulated, model):
    assert model.labels == sorted(simulated["atac"].obs["cell_type"].unique())
    partly = simulated.copy()
    labels = partly["atac"].obs["cell_type"].astype(object)
    labels.iloc[:100] = np.nan
    partly["atac"].obs["cell_type"] = labels
    again = ep.tl.pretrain(partly, **SMALL, label_key="cell_type")
    assert again.labels == model.labels
    ep.tl.embed(partly, again)
    assert partly["atac"].obs["epifoundation_cell_type"].notna().all()


def test_two_labels_make_a_head(simulated):
    two = simulated[simulated["atac"].obs["cell_type"].isin(["type0", "type1"]).to_numpy()].copy()
    model = ep.tl.pretrain(two, config=ep.ModelConfig(dim=32), label_key="cell_type")
    ep.tl.embed(two, model)
    assert (
        ep.metrics.accuracy(
            two["atac"].obs["cell_type"].astype(str),
            two["atac"].obs["epifoundation_cell_type"].astype(str),
        )
        > 0.9
    )


@BOTH
def test_cells_without_anything_to_learn_are_left_out_with_a_warning(mdata, options):
    for name, rows in (("atac", [0, 1]), ("rna", [2])):
        keep = ~np.isin(np.arange(400), rows)
        mdata[name].X = sp.diags(keep.astype(np.float32), format="csr") @ mdata[name].X
    with pytest.warns(UserWarning, match="3 of 400 cells have no open peak or no RNA"):
        model = ep.tl.pretrain(mdata, **options)
    assert model.training["cells"] + model.training["validation_cells"] == 397


def test_going_on_keeps_what_is_predicted_for_the_mean_batch(simulated, trained):
    same = ep.tl.pretrain(
        simulated, init=trained, training=ep.TrainingConfig(max_epochs=1, lr=0.0, weight_decay=0.0)
    )
    embedding = torch.from_numpy(
        ep.tl.embed(simulated["atac"], trained, copy=True).obsm["X_epifoundation"]
    )
    # Of the same embedding: running statistics of the encoder move without a step
    before, after = (m.network.expression.predict(embedding) for m in (trained, same))
    assert trained.network.expression.batch.abs().max() > 0
    np.testing.assert_allclose(after, before, atol=1e-5)


def test_going_on_finds_genes_by_identifier(simulated):
    named = simulated.copy()
    named["rna"].var["gene_ids"] = [f"ENSG{i}" for i in range(40)]
    first = ep.tl.pretrain(named, **SMALL)
    by_id = simulated.copy()
    by_id["rna"].var_names = [f"ENSG{i}" for i in range(40)]
    assert ep.tl.pretrain(by_id, init=first).genes.names == first.genes.names
    ep.tl.embed(by_id, first)
    assert np.isfinite(by_id["rna"].layers["epifoundation"]).all()


@pytest.mark.parametrize("objective", ["counts", "peaks"])
def test_cells_that_lose_their_last_peak_to_the_vocabulary_are_left_out(objective):
    sparse = ep.datasets.simulate_multiome(80, 300, 20, median_fragments=3, rng=0)
    with pytest.warns(UserWarning, match="left out|too few to choose"):
        model = ep.tl.pretrain(
            sparse, objective=objective, config=ep.ModelConfig(dim=8), min_cells=3
        )
    assert all(tensor.isfinite().all() for tensor in model.network.state_dict().values())
    assert model.training["cells"] < 72


def test_one_gene_and_few_peaks_are_enough(simulated):
    tiny = simulated[:, [*simulated["atac"].var_names[:2], simulated["rna"].var_names[0]]].copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert len(ep.tl.pretrain(tiny, **SMALL).genes) == 1


@pytest.mark.parametrize("n", [3, 12, 60])
@pytest.mark.parametrize("objective", ["counts", "peaks"])
def test_few_cells_are_measured_by_defaults_with_a_warning(n, objective):
    mdata = ep.datasets.simulate_multiome(n, 100, 10, rng=0)
    with pytest.warns(
        UserWarning, match=r"There are \d validation cells, too few to choose widths and penalties"
    ):
        model = ep.tl.pretrain(mdata, objective=objective)
    assert 1 <= model.config.dim <= max(n // 5, 1)
    assert np.isfinite(ep.tl.embed(mdata["atac"], model, copy=True).obsm["X_epifoundation"]).all()


def test_more_columns_than_cells_fill_are_cut_with_a_warning():
    mdata = ep.datasets.simulate_multiome(120, 100, 10, rng=0)
    with pytest.warns(
        UserWarning,
        match=r"`dim=99` asks for more clusters than 108 training cells fill: .* 21 columns",
    ):
        assert ep.tl.pretrain(mdata, config=ep.ModelConfig(dim=99)).config.dim == 21


@pytest.mark.parametrize(
    "what",
    ["one cluster of RNA", "the same peaks", "one column", "each cell a batch", "few labels"],
)
def test_data_that_say_little_give_finite_numbers(what):
    mdata = ep.datasets.simulate_multiome(120, 100, 10, n_types=3, rng=0)
    options = {"label_key": "cell_type", "batch_key": "batch"}
    if what == "one cluster of RNA":
        mdata["rna"].X = np.ones((120, 10), np.float32)
    elif what == "the same peaks":
        mdata["atac"].X = sp.csr_matrix(np.ones((120, 100), np.float32))
    elif what == "one column":
        options["config"] = ep.ModelConfig(dim=1)
    elif what == "each cell a batch":
        mdata["atac"].obs["batch"] = [f"batch{i}" for i in range(120)]
    else:
        labels = mdata["atac"].obs["cell_type"].astype(object)
        mdata["atac"].obs["cell_type"] = labels.where(np.arange(120) < 30)
    model = ep.tl.pretrain(mdata, **options)
    assert all(tensor.isfinite().all() for tensor in model.network.state_dict().values())
    ep.tl.embed(mdata, model)
    atac, layer = mdata["atac"], mdata["rna"].layers["epifoundation"]
    for found in (
        atac.obsm["X_epifoundation"],
        atac.obsm["epifoundation_probabilities"].to_numpy(),
        layer,
    ):
        assert np.isfinite(found).all()


@BOTH
def test_it_runs_where_gradients_are_off(simulated, options):
    reference = ep.tl.pretrain(simulated, **options)
    with torch.inference_mode():
        assert ep.tl.pretrain(simulated, **options).revision == reference.revision


# what bad input gets


def test_what_cannot_work_is_refused_before_the_training(simulated, model, monkeypatch, tmp_path):
    from epifoundation.training import measure

    monkeypatch.setattr(
        measure, "find_clusters", lambda *args, **kwargs: pytest.fail("began to measure")
    )
    (tmp_path / "notes.txt").write_text("precious")
    with pytest.raises(FileExistsError, match="contains other files"):
        ep.tl.pretrain(simulated, checkpoint=tmp_path)
    earlier = model.save_pretrained(tmp_path / "earlier")
    with pytest.raises(FileExistsError, match="choose another"):
        ep.tl.pretrain(simulated, checkpoint=earlier)
    labelled = simulated.copy()
    labelled["atac"].obs["cell_type"] = "the only one"
    with pytest.raises(ValueError, match=r"needs two labels or more.*\['the only one'\]"):
        ep.tl.pretrain(labelled, label_key="cell_type")
    labelled["atac"].obs["batch"] = labelled["atac"].obs["batch"].astype(object)
    labelled["atac"].obs.iloc[3, labelled["atac"].obs.columns.get_loc("batch")] = np.nan
    with pytest.raises(ValueError, match="`batch_key='batch'` is missing for 1 of 400 cells"):
        ep.tl.pretrain(labelled, batch_key="batch")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"objective": "mse"},
            r"`objective` must be one of \['counts', 'binary', 'gaussian', 'peaks'\], got 'mse'",
        ),
        ({"modality": "peaks"}, r"No modality 'peaks'.*`modality=`"),
        (
            {"rna_modality": "gex"},
            r"needs RNA and the data has no modality 'gex' \(`rna_modality=`\)",
        ),
        ({"layer": "counts"}, "No layer 'counts'"),
        (
            {"batch_key": "donor"},
            r"`batch_key='donor'` is not a column of `obs` of the data; available: \['batch', 'ce",
        ),
        ({"label_key": "donor"}, "`label_key='donor'`"),
        ({"validation": 1.5}, "`validation` must be a fraction"),
        ({"validation": ["batch0"]}, "pass `batch_key=`"),
        (
            {"validation": ["batch7"], "batch_key": "batch"},
            r"must name batches of \['batch0', 'batch1'\], got \['batch7'\]",
        ),
        (
            {"validation": ["batch0", "batch1"], "batch_key": "batch"},
            "Too few cells: 0 to train on",
        ),
        ({"min_cells": 10_000}, "No peak is open in at least `min_cells`"),
        ({"device": "abacus"}, "`device` must be 'auto' or an available torch device"),
    ],
)
def test_impossible_options_are_refused(simulated, options, message):
    with pytest.raises(ValueError, match=message):
        ep.tl.pretrain(simulated, **(SMALL | options))


def test_bad_data_are_refused(mdata, model):
    with pytest.raises(ValueError, match="an AnnData has none.*`objective='peaks'`"):
        ep.tl.pretrain(mdata["atac"], **SMALL)
    with pytest.raises(ValueError, match="`config` and `init` cannot be combined"):
        ep.tl.pretrain(mdata, **SMALL, init=model)
    with pytest.raises(ValueError, match="trained with objective 'counts', not 'binary'"):
        ep.tl.pretrain(mdata, init=model, objective="binary")
    renamed = mdata.copy()
    renamed["rna"].var_names = [f"x{i}" for i in range(40)]
    with pytest.raises(ValueError, match="have 0 of the 40 genes"):
        ep.tl.pretrain(renamed, init=model)
    mdata["rna"].layers["log"] = mdata["rna"].X.log1p()
    with pytest.raises(ValueError, match="contains non-integer values.*objective='gaussian'"):
        ep.tl.pretrain(mdata, **SMALL, layer="log")
    mdata["rna"].X.data[3] = -2
    with pytest.raises(
        ValueError, match="`X` of the RNA modality must contain non-negative counts: found -2.0"
    ):
        ep.tl.pretrain(mdata, **SMALL)
    mdata["atac"].X.data[3] = np.nan
    with pytest.raises(ValueError, match="found nan in cell"):
        ep.tl.pretrain(mdata["atac"], objective="peaks", **SMALL)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"training": ep.TrainingConfig(max_epochs=3)},
            "`max_epochs=3` does not apply to the encoder 'set': it is fitted",
        ),
        ({"training": "paper"}, "does not apply to the encoder 'set': it is fitted in closed form"),
        (
            {"training": "finetune"},
            "does not apply to the encoder 'set': it is fitted in closed form",
        ),
        (
            {"engine": ep.Engine(precision="bfloat16")},
            r"`Engine\(precision='bfloat16'\)` does not apply",
        ),
        (
            TRAINED | {"training": ep.TrainingConfig(softness=1.0)},
            "`softness=1.0` does not apply to .*'transformer'",
        ),
    ],
)
def test_options_of_the_other_encoder_are_refused(simulated, options, message):
    with pytest.raises(ValueError, match=message):
        ep.tl.pretrain(simulated, **(SMALL | options))


def test_a_diverging_training_says_so(simulated):
    options = TRAINED | {"training": ep.TrainingConfig(lr=1e30, max_epochs=2)}
    with pytest.raises(FloatingPointError, match="Lower `lr`"):
        ep.tl.pretrain(simulated, **options)


# Ctrl-C


def test_an_interrupted_training_gives_the_best_model_so_far(simulated, monkeypatch, tmp_path):
    from epifoundation.paper.pretraining import Pretraining

    original, steps = Pretraining.training_step, []

    def interrupt(self, *args):
        steps.append(1)
        if self.current_epoch == 1:
            raise KeyboardInterrupt
        return original(self, *args)

    monkeypatch.setattr(Pretraining, "training_step", interrupt)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.warns(RuntimeWarning, match="interrupted after 1 epochs"):
        model = ep.tl.pretrain(simulated, **TRAINED, checkpoint=tmp_path / "last")
    assert signal.getsignal(signal.SIGINT) is handler
    assert model.training["interrupted"]
    assert ep.models.from_pretrained(tmp_path / "last").revision == model.revision


def test_an_interruption_before_anything_was_learned_is_raised(simulated, monkeypatch):
    from epifoundation.paper.pretraining import Pretraining

    monkeypatch.setattr(
        Pretraining, "training_step", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        ep.tl.pretrain(simulated, **TRAINED)


def test_an_interrupted_measurement_leaves_nothing_at_the_checkpoint(
    simulated, monkeypatch, tmp_path
):
    from epifoundation.training.statistics import Statistics

    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(
            Statistics, "add", lambda *args, **kwargs: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            ep.tl.pretrain(simulated, **SMALL, checkpoint=tmp_path / "model")
    assert signal.getsignal(signal.SIGINT) is handler
    assert not list(tmp_path.iterdir())
    model = ep.tl.pretrain(simulated, **SMALL, checkpoint=tmp_path / "model")
    assert ep.models.from_pretrained(tmp_path / "model").revision == model.revision


@pytest.mark.slow
def test_a_real_signal_leaves_the_last_checkpoint_usable(simulated, tmp_path, forks):
    simulated.write_h5mu(tmp_path / "data.h5mu")
    code = textwrap.dedent(
        """
        import signal, sys, mudata, torch, epifoundation as ep
        # In the background of a shell, the signal is ignored
        signal.signal(signal.SIGINT, signal.default_int_handler)
        torch.set_num_threads(1)
        ep.settings.progress = False
        data = mudata.read_h5mu(sys.argv[1])
        options = ep.TrainingConfig(max_epochs=100_000, patience=100_000)
        config = ep.ModelConfig(encoder="transformer", dim=8, n_heads=1, n_layers=1)
        ep.tl.pretrain(data, config=config, training=options, checkpoint=sys.argv[2])
        print("went on")
        """
    )
    checkpoint = tmp_path / "checkpoint"
    (tmp_path / "script.py").write_text(code)
    process = forks.start(tmp_path / "script.py", tmp_path / "data.h5mu", checkpoint)
    deadline = pd.Timestamp.now() + pd.Timedelta("120s")
    while (
        not (checkpoint / "config.json").is_file()
        and process.poll() is None
        and pd.Timestamp.now() < deadline
    ):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert "went on" in out, err
    model = ep.models.from_pretrained(checkpoint)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        ep.tl.embed(simulated, model, copy=True)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
