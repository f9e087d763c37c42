"""Expression on the scale of shallow cells: fitted as an independent kernel ridge, saved, refused where it is not."""

import numpy as np
import pytest
from sklearn.kernel_ridge import KernelRidge

import epifoundation as ep
from epifoundation.tl._measured_head import N_LANDMARKS, PENALTIES

KEY = "epifoundation_expression"


@pytest.fixture(scope="module")
def shallow():
    """Cells of few counts, and a model of most of them."""
    data = ep.datasets.simulate_multiome(360, 600, 60, n_types=4, median_counts=100, rng=4)
    model = ep.tl.pretrain(
        data[:300].copy(), config=ep.ModelConfig(dim=32), training=ep.TrainingConfig(max_epochs=10), label_key="cell_type"
    )  # fmt: skip
    return data, model


def predicted(data, model, scale="measured", **options):
    return ep.tl.predict_expression(data["atac"], model, scale=scale, copy=True, **options).obsm[KEY]


def log_counts(data):
    counts = data["rna"].X.toarray()
    return np.log1p(1e4 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))


def test_other_cells_are_nearer_on_that_scale_than_on_the_other_and_than_the_mean(shallow):
    data, model = shallow
    known, other = data[:300].copy(), data[300:].copy()
    true = log_counts(other)
    errors = {scale: np.square(predicted(other, model, scale) - true).mean().mean() for scale in ("mean", "measured")}
    errors["base"] = np.square(log_counts(known).mean(axis=0) - true).mean()
    assert errors["measured"] < 0.97 * errors["base"]
    assert errors["measured"] < 0.8 * errors["mean"]
    own = ep.metrics.expected_log1p(predicted(other, model, "mean"), known["rna"].X.sum(axis=1))
    assert errors["measured"] < 1.02 * np.square(own - true).mean()


def test_with_all_cells_as_landmarks_it_is_kernel_ridge_regression(shallow):
    data, _ = shallow
    # of peaks that were not measured: there, the head is fitted to each cell as if it had not been counted
    cold = ep.TrainingConfig(max_epochs=10, warm_start=False)
    model = ep.tl.pretrain(data[:300].copy(), config=ep.ModelConfig(dim=32), training=cold)
    head = model.network.measured
    assert len(head.landmarks) == model.training["cells"] <= N_LANDMARKS
    cells = ep.tl.embed(data["atac"], model, copy=True).obsm["X_epifoundation"]
    apart = np.square(cells[:300, None] - head.landmarks.numpy()[None]).sum(axis=2)
    is_landmark = apart.min(axis=1) < 1e-8
    assert is_landmark.sum() == len(head.landmarks)
    train, expression = cells[:300][is_landmark], log_counts(data)[:300][is_landmark]
    base = expression.mean(axis=0)
    found = predicted(data, model).to_numpy()
    differences = []
    for penalty in PENALTIES:
        oracle = KernelRidge(alpha=penalty, kernel="rbf", gamma=1 / float(head.width)).fit(train, expression - base)
        differences.append(np.abs(np.maximum(base + oracle.predict(cells), 0) - found).max())
    assert min(differences) < 0.01 < 0.05 < max(differences)


def test_it_is_saved_and_told(shallow, tmp_path):
    data, model = shallow
    before = predicted(data, model, genes=["gene5", "gene2"])
    model.save_pretrained(tmp_path / "m")
    again = ep.models.from_pretrained(tmp_path / "m")
    np.testing.assert_array_equal(predicted(data, again, genes=["gene5", "gene2"]), before)
    np.testing.assert_allclose(predicted(data, model)[["gene5", "gene2"]], before, atol=1e-5)
    ep.tl.predict_expression(data["atac"], model, scale="measured")
    assert data["atac"].uns[KEY]["scale"] == "mean of log1p of counts per 10,000"
    assert (
        ep.pl.expression(data["atac"], groupby="cell_type", measured=data["rna"])[0].get_title().startswith("60 genes")
    )


def test_tuning_fits_it_anew_or_leaves_it_out(shallow):
    data, model = shallow
    quick = ep.TrainingConfig(max_epochs=1, peak_lr=0.2, warm_start=False)
    whole = ep.tl.finetune(data, model, label_key="cell_type", rank=None, training=quick)
    assert not np.allclose(predicted(data, whole), predicted(data, model))
    for options in ({"rank": 4}, {"rank": None, "data": data["atac"]}):
        tuned = ep.tl.finetune(options.pop("data", data), model, label_key="cell_type", training=quick, **options)
        with pytest.raises(ValueError, match="has no `scale='measured'`"):
            predicted(data, tuned)


def test_bad_input(shallow):
    data, model = shallow
    with pytest.raises(ValueError, match="`scale` must be one of"):
        predicted(data, model, "log")
    with pytest.raises(ValueError, match="leave out `batch_key`"):
        predicted(data, model, batch_key="batch")
    binary = ep.tl.pretrain(
        data, objective="binary", config=ep.ModelConfig(dim=16), training=ep.TrainingConfig(max_epochs=1)
    )
    assert binary.network.measured is None
    with pytest.raises(ValueError, match=r"has no `scale='measured'`.*trained on counts"):
        predicted(data, binary)
