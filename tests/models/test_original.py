"""Conversion of original checkpoints: the same numbers, names and options."""

import collections
import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracles.checkpoint import Made

import epifoundation as ep
from epifoundation import cli

GOLDEN = ("pretrain", "value_finetune_batch")


def outputs(model, ids, offsets, batch):
    """What the documentation says that the original's outputs are called here."""
    network = model.network
    embedding = network.folded().encode(ids, offsets)
    result = {"cell_emb": embedding, "mvc_pred": network.expression.outputs(embedding, batch)}
    if network.expression.values is not None:
        result["value_pred"] = network.expression.predicted_values(embedding, batch)
    if network.label is not None:
        result["cell_pred"] = network.label.logits(embedding)
    return result


def compare(found, expected):
    assert set(found) == set(expected)
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name], atol=1e-5, rtol=0, err_msg=name)


@pytest.fixture
def made(tmp_path):
    return Made(
        tmp_path / "original", n_layers=2, feedforward=24, n_batches=3, n_types=4, values=True
    )


@pytest.fixture(scope="session")
def upstream(shared_data):
    return shared_data.parent / "upstream"


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_outputs_of_the_original_implementation(upstream, name):
    folder = upstream / name
    expected = dict(np.load(folder / "expected.npz"))
    model = ep.models.convert_original(folder / "checkpoint.pth", folder)
    ids, offsets = (torch.from_numpy(expected.pop(key)) for key in ("indices", "indptr"))
    batch = torch.from_numpy(expected.pop("batch")) if model.network.sizes.n_batches else None
    expected.pop("batch", None)
    assert 1 in offsets.diff()
    compare(outputs(model, ids, offsets, batch), expected)
    trained = model.network.encode(ids, offsets)
    torch.testing.assert_close(trained, torch.from_numpy(expected["cell_emb"]), atol=1e-5, rtol=0)
    rough = model.network.folded(torch.bfloat16).encode(ids, offsets)
    assert torch.cosine_similarity(rough, trained).min() >= 0.999


def test_the_command_line_converts(made, tmp_path, capsys):
    arguments = [
        "convert",
        str(made.folder / "checkpoint.pth"),
        str(made.folder),
        "-o",
        str(tmp_path / "model"),
    ]
    cli.main([*arguments, "--n-heads", str(made.n_heads), "--no-labels", "--genome", "mm10"])
    assert capsys.readouterr().out == f"{tmp_path / 'model'}\n"
    model = ep.models.from_pretrained(tmp_path / "model")
    assert model.revision == made.convert(labels=False, genome="mm10").revision
    with pytest.raises(SystemExit) as end:
        cli.main([*arguments, "--n-heads", str(made.n_heads)])
    assert end.value.code == 1
    assert "FileExistsError" in capsys.readouterr().err


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_outputs_through_embed(upstream, name):
    """The whole way: an AnnData with the peaks in another order, from a saved and loaded model."""
    import anndata
    import pandas as pd
    import scipy.sparse as sp

    folder = upstream / name
    expected = dict(np.load(folder / "expected.npz"))
    model = ep.models.convert_original(folder / "checkpoint.pth", folder)
    n_cells = len(expected["indptr"]) - 1
    pattern = sp.csr_matrix(
        (np.ones(len(expected["indices"])), expected["indices"], expected["indptr"]),
        (n_cells, len(model.peaks)),
    )
    order = np.random.default_rng(0).permutation(len(model.peaks))
    batches = [f"batch_{i}" for i in expected["batch"]]
    obs = pd.DataFrame({"batch": batches}, index=[f"cell{i}" for i in range(n_cells)])
    atac = anndata.AnnData(
        pattern[:, order], obs=obs, var=pd.DataFrame(index=model.peaks.names[order])
    )
    batch_key = "batch" if model.training["batches"] else None
    ep.tl.embed(atac, model, batch_key=batch_key)
    np.testing.assert_allclose(
        atac.obsm["X_epifoundation"], expected["cell_emb"], atol=1e-5, rtol=0
    )
    logits = torch.from_numpy(expected["mvc_pred"])
    wanted = expected.get("value_pred", logits.softmax(-1)[..., 1])
    np.testing.assert_allclose(atac.obsm["epifoundation_expression"], wanted, atol=1e-5, rtol=0)
    probabilities = torch.from_numpy(expected["cell_pred"]).softmax(-1)
    np.testing.assert_allclose(
        atac.obsm["epifoundation_probabilities"], probabilities, atol=1e-5, rtol=0
    )
    assert list(atac.obsm["epifoundation_probabilities"]) == [
        f"type_{i}" for i in range(probabilities.shape[1])
    ]
    assert list(atac.obsm["epifoundation_expression"]) == model.genes.names


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.fixed_dictionaries(
        {
            "seed": st.integers(0, 1000),
            "n_heads": st.sampled_from([1, 2, 4, 8]),
            "width": st.sampled_from([4, 8, 12]),
            "n_layers": st.integers(1, 3),
            "feedforward": st.sampled_from([16, 40]),
            "chromosomes": st.booleans(),
            "n_batches": st.sampled_from([0, 1, 3]),
            "n_types": st.sampled_from([0, 1, 5]),
            "n_bins": st.sampled_from([2, 4]),
            "values": st.booleans(),
        }
    )
)
def test_any_shape_of_checkpoint_gives_the_numbers_of_a_plain_implementation(tmp_path, options):
    shutil.rmtree(tmp_path / "any", ignore_errors=True)
    made = Made(tmp_path / "any", **options)
    compare(outputs(made.convert(), made.ids, made.offsets, made.batch), made.expected)


def test_names_and_options_come_along(made, tmp_path):
    model = made.convert(genome="hg19", max_peaks=99)
    assert model.labels == ["t0", "t1", "t2", "t3"]
    assert model.genes.names == [f"GENE{i}" for i in range(12)]
    assert model.training["batches"] == ["b0", "b1", "b2"]
    assert (model.training["epoch"], model.training["steps"]) == (3, 10)
    assert (model.peaks.genome, model.config.max_peaks, model.config.n_heads) == ("hg19", 99, 4)
    assert model.device.type == "cpu"
    again = ep.models.from_pretrained(model.save_pretrained(tmp_path / "saved"))
    compare(outputs(again, made.ids, made.offsets, made.batch), made.expected)
    assert again.config == model.config
    assert again.network.encoder.tokens.chromosome_of.dtype == torch.int64
    assert {file.suffix for file in (tmp_path / "saved").iterdir()} == {
        ".json",
        ".safetensors",
        ".gz",
        ".tsv",
        ".md",
    }


def test_the_state_may_be_bare_half_precise_compiled_or_of_parallel_training(made):
    for change in (
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
        lambda state: {f"module._orig_mod.{name}": tensor for name, tensor in state.items()},
        lambda state: collections.OrderedDict(state),
    ):
        torch.save({"model": change(made.state)}, made.folder / "checkpoint.pth")
        compare(outputs(made.convert(), made.ids, made.offsets, made.batch), made.expected)
    torch.save(made.state, made.folder / "checkpoint.pth")
    compare(outputs(made.convert(), made.ids, made.offsets, made.batch), made.expected)
    half = {
        name: tensor.bfloat16() if tensor.is_floating_point() else tensor
        for name, tensor in made.state.items()
    }
    torch.save({"model": half}, made.folder / "checkpoint.pth")
    assert all(
        t.dtype in (torch.float32, torch.int64)
        for t in made.convert().network.state_dict().values()
    )


def test_vocabularies_may_be_a_mapping_of_files_or_of_contents(made):
    path = made.folder / "checkpoint.pth"
    as_content = ep.models.convert_original(path, made.vocabularies, n_heads=4)
    files = {kind: made.folder / f"{kind}_vocab.json" for kind in made.vocabularies}
    files["gene2chr"] = str(made.folder / "gene2chr.json")
    as_files = ep.models.convert_original(path, files, n_heads=4)
    for model in (as_content, as_files):
        compare(outputs(model, made.ids, made.offsets, made.batch), made.expected)
    with pytest.raises(
        ValueError, match=r"Unknown vocabularies \['peaks'\]; the names are \['atac', 'rna'"
    ):
        ep.models.convert_original(path, {"peaks": made.vocabularies["atac"]})


def test_files_with_similar_names_are_found(made):
    (made.folder / "cell_vocab.json").rename(made.folder / "cell_pbmc.json")
    (made.folder / "batch_vocab.json").rename(made.folder / "pbmc_batch_vocab.json")
    assert made.convert().labels == ["t0", "t1", "t2", "t3"]


def test_heads_are_those_of_the_configuration_else_eight(made):
    (made.folder / "config.json").write_text(json.dumps({"head_num": 4, "head_dim": 24}))
    assert made.convert(n_heads=None).config.n_heads == 4
    assert made.convert(n_heads=2).config.n_heads == 2
    files = {
        kind: made.folder / f"{kind}_vocab.json" for kind in made.vocabularies if kind != "gene2chr"
    }
    files["gene2chr"] = made.folder / "gene2chr.json"
    (made.folder / "elsewhere").mkdir()
    elsewhere = shutil.copy(made.folder / "checkpoint.pth", made.folder / "elsewhere")
    assert ep.models.convert_original(elsewhere, files).config.n_heads == 4
    (made.folder / "config.json").unlink()
    assert made.convert(n_heads=None).config.n_heads == 8
    with pytest.raises(
        ValueError, match="`n_heads` must be a divisor of the width 32.*got 5.*`head_num`"
    ):
        made.convert(n_heads=5)


def test_no_flash_attn_is_imported_or_asked_for(upstream, forks, tmp_path):
    folder = f"{upstream}/pretrain"
    code = (
        "import sys; sys.modules['flash_attn'] = None; import epifoundation as ep, torch;"
        f"network = ep.models.convert_original('{folder}/checkpoint.pth', '{folder}').network;"
        "cells = torch.arange(5), torch.tensor([0, 5]);"
        "network.folded().encode(*cells); network.encode(*cells)"
    )
    (tmp_path / "script.py").write_text(code)
    process = forks.start(tmp_path / "script.py")
    assert process.communicate()[1] == ""
    assert process.returncode == 0
