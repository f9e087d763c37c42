"""The command line: the same results, one line of error, exit codes."""

import os
import subprocess
import sys

import anndata as ad
import numpy as np
import pytest
from typer.testing import CliRunner

import epifoundation as ep
from epifoundation import cli

COMMANDS = ["embed", "annotate", "pretrain", "finetune", "convert", "report", "models"]


def run(*arguments):
    return CliRunner().invoke(cli.app, [str(each) for each in arguments])


@pytest.fixture
def folder(mdata, model, tmp_path):
    mdata.write(tmp_path / "m.h5mu")
    mdata["atac"].write_h5ad(tmp_path / "a.h5ad")
    model.save_pretrained(tmp_path / "model")
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command):
    done = run(command, "--help")
    assert done.exit_code == 0
    assert f"epifoundation {command}" in " ".join(done.output.split())


def test_embed_and_annotate(folder, mdata, model):
    done = run("embed", folder / "a.h5ad", "-m", folder / "model", "-o", folder / "out.h5ad", "--no-annotation", "-q")
    assert done.exit_code == 0, done.exception
    assert done.output.strip() == str(folder / "out.h5ad")
    ep.tl.embed(mdata["atac"], model)
    found = ad.read_h5ad(folder / "out.h5ad")
    np.testing.assert_allclose(found.obsm["X_epifoundation"], mdata["atac"].obsm["X_epifoundation"], atol=1e-5)
    assert "epifoundation_cell_type" not in found.obs
    done = run("annotate", folder / "a.h5ad", "-m", folder / "model", "-o", folder / "labels.zarr", "--reference", folder / "m.h5mu", "--label-key", "cell_type", "-q")  # fmt: skip
    assert done.exit_code == 0, done.exception
    assert ad.read_zarr(folder / "labels.zarr").uns["epifoundation_annotation"]["calibration"] == 0.2


def test_pretrain_with_a_configuration(folder):
    (folder / "run.toml").write_text(
        '[pretrain]\nbatch_key = "batch"\nvalidation = ["batch1"]\nlabel_key = "cell_type"\nseed = 5\n'
        "[pretrain.architecture]\ndim = 16\n[pretrain.training]\npseudocount = 3\n"
        '[finetune]\nlabel_key = "cell_type"\n[finetune.training]\nlandmarks = 30\n'
    )
    done = run("pretrain", folder / "m.h5mu", "-o", folder / "new", "--config", folder / "run.toml", "--seed", 3, "-q", "--state", folder / "run.state")  # fmt: skip
    assert done.exit_code == 0, done.exception
    model = ep.models.from_pretrained(folder / "new")
    same = ep.tl.pretrain(
        folder / "m.h5mu",
        config=ep.ModelConfig(dim=16),
        training=ep.TrainingConfig(pseudocount=3),
        batch_key="batch",
        validation=["batch1"],
        label_key="cell_type",
        rng=3,
    )
    assert model.revision == same.revision
    assert not (folder / "run.state").exists()  # the run is done
    done = run("finetune", folder / "m.h5mu", "-m", folder / "new", "-o", folder / "tuned", "--config", folder / "run.toml", "-q")  # fmt: skip
    assert done.exit_code == 0, done.exception
    tuned = ep.models.from_pretrained(folder / "tuned")
    assert tuned.labels == model.labels
    assert tuned.network.sizes.n_label_landmarks == 30


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("architecture]\nn_heads = 2", "`n_heads=2` has no meaning for the encoder 'set'"),
        ("training]\nmax_epochs = 2", "`max_epochs=2` has no meaning here: the set encoder is measured in closed form"),
        ("training]\nadversarial = 1.0", "TrainingConfig has no ['adversarial']"),
    ],
)
def test_options_of_a_transformer_are_refused(folder, table, said):
    (folder / "run.toml").write_text(f"[pretrain]\n[pretrain.{table}\n")
    done = run("pretrain", folder / "m.h5mu", "-o", folder / "new", "--config", folder / "run.toml", "-q")
    assert isinstance(done.exception, ValueError)
    assert said in str(done.exception)
    assert not (folder / "new").exists()


def test_a_transformer_is_trained_and_tuned(folder):
    (folder / "run.toml").write_text(
        '[pretrain.architecture]\nencoder = "transformer"\ndim = 8\nn_heads = 1\nn_layers = 1\n'
        "[pretrain.training]\nmax_epochs = 1\nbatch_size = 128\n[finetune.training]\nmax_epochs = 2\nbatch_size = 128\n"
    )
    options = ["--config", folder / "run.toml", "--state", folder / "run.state", "-q"]
    done = run("pretrain", folder / "m.h5mu", "-o", folder / "new", *options)
    assert done.exit_code == 0, done.exception
    assert (folder / "run.state").exists()  # goes on from there, with more epochs
    done = run("finetune", folder / "m.h5mu", "-m", folder / "new", "-o", folder / "tuned", "--label-key", "cell_type", *options[:2], "--rank", 0, "-q")  # fmt: skip
    assert done.exit_code == 0, done.exception
    options = ep.models.from_pretrained(folder / "tuned").training["options"]
    recipe = ep.TrainingConfig.preset("finetune")
    assert (options["max_epochs"], options["peak_weight"], options["patience"]) == (
        2,
        recipe.peak_weight,
        recipe.patience,
    )


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[embed]\nbatchkey = 'x'\n", r"unknown options \['batchkey'\]"),
        ("[annotate]\nalpha = 0.2\n", r"no table \[embed\]"),
        ("[embed\n", "cannot be read as TOML"),
    ],
)
def test_bad_configurations(folder, content, told):
    (folder / "run.toml").write_text(content)
    done = run("embed", folder / "a.h5ad", "--config", folder / "run.toml")
    assert done.exit_code == 2
    assert __import__("re").search(told, " ".join(done.output.replace("│", " ").split()))


def test_unknown_fields_of_a_table(folder):
    (folder / "run.toml").write_text("[pretrain]\n[pretrain.training]\nepochs = 2\n")
    done = run("pretrain", folder / "m.h5mu", "-o", folder / "new", "--config", folder / "run.toml", "-q")
    assert isinstance(done.exception, ValueError)
    assert "TrainingConfig has no ['epochs']" in str(done.exception)


def test_report(folder):
    done = run("embed", folder / "m.h5mu", "-m", folder / "model", "-q")
    assert done.exit_code == 0, done.exception
    options = ["--label-key", "cell_type", "--batch-key", "batch", "--title", "Nine batches"]
    done = run("report", folder / "m.h5mu", "-o", folder / "report.html", *options)
    assert done.exit_code == 0, done.exception
    assert done.output.strip() == str(folder / "report.html")
    assert "<h1>Nine batches</h1>" in (folder / "report.html").read_text()
    again = run("report", folder / "m.h5mu", "-o", folder / "report.html")
    assert isinstance(again.exception, FileExistsError)


@pytest.mark.slow
def test_exit_codes(folder):
    """Of the command itself."""

    def code(*arguments):
        command = [sys.executable, "-m", "epifoundation", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        return done.returncode, done.stderr

    assert run("models").exit_code == 0
    assert run("embed").exit_code == 2
    status, told = code("embed", folder / "nowhere.h5ad")
    assert status == 1
    assert told.strip() == f"epifoundation: FileNotFoundError: The file '{folder}/nowhere.h5ad' is not there."


@pytest.mark.parametrize(
    ("values", "expected"),
    [(None, None), (["0.2"], 0.2), (["donor1"], ["donor1"]), (["1", "2"], ["1", "2"]), (["v1.2"], ["v1.2"])],
)
def test_held_out(values, expected):
    assert cli._held(values, "validation") == expected
