"""Models of format 1, with a set encoder that was trained, give the numbers of their formula."""

import hashlib
import json

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from anndata import AnnData
from safetensors.numpy import save_file
from scipy.special import erf

import epifoundation as ep

DIM, N_GENES, LABELS = 6, 5, ["a", "b", "c"]
# As version 0.1.0 wrote them
ARCHITECTURE = {
    "encoder": "set",
    "dim": DIM,
    "n_heads": None,
    "n_seeds": 1,
    "n_layers": 2,
    "dropout": 0.1,
    "objective": "counts",
    "feedforward": None,
    "max_peaks": None,
    "decoder": "linear",
    "values": False,
}


def draw_weights(n_peaks, rng):
    """Weights as version 0.1.0 named them, of a set encoder with all heads, no attention."""
    shapes = {
        "encoder.peak.weight": (n_peaks, DIM),
        "encoder.share": (n_peaks,),
        "encoder.output.weight": (DIM, DIM),
        "encoder.output.bias": (DIM,),
        "encoder.seed": (1, DIM),
        "encoder.norm.weight": (DIM,),
        "encoder.norm.bias": (DIM,),
        "encoder.norm.read": (1, DIM),
        "encoder.norm.along": (1, DIM),
        "encoder.norm.shift": (DIM,),
        "peaks.linear.weight": (n_peaks, DIM),
        "peaks.linear.bias": (n_peaks,),
        "expression.linear.weight": (N_GENES, DIM),
        "expression.linear.bias": (N_GENES,),
        "expression.batch": (2, N_GENES),
        "expression.mean": (N_GENES,),
        "expression.deviation": (N_GENES,),
        "label.linear.weight": (len(LABELS), DIM),
        "label.linear.bias": (len(LABELS),),
        "label.temperature": (),
    }
    for i in range(2):
        shapes |= {
            f"encoder.mix.{i}.layers.0.weight": (DIM,),
            f"encoder.mix.{i}.layers.0.bias": (DIM,),
            f"encoder.mix.{i}.layers.1.weight": (2 * DIM, DIM),
            f"encoder.mix.{i}.layers.1.bias": (2 * DIM,),
            f"encoder.mix.{i}.layers.4.weight": (DIM, 2 * DIM),
            f"encoder.mix.{i}.layers.4.bias": (DIM,),
        }
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    weights["encoder.peak.weight"] *= 0.02
    weights["label.temperature"] = np.full((), 1.7, np.float32)
    return weights


@pytest.fixture(scope="module")
def cells():
    return ep.datasets.simulate_multiome(120, 80, N_GENES, n_types=3, rng=0)


@pytest.fixture
def saved(cells, tmp_path):
    """A directory of format 1, and its weights."""
    weights = draw_weights(80, np.random.default_rng(0))
    folder = tmp_path / "old"
    folder.mkdir()
    ep.PeakVocabulary.from_var(cells["atac"].var, genome="hg38").write_bed(folder / "peaks.bed.gz")
    ep.GeneVocabulary.from_var(cells["rna"].var).write_tsv(folder / "genes.tsv")
    (folder / "labels.json").write_text(json.dumps(LABELS))
    (folder / "README.md").write_text("# A model of format 1")
    save_file(weights, folder / "model.safetensors")
    sizes = {
        "n_peaks": 80,
        "n_genes": N_GENES,
        "n_labels": 3,
        "n_batches": 2,
        "n_chromosomes": 0,
        "n_removed": 1,
    }
    config = {
        "format_version": 1,
        "package_version": "0.1.0",
        "genome": "hg38",
        "model": ARCHITECTURE,
        "sizes": sizes,
        "training": {
            "objective": "counts",
            "batches": ["x", "y"],
            "history": [{"train": 2.0, "validation": 1.0}],
        },
        "sha256": {
            file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder, weights


def layer_norm(x, weight, bias):
    return (x - x.mean(axis=1, keepdims=True)) / np.sqrt(
        x.var(axis=1, keepdims=True) + 1e-5
    ) * weight + bias


def embedding_by_hand(matrix, weights):
    """A sum of vectors over the root of their number, two residual layers, norm, projection."""
    w = {name.removeprefix("encoder."): value.astype(np.float64) for name, value in weights.items()}
    is_open = (matrix.toarray() > 0).astype(np.float64)
    sums = is_open @ w["peak.weight"] / np.sqrt(is_open.sum(axis=1, keepdims=True))
    x = w["seed"] + sums / 0.02 @ w["output.weight"].T + w["output.bias"]
    for i in range(2):
        layer = f"mix.{i}.layers."
        hidden = layer_norm(x, w[layer + "0.weight"], w[layer + "0.bias"])
        hidden = hidden @ w[layer + "1.weight"].T + w[layer + "1.bias"]
        hidden = hidden * (1 + erf(hidden / np.sqrt(2))) / 2
        x = x + hidden @ w[layer + "4.weight"].T + w[layer + "4.bias"]
    x = layer_norm(x, w["norm.weight"], w["norm.bias"])
    return x - (x @ w["norm.read"].T) @ w["norm.along"] + w["norm.shift"]


def softmax(x):
    x = np.exp(x - x.max(axis=1, keepdims=True))
    return x / x.sum(axis=1, keepdims=True)


def test_it_gives_the_numbers_of_its_formula(cells, saved):
    folder, w = saved
    model = ep.models.from_pretrained(folder)
    assert (model.config.encoder, model.config.is_measured, model.network.dim) == (
        "set-1",
        False,
        DIM,
    )
    assert not model.cells
    atac = cells["atac"].copy()
    ep.tl.embed(atac, model)
    expected = embedding_by_hand(atac.X, w)
    np.testing.assert_allclose(atac.obsm["X_epifoundation"], expected, atol=1e-4)
    logits = expected @ w["expression.linear.weight"].T + w["expression.linear.bias"]
    mean_batch = softmax(logits + w["expression.batch"].mean(axis=0))
    np.testing.assert_allclose(
        atac.obsm["epifoundation_expression"], np.log1p(1e4 * mean_batch), atol=1e-3
    )
    likely = softmax(
        (expected @ w["label.linear.weight"].T + w["label.linear.bias"]) / w["label.temperature"]
    )
    np.testing.assert_allclose(atac.obsm["epifoundation_probabilities"], likely, atol=1e-4)
    ep.tl.impute_accessibility(atac, model, peaks=list(atac.var_names), depth=10)
    shares = softmax(expected @ w["peaks.linear.weight"].T + w["peaks.linear.bias"])
    np.testing.assert_allclose(
        atac.obsm["epifoundation_accessibility"], 1 - np.exp(-10 * shares), atol=1e-4
    )


def test_knock_outs_equal_the_edited_matrix(cells, saved):
    folder, weights = saved
    atac = cells["atac"][:4].copy()
    (piece, *_) = ep.tl.scan_knock_outs(atac, folder, genes=list(cells["rna"].var_names))
    edited = atac.X.toarray()[piece.cells]
    edited[np.arange(len(edited)), piece.peaks] = 0
    before, after = (
        np.log1p(
            1e4
            * softmax(
                embedding_by_hand(matrix, weights) @ weights["expression.linear.weight"].T
                + weights["expression.linear.bias"]
                + weights["expression.batch"].mean(axis=0)
            )
        )
        for matrix in (atac.X[piece.cells], sp.csr_matrix(edited))
    )
    np.testing.assert_allclose(piece.change, after - before, atol=2e-3)


def test_it_is_saved_in_format_2_and_is_the_same(cells, saved, tmp_path):
    model = ep.models.from_pretrained(saved[0])
    again = ep.models.from_pretrained(model.save_pretrained(tmp_path / "new"))
    assert json.loads((tmp_path / "new" / "config.json").read_text())["format_version"] == 2
    assert (again.revision, again.weights, again.config) == (
        model.revision,
        model.weights,
        model.config,
    )
    one, other = (
        ep.tl.embed(cells, m, copy=True)["atac"].obsm["X_epifoundation"] for m in (model, again)
    )
    np.testing.assert_array_equal(one, other)
    assert ep.pl.training(model).lines


@pytest.mark.parametrize(("option", "value"), [("n_heads", 2), ("n_seeds", 4)])
def test_attention_is_refused_with_a_line(saved, option, value):
    config = json.loads((saved[0] / "config.json").read_text())
    config["model"][option] = value
    (saved[0] / "config.json").write_text(json.dumps(config))
    message = rf"A set encoder with attention \(.*`?{option}={value}`.*epifoundation 0\.1\.0"
    with pytest.raises(ValueError, match=message):
        ep.models.from_pretrained(saved[0])


def test_labels_are_measured_beside_it_and_its_columns_stay(cells, saved, tmp_path):
    model = ep.models.from_pretrained(saved[0])
    tuned = ep.tl.finetune(cells, model, label_key="cell_type")
    assert tuned.network.dim == DIM + 3
    assert set(tuned.cells) == {"labels"}
    atac = ep.tl.embed(cells["atac"], tuned, copy=True)
    expected = embedding_by_hand(atac.X, saved[1])
    np.testing.assert_allclose(atac.obsm["X_epifoundation"][:, :DIM], expected, atol=1e-4)
    true, found = (atac.obs[name].astype(str) for name in ("cell_type", "epifoundation_cell_type"))
    assert ep.metrics.accuracy(true, found) > 0.8
    expression = atac.obsm["epifoundation_expression"]
    before = ep.tl.embed(cells["atac"], model, copy=True).obsm["epifoundation_expression"]
    np.testing.assert_allclose(expression, before, atol=1e-5)
    adapter = tuned.save_adapter(tmp_path / "tuned")
    again = ep.models.from_pretrained(adapter, base=model)
    assert (again.weights, again.cell_bytes) == (tuned.weights, tuned.cell_bytes)


def test_a_reference_annotates_with_it(saved, cells):
    fresh = ep.datasets.simulate_multiome(100, 80, N_GENES, n_types=3, rng=1)["atac"]
    atac = AnnData(fresh.X, obs=fresh.obs, var=cells["atac"].var)
    ep.tl.annotate(cells := cells["atac"].copy(), saved[0], reference=atac, label_key="cell_type")
    assert np.isfinite(cells.obsm["epifoundation_probabilities"]).all(axis=None)
    assert cells.obsm["X_epifoundation"].shape == (120, DIM)


def test_batches_are_projected_out(cells, saved):
    model = ep.models.from_pretrained(saved[0])
    tuned = ep.tl.finetune(cells, model, batch_key="batch")
    assert not tuned.labels
    # Expression is not learned: its offsets are still those of the batches x and y
    assert tuned.training["batches"] == ["x", "y"]
    assert tuned.network.sizes.n_batches == 2
    embedding = ep.tl.embed(cells["atac"], tuned, copy=True).obsm["X_epifoundation"]
    assert embedding.shape == (120, DIM)
    assert np.isfinite(embedding).all()


def test_it_is_not_pretrained_further(cells, saved):
    with pytest.raises(
        ValueError, match="is a set encoder of format 1, which was trained by gradient descent"
    ):
        ep.tl.pretrain(cells, init=saved[0])


def test_none_is_made(cells):
    with pytest.raises(ValueError, match="set-1"):
        ep.tl.pretrain(cells, config=ep.ModelConfig(encoder="set-1", dim=8))


def test_weights_are_the_files(saved):
    model = ep.models.from_pretrained(saved[0])
    for name, tensor in model.network.state_dict().items():
        assert torch.equal(tensor, torch.from_numpy(saved[1][name])), name
