"""Training on cells of which some have ATAC or RNA alone, or in another order."""

import warnings

import anndata
import mudata
import numpy as np
import pytest
from stored_cells import combined, write

import epifoundation as ep

RNG = np.random.default_rng(0)
OPTIONS = {"config": ep.ModelConfig(dim=16), "min_cells": 2, "genome": "hg38"}


def assert_same(found, expected):
    one, other = (each.network.state_dict() for each in (found, expected))
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        np.testing.assert_array_equal(tensor.numpy(), other[name].numpy(), err_msg=name)
    assert found.peaks.same_as(expected.peaks.intervals)
    assert found.genes.names == expected.genes.names
    assert found.training["cells"] == expected.training["cells"]


@pytest.mark.parametrize("kind", ["memory", "h5mu", "zarr"])
def test_the_order_of_the_rna_changes_nothing(simulated, kind, tmp_path):
    shuffled = combined(simulated, np.arange(400), RNG.permutation(400))
    place = shuffled if kind == "memory" else write(shuffled, tmp_path / f"a.{kind}")
    options = OPTIONS | {"batch_key": "batch", "label_key": "cell_type"}
    assert_same(ep.tl.pretrain(place, **options), ep.tl.pretrain(simulated, **options))


@pytest.mark.parametrize("kind", ["memory", "h5mu", "zarr", "two files"])
@pytest.mark.parametrize("key", ["batch", "rna:batch"])
def test_cells_with_one_modality_change_nothing(simulated, kind, key, tmp_path):
    """They do not count as cells whose expression was measured as zero."""
    data = combined(simulated, RNG.permutation(390), 100 + RNG.permutation(300))
    both = [name for name in data["atac"].obs_names if name in set(data["rna"].obs_names)]
    expected = ep.tl.pretrain(
        combined(data, both, both), batch_key="batch", label_key="cell_type", **OPTIONS
    )
    if kind == "two files":
        rows = data["atac"].obs_names
        halves = [combined(data, rows[:200], both), combined(data, rows[200:], both)]
        place = [write(half, tmp_path / f"{i}.h5mu") for i, half in enumerate(halves)]
    else:
        place = data if kind == "memory" else write(data, tmp_path / f"a.{kind}")
    with pytest.warns(UserWarning, match=r"cells with ATAC of .* have no RNA") as caught:
        found = ep.tl.pretrain(place, batch_key=key, label_key="cell_type", **OPTIONS)
    if kind != "two files":
        assert "100 of the 390" in str(caught[0].message)
        assert "10 of the 300 with RNA" in str(caught[0].message)
    assert_same(found, expected)


def test_all_cells_are_used_for_what_needs_atac_alone(simulated):
    data = combined(simulated, np.arange(400), np.arange(250))
    model = ep.tl.pretrain(data, objective="peaks", **OPTIONS)
    assert model.training["cells"] + model.training["validation_cells"] == 400
    tuned = ep.tl.finetune(data, model, label_key="cell_type")
    assert tuned.training["cells"] + tuned.training["validation_cells"] == 400
    # Labels of the RNA: the others are cells without a label
    tuned = ep.tl.finetune(data, model, label_key="rna:cell_type")
    assert tuned.training["unlabelled_cells"] == 150


def test_a_transformer_reads_the_same_pairs(simulated):
    data = combined(simulated, np.arange(300), RNG.permutation(np.arange(50, 400)))
    both = np.arange(50, 300)
    options = {
        "config": ep.ModelConfig(encoder="transformer", dim=8, n_heads=1, n_layers=1),
        "training": ep.TrainingConfig(max_epochs=1),
    }
    expected = ep.tl.pretrain(combined(simulated, both, both), **options)
    with pytest.warns(UserWarning, match="50 of the 300 cells with ATAC"):
        found = ep.tl.pretrain(data, **options)
    assert_same(found, expected)


def test_fine_tuning_with_batches_uses_the_pairs_unless_expression_is_ignored(simulated, model):
    data = combined(simulated, np.arange(400), RNG.permutation(300))
    with pytest.warns(UserWarning, match=r"100 of the 400 .*`expression=False`"):
        tuned = ep.tl.finetune(data, model, batch_key="batch", label_key="cell_type")
    assert tuned.training["cells"] + tuned.training["validation_cells"] == 300
    assert tuned.training["unlabelled_cells"] == 0
    tuned = ep.tl.finetune(data, model, batch_key="batch", expression=False)
    assert tuned.training["cells"] + tuned.training["validation_cells"] == 400


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["memory", "h5mu"])
def test_names_that_do_not_agree_are_explained(simulated, model, kind, tmp_path):
    data = simulated.copy()
    data["rna"].obs_names = "s1#" + data["rna"].obs_names
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data.update()
    place = data if kind == "memory" else write(data, tmp_path / "a.h5mu")
    cure = r"0 cells are in both.*'cell0' and 's1#cell0'.*removeprefix\('s1#'\); mdata.update\(\)"
    for tool, options in (
        (ep.tl.pretrain, OPTIONS),
        (ep.tl.pretrain, OPTIONS | {"objective": "peaks", "label_key": "rna:cell_type"}),
        (ep.tl.finetune, {"model": model, "batch_key": "batch"}),
        (ep.tl.embed, {"model": model, "batch_key": "rna:batch"}),
    ):
        with pytest.raises(ValueError, match=cure):
            tool(place, **options)


@pytest.mark.filterwarnings("ignore:.*unique:UserWarning", "ignore:.*have no RNA:UserWarning")
@pytest.mark.parametrize("kind", ["memory", "h5mu"])
def test_pairs_of_different_batches_are_noticed(simulated, kind, tmp_path):
    """Barcodes of two samples that repeat, numbered by `obs_names_make_unique` in the RNA only."""
    data = {}
    for name, rows in {
        "rna": [range(300), range(100)],
        "atac": [range(100, 300), range(100)],
    }.items():
        parts = [simulated[name][list(each)].copy() for each in rows]
        for batch, part in enumerate(parts):
            part.obs["batch"] = str(batch)
        data[name] = anndata.concat(parts)
        data[name].var = simulated[name].var
        data[name].obs_names_make_unique()
    data = mudata.MuData(data)
    place = data if kind == "memory" else write(data, tmp_path / "a.h5mu")
    with pytest.warns(UserWarning, match=r"cells of .* have another `batch_key='batch'`"):
        ep.tl.pretrain(place, batch_key="batch", **OPTIONS)
