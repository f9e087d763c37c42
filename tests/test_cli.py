"""The command line: the same results, one line of error, exit codes."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import epifoundation as ep
import epifoundation._available  # what `epifoundation models` calls
from epifoundation import cli
from epifoundation._signatures import read_signature


@pytest.fixture
def run(capsys):
    """A command: its exit code, what it wrote, and its error."""

    def call(*arguments):
        code = 0
        try:
            cli.main([str(each) for each in arguments])
        except SystemExit as end:
            code = end.code or 0
        written = capsys.readouterr()
        return SimpleNamespace(code=code, output=written.out, error=written.err)

    return call


@pytest.fixture
def folder(mdata, model, tmp_path):
    mdata.write(tmp_path / "m.h5mu")
    mdata["atac"].write_h5ad(tmp_path / "a.h5ad")
    model.save_pretrained(tmp_path / "model")
    return tmp_path


def resolve(name):
    value = ep
    for part in name.split("."):
        value = getattr(value, part)
    return value


CLASSES = {
    getattr(ep, owner.rpartition(".")[2]).__name__: owner for owner in cli.FIELDS_OF.values()
}
FUNCTIONS = sorted({function for function, _ in cli.COMMANDS.values()})


@pytest.mark.parametrize("name", [*FUNCTIONS, "Engine", "PeakMapping", cli.SAVE, "pp.map_peaks"])
def test_signatures_are_those_of_the_functions(name):
    """What is read from the source is what Python says."""
    read = read_signature(CLASSES.get(name, name))
    parameters = inspect.signature(resolve(name)).parameters
    assert list(read.parameters) == [each for each in parameters if each != "self"]
    for key, found in read.parameters.items():
        annotation = found.kind + " | None" * found.may_be_none
        assert annotation.replace("'", '"') == str(parameters[key].annotation).replace("'", '"')
        assert found.is_required == (parameters[key].default is inspect.Parameter.empty)
        assert found.is_required or found.default == parameters[key].default
        assert len(found.text) > 5


def parameters_of(owner, function):
    return {(owner, name) for name in inspect.signature(function).parameters if name != "self"}


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_parameter_is_an_option(command):
    function = cli.COMMANDS[command][0]
    expected = parameters_of(function, resolve(function))
    if command in ("pretrain", "finetune"):
        expected |= parameters_of(cli.FIELDS_OF["engine"], ep.Engine)
    if command in ("embed", "annotate", "finetune", "link-peaks", "knock-out"):
        expected |= parameters_of(cli.FIELDS_OF["mapping"], ep.PeakMapping)
    if command in ("pretrain", "finetune", "convert"):
        expected |= parameters_of(cli.SAVE, ep.EpiFoundation.save_pretrained)
    if command in ("count", "cellxgene", "link-peaks", "knock-out"):
        expected |= {(cli.RESULT, "output"), (cli.RESULT, "overwrite")}
    expected -= {(function, "copy"), ("tl.pretrain", "checkpoint")}
    expected -= {(function, "engine"), (function, "mapping")}
    options = cli.options_of(command)
    assert {(each.owner, each.name) for each in options.values()} == expected
    assert len(options) == len(expected)  # no two of one name


def test_a_new_parameter_is_a_new_option(monkeypatch, tmp_path):
    """Of another package, with a tool that has a new parameter."""
    (tmp_path / "tl").mkdir()
    (tmp_path / "tl" / "__init__.py").write_text("from ._embed import embed\n")
    (tmp_path / "tl" / "_embed.py").write_text(
        "LEAST = 7\n"
        "def embed(data: Inputs, *, least: int | None = LEAST, share: float = 0.5) -> None:\n"
        '    """Embed.\n\n    Parameters\n    ----------\n    data\n        Cells.\n'
        '    least\n        ``Least`` of `share`,\n        50%.\n    """\n'
    )
    monkeypatch.setattr("epifoundation._signatures.PACKAGE", tmp_path)
    for cached in (read_signature, cli.options_of):
        cached.cache_clear()
    try:
        assert list(cli.options_of("embed")) == ["files", "least", "share"]
        text = " ".join(cli.option_parser("embed").format_help().split())
        assert "--least LEAST Least of --share, 50%. (default: 7, 0 for None)" in text
        assert cli.parse("embed", ["a", "--least", "3", "b"]) == {"files": ["a", "b"], "least": 3}
    finally:
        for cached in (read_signature, cli.options_of):
            cached.cache_clear()


def test_options_keep_their_names():
    """That scripts and files of options use."""
    names = {command: set(cli.options_of(command)) for command in cli.COMMANDS}
    common = {"output", "modality", "overwrite", "genome", "device"}
    learned = common | {"batch_key", "label_key", "validation", "layer", "rna_modality", "seed"}
    learned |= {"strategy", "precision", "compile", "state", "minutes", "log", "logger"}
    tools = common | {"files", "model", "key_added", "batch_key", "min_coverage"}
    assert names["embed"] >= tools | {"rna_modality", "expression", "annotation", "dtype"}
    assert names["annotate"] >= tools | {
        "reference",
        "label_key",
        "calibration",
        "alpha",
        "unknown",
        "seed",
    }
    assert names["pretrain"] >= learned | {
        "files",
        "objective",
        "preset",
        "init",
        "peaks",
        "min_cells",
    }
    assert names["finetune"] >= learned | {"files", "model", "rank", "expression", "min_coverage"}
    assert names["convert"] >= {
        "checkpoint",
        "vocabularies",
        "output",
        "genome",
        "labels",
        "overwrite",
    }
    assert names["report"] >= {
        "file",
        "output",
        "gene",
        "title",
        "label_key",
        "batch_key",
        "key_added",
        "seed",
    }


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_has_an_example(command, run):
    done = run(command, "--help")
    assert done.code == 0
    text = " ".join(done.output.split())
    example = f"Example: epifoundation {command} {cli.COMMANDS[command][1]}".strip()
    assert example in text
    for name in cli.options_of(command):
        assert f"--{name.replace('_', '-')}" in text or name.upper() in text
    assert not re.search(r"``|:\w+:`", text)  # markup
    arguments = cli.COMMANDS[command][1].split()
    assert all(value in cli.options_of(command) for value in cli.parse(command, arguments))


def test_help_lists_the_commands(run):
    done = run("--help")
    assert done.code == 0
    for command in cli.COMMANDS:
        assert re.search(rf"^  {command} +[A-Z].+\.$", done.output, flags=re.MULTILINE)
    assert "130 interrupted" in done.output
    nothing = run()
    assert (nothing.code, nothing.output, nothing.error) == (2, "", done.output)


LIGHT = [["--help"], ["embed", "--help"], ["count", "--help"], ["pretrain", "x.h5mu"]]


@pytest.mark.parametrize("arguments", LIGHT)
def test_help_and_errors_import_little(arguments):
    code = f"""
import sys
from epifoundation.cli import main
try:
    main({arguments})
except SystemExit as end:
    assert end.code == {0 if "--help" in arguments else 2}
heavy = ["torch", "numpy", "pandas", "scipy", "anndata", "mudata", "scanpy", "h5py"]
assert not set(heavy) & set(sys.modules), sys.modules.keys() & set(heavy)
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("arguments", "heavy"),
    [
        (["models"], ["torch", "anndata", "scipy"]),
        (
            ["embed", "a.h5ad", "-o", "out.zarr"],
            ["bioframe", "matplotlib", "scanpy", "lightning", "sklearn"],
        ),
    ],
)
def test_commands_import_what_they_need(arguments, heavy, tmp_path):
    """Of what takes a second; no threads spin, unless that is set."""
    code = f"""
import os, sys, warnings
from epifoundation.cli import main
warnings.simplefilter("ignore")
main({arguments})
assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
os.environ["OMP_WAIT_POLICY"] = "ACTIVE"
main(["models"])
assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
sys.exit(str(sorted(set({heavy}) & set(sys.modules))))
"""
    ep.datasets.pbmc_multiome()["atac"][:50].copy().write_h5ad(tmp_path / "a.h5ad")
    env = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    path = os.pathsep.join([str(Path(ep.__file__).parents[1]), env.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=env | {"PYTHONPATH": path},
    )
    assert done.stderr == "[]\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["embedd"],
            "epifoundation: error: argument COMMAND: invalid choice: 'embedd' (choose from",
        ),
        (["embed"], "epifoundation embed: error: missing FILES (see epifoundation embed --help)"),
        (["report", "a.h5ad"], "epifoundation report: error: missing --output"),
        (
            ["embed", "a.h5ad", "--seed", "3"],
            "epifoundation embed: error: unrecognized arguments: --seed 3",
        ),
        (["embed", "a.h5ad", "--over"], "unrecognized arguments: --over"),
        (["report", "a", "b", "-o", "c.html"], "unrecognized arguments: b"),
        (["annotate", "a.h5ad", "--alpha", "x"], "argument --alpha: invalid float value: 'x'"),
        (
            ["pretrain", "a.h5mu", "-o", "m", "--config", "no.toml"],
            "'no.toml' cannot be read as TOML",
        ),
    ],
)
def test_errors_in_options_take_one_line(arguments, message, run):
    done = run(*arguments)
    assert (done.code, done.output) == (2, "")
    assert message in done.error
    assert done.error.count("\n") == 1


def test_embed_and_annotate(folder, mdata, model, run):
    done = run(
        "embed",
        folder / "a.h5ad",
        "-m",
        folder / "model",
        "-o",
        folder / "out.h5ad",
        "--no-annotation",
        "-q",
    )
    assert done.code == 0, done.error
    assert done.output.strip() == str(folder / "out.h5ad")
    ep.tl.embed(mdata["atac"], model)
    found = ad.read_h5ad(folder / "out.h5ad")
    np.testing.assert_allclose(
        found.obsm["X_epifoundation"], mdata["atac"].obsm["X_epifoundation"], atol=1e-5
    )
    assert "epifoundation_cell_type" not in found.obs
    options = ["--reference", folder / "m.h5mu", "--label-key", "cell_type", "-q"]
    files = ["-m", folder / "model", "-o", folder / "labels.zarr"]
    done = run("annotate", folder / "a.h5ad", *files, *options)
    assert done.code == 0, done.error
    assert (
        ad.read_zarr(folder / "labels.zarr").uns["epifoundation_annotation"]["calibration"] == 0.2
    )


def same(found, expected):
    """Whether two AnnData have the same values, cells and variables."""
    for part in ("obs", "var"):
        pd.testing.assert_frame_equal(
            getattr(found, part),
            getattr(expected, part),
            check_names=False,
            check_index_type=False,
            check_dtype=False,
            check_categorical=False,
        )
    X, Y = (
        each.X.toarray() if hasattr(each.X, "toarray") else each.X for each in (found, expected)
    )
    np.testing.assert_allclose(X, Y, rtol=1e-5)


@pytest.mark.parametrize("name", ["counted.h5ad", "counted.zarr"])
def test_count(folder, mdata, model, run, name):
    path = ep.datasets.simulate_fragments(mdata, folder / "f.tsv.gz", n_empty=500)
    (folder / "barcodes.tsv").write_text("\n".join(mdata.obs_names[:50]) + "\n")
    options = ["-o", folder / name, "-q"]
    done = run("count", path, folder / "model", *options)
    assert (done.code, done.output.strip()) == (0, str(folder / name)), done.error
    read = ad.read_h5ad if name.endswith(".h5ad") else ad.read_zarr
    same(read(folder / name), ep.pp.count_fragments(path, model))
    assert set(read(folder / name).obs_names) <= set(mdata.obs_names)
    done = run("count", path, folder / "model", *options)
    assert (done.code, done.output) == (1, "")
    assert f"{name}' exists: pass `overwrite`" in done.error
    done = run(
        "count", path, folder / "model", *options, "--overwrite",
        "--barcodes", folder / "barcodes.tsv", "--counting", "fragment",
    )  # fmt: skip
    assert done.code == 0, done.error
    barcodes = mdata.obs_names[:50]
    same(
        read(folder / name),
        ep.pp.count_fragments(path, model, barcodes=barcodes, counting="fragment"),
    )
    done = run("embed", folder / name, "-m", folder / "model", "-o", folder / "e.zarr", "-q")
    assert done.code == 0, done.error


def test_coverage(folder, mdata, run):
    path = ep.datasets.simulate_fragments(mdata, folder / "f.tsv.gz")
    kinds = mdata["atac"].obs["cell_type"]
    kinds.to_csv(folder / "groups.tsv", sep="\t", header=False)
    done = run("coverage", path, folder / "groups.tsv", "hg38", "-o", folder / "tracks", "-q")
    assert done.code == 0, done.error
    written = dict(line.split("\t") for line in done.output.splitlines())
    tracks = ep.pp.group_coverage(path, kinds, genome="hg38", directory=folder / "other")
    assert list(written) == list(tracks)
    for name, track in tracks.items():
        assert Path(written[name]).read_bytes() == track.read_bytes()
    done = run("coverage", path, folder / "groups.tsv", "hg38", "-o", folder / "tracks", "-q")
    assert (done.code, done.output) == (1, "")
    assert "pass `overwrite=True` or another `directory`" in done.error


def test_fragments_are_to_be_counted_first(folder, mdata, run):
    path = ep.datasets.simulate_fragments(mdata, folder / "f.tsv.gz")
    done = run("embed", path, "-o", folder / "out.zarr")
    assert done.code == 1
    assert "f.tsv.gz' is a fragments file" in done.error
    assert "in a shell `epifoundation count`" in done.error


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("counted.csv", "`output` must end in .h5ad, .zarr, got "),
        ("nowhere/counted.h5ad", "nowhere' does not exist, or cannot be written to"),
    ],
)
def test_results_that_cannot_be_written_are_refused_first(
    folder, run, output, message, monkeypatch
):
    monkeypatch.setattr(ep.pp, "count_fragments", lambda *_, **__: pytest.fail("called"))
    done = run("count", folder / "f.tsv.gz", folder / "model", "-o", folder / output)
    assert (done.code, done.output) == (1, "")
    assert message in done.error


def test_knock_out(folder, mdata, model, run):
    peaks = list(mdata["atac"].var_names[:2])
    options = [
        "-m",
        folder / "model",
        "-o",
        folder / "changes.h5ad",
        "--gene",
        model.genes.names[0],
    ]
    done = run("knock-out", folder / "a.h5ad", *peaks, *options)
    assert done.code == 0, done.error
    found = ad.read_h5ad(folder / "changes.h5ad")
    expected = ep.tl.knock_out(mdata["atac"], model, peaks=peaks, genes=model.genes.names[0])
    np.testing.assert_allclose(found.to_df(), expected.expression, atol=1e-6)
    np.testing.assert_allclose(found.obsm["probabilities"], expected.probabilities, atol=1e-6)
    assert list(found.obs["n_removed"]) == list(expected.n_removed)
    assert list(found.uns["epifoundation_knock_out"]["peaks"]) == peaks
    assert run("knock-out", folder / "a.h5ad", "-o", folder / "b.h5ad").code == 2
    done = run("knock-out", folder / "a.h5ad", "peak1", *options, "--overwrite")
    assert done.code == 1
    assert "peak1" in done.error


def test_link_peaks(folder, mdata, model, run):
    genes = model.genes.names[:2]
    options = ["-m", folder / "model", "--max-distance", 50_000]
    options += [word for gene in genes for word in ("--gene", gene)]
    done = run("link-peaks", folder / "m.h5mu", *options, "-o", folder / "links.tsv.gz")
    assert done.code == 0, done.error
    ep.tl.link_peaks(mdata, model, genes=genes, max_distance=50_000)
    expected = mdata["atac"].uns["epifoundation_links"]
    found = pd.read_csv(folder / "links.tsv.gz", sep="\t", dtype={"group": str})
    assert list(found["peak"]) == list(expected["peak"])
    np.testing.assert_allclose(found["effect"], expected["effect"], rtol=1e-5)
    for kind in ("bedpe", "interact"):
        done = run("link-peaks", folder / "m.h5mu", *options, "-o", folder / f"links.{kind}")
        assert done.code == 0, done.error
        path = ep.tl.write_links(mdata, path=folder / f"expected.{kind}", max_qvalue=None)
        assert (folder / f"links.{kind}").read_text() == path.read_text()


def test_pretrain_with_a_configuration(folder, run):
    (folder / "run.toml").write_text(
        '[pretrain]\nbatch_key = "batch"\nvalidation = ["batch1"]\n'
        'label_key = "cell_type"\nseed = 5\n'
        "[pretrain.architecture]\ndim = 16\n[pretrain.training]\npseudocount = 3\n"
        '[finetune]\nlabel_key = "cell_type"\n[finetune.training]\nlandmarks = 30\n'
    )
    config = ["--config", folder / "run.toml", "-q"]
    options = ["--seed", 3, "--state", folder / "run.state"]
    done = run("pretrain", folder / "m.h5mu", "-o", folder / "new", *config, *options)
    assert done.code == 0, done.error
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
    files = ["-m", folder / "new", "-o", folder / "tuned"]
    done = run("finetune", folder / "m.h5mu", *files, *config)
    assert done.code == 0, done.error
    tuned = ep.models.from_pretrained(folder / "tuned")
    assert tuned.labels == model.labels
    assert tuned.network.sizes.n_label_landmarks == 30


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("architecture]\nn_heads = 2", "`n_heads=2` does not apply to the encoder 'set'"),
        (
            "training]\nmax_epochs = 2",
            "`max_epochs=2` does not apply to the encoder 'set': it is fitted in closed form",
        ),
        ("training]\nadversarial = 1.0", "TrainingConfig has no fields ['adversarial']"),
    ],
)
def test_options_of_a_transformer_are_refused(folder, table, message, run):
    (folder / "run.toml").write_text(f"[pretrain]\n[pretrain.{table}\n")
    done = run(
        "pretrain", folder / "m.h5mu", "-o", folder / "new", "--config", folder / "run.toml", "-q"
    )
    assert done.code == 1
    assert message in done.error
    assert not (folder / "new").exists()


def test_a_transformer_is_trained_and_tuned(folder, run):
    (folder / "run.toml").write_text(
        '[pretrain.architecture]\nencoder = "transformer"\ndim = 8\nn_heads = 1\nn_layers = 1\n'
        "[pretrain.training]\nmax_epochs = 1\nbatch_size = 128\n"
        "[finetune.training]\nmax_epochs = 2\nbatch_size = 128\n"
    )
    options = ["--config", folder / "run.toml", "--state", folder / "run.state", "-q"]
    done = run("pretrain", folder / "m.h5mu", "-o", folder / "new", *options)
    assert done.code == 0, done.error
    assert (folder / "run.state").exists()  # goes on from there, with more epochs
    files = ["-m", folder / "new", "-o", folder / "tuned"]
    options = ["--label-key", "cell_type", "--rank", 0, *options[:2], "-q"]
    done = run("finetune", folder / "m.h5mu", *files, *options)
    assert done.code == 0, done.error
    options = ep.models.from_pretrained(folder / "tuned").training["options"]
    recipe = ep.TrainingConfig.preset("finetune")
    assert (options["max_epochs"], options["peak_weight"], options["patience"]) == (
        2,
        recipe.peak_weight,
        recipe.patience,
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[embed]\nbatchkey = 'x'\n", r"unknown options \['batchkey'\]"),
        ("[annotate]\nalpha = 0.2\n", r"no table \[embed\]"),
        ("[embed\n", "cannot be read as TOML"),
        ("[embed]\nannotation = 'no'\n", "`annotation` in .* must be of type bool, got 'no'"),
        ("[embed]\nmin_coverage = '0.1'\n", "`min_coverage` in .* must be of type float"),
    ],
)
def test_bad_configurations(folder, content, message, run):
    (folder / "run.toml").write_text(content)
    done = run("embed", folder / "a.h5ad", "--config", folder / "run.toml")
    assert done.code == 2
    assert re.search(message, done.error)


def test_unknown_fields_of_a_table(folder, run):
    (folder / "run.toml").write_text("[pretrain]\n[pretrain.training]\nepochs = 2\n")
    done = run(
        "pretrain", folder / "m.h5mu", "-o", folder / "new", "--config", folder / "run.toml", "-q"
    )
    assert done.code == 1
    assert "ValueError: TrainingConfig has no fields ['epochs']" in done.error


def test_report(folder, run):
    done = run("embed", folder / "m.h5mu", "-m", folder / "model", "-q")
    assert done.code == 0, done.error
    options = ["--label-key", "cell_type", "--batch-key", "batch", "--title", "Nine batches"]
    done = run("report", folder / "m.h5mu", "-o", folder / "report.html", *options)
    assert done.code == 0, done.error
    assert done.output.strip() == str(folder / "report.html")
    assert "<h1>Nine batches</h1>" in (folder / "report.html").read_text()
    again = run("report", folder / "m.h5mu", "-o", folder / "report.html")
    assert again.code == 1
    assert again.error.startswith("epifoundation: FileExistsError: ")


@pytest.mark.slow
def test_exit_codes(folder, run):
    """Of the command itself."""

    def code(*arguments):
        command = [sys.executable, "-m", "epifoundation", *map(str, arguments)]
        done = subprocess.run(
            command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        return done.returncode, done.stderr

    done = run("models")
    assert done.code == 0
    assert set(ep.models.available().index) <= set(done.output.split())
    status, message = code("embed", folder / "nowhere.h5ad")
    assert status == 1
    assert (
        message.strip()
        == f"epifoundation: FileNotFoundError: The file '{folder}/nowhere.h5ad' does not exist."
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["0.2"], 0.2),
        (["donor1"], ["donor1"]),
        (["1"], ["1"]),
        (["1", "2"], ["1", "2"]),
        (["0.1", "0.2"], ["0.1", "0.2"]),
        (["v1.2"], ["v1.2"]),
    ],
)
def test_held_out(arguments, expected):
    """A fraction, or names of batches."""
    line = ["file", "-o", "model", *(word for each in arguments for word in ("--validation", each))]
    given = cli.parse("pretrain", line)
    option = cli.options_of("pretrain")["validation"]
    assert cli.argument_of(option, given["validation"], given) == expected
    for of_a_file in (0.2, [0.2]):
        assert cli.argument_of(option, of_a_file, given) == 0.2


def test_zero_stands_for_none_where_that_is_no_default():
    options = cli.options_of("finetune") | cli.options_of("convert")
    assert cli.argument_of(options["rank"], 0, {}) is None
    assert cli.argument_of(options["rank"], 8, {}) == 8
    assert cli.argument_of(options["max_peaks"], 0, {}) is None
    assert cli.argument_of(options["n_heads"], 0, {}) == 0
    assert cli.argument_of(options["seed"], 0, {}) == 0


def test_options_on_the_line_come_first(tmp_path):
    (tmp_path / "run.toml").write_text(
        '[report]\nfile = "b.h5ad"\noutput = "b.html"\ngene = ["CD8A"]\nseed = 3\ntitle = "Ten"\n'
    )
    given = cli.parse(
        "report",
        ["a.h5ad", "--gene", "MS4A1", "--seed", "0", "--config", str(tmp_path / "run.toml")],
    )
    assert given == {
        "file": "a.h5ad",
        "output": "b.html",
        "gene": ["MS4A1"],
        "seed": 0,
        "title": "Ten",
    }
