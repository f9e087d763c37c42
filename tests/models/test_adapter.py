"""Adapters are small, come back the same, and fit no other model."""

import json
from dataclasses import replace

import numpy as np
import pytest
from sealing import rewrite

import epifoundation as ep
from epifoundation.paper import train

# Of a transformer
SMALL = ep.ModelConfig(encoder="transformer", dim=16, n_heads=2, n_layers=1)
PRETRAINING = ep.TrainingConfig(max_epochs=1, batch_size=128)
FINETUNING = replace(ep.TrainingConfig.preset("finetune"), max_epochs=1, batch_size=128)


@pytest.fixture(scope="module", params=["set", "transformer"])
def saved(request, simulated, tmp_path_factory):
    """A model in a directory, a fine-tuned one, and the directory of its adapter."""
    folder = tmp_path_factory.mktemp("models")
    config, pretraining, finetuning = ep.ModelConfig(dim=32), None, None
    if request.param == "transformer":
        config, pretraining, finetuning = SMALL, PRETRAINING, FINETUNING
    base = ep.tl.pretrain(simulated, config=config, training=pretraining, genome="hg38")
    base.save_pretrained(folder / "base")
    base = ep.models.from_pretrained(folder / "base")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            train, "SHARES", (1.0,)
        )  # all of the update is kept, so that there is one to be saved
        tuned = ep.tl.finetune(
            simulated, base, label_key="cell_type", batch_key="batch", training=finetuning
        )
    return folder, base, tuned, tuned.save_adapter(folder / "mine")


def results(data, model):
    atac = ep.tl.embed(data["atac"], model, copy=True)
    return (
        atac.obsm["X_epifoundation"],
        atac.obsm["epifoundation_expression"],
        atac.obsm["epifoundation_probabilities"],
    )


def test_an_adapter_comes_back_the_same(simulated, saved):
    _, _, tuned, path = saved
    again = ep.models.from_pretrained(path)  # finds its base by name
    assert again.revision == tuned.revision
    assert (again.labels, again.training) == (tuned.labels, json.loads(json.dumps(tuned.training)))
    assert again.adapter.revision == tuned.adapter.revision
    assert again.weights == tuned.weights
    assert again.cell_bytes == tuned.cell_bytes
    for found, expected in zip(results(simulated, again), results(simulated, tuned), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_data_embedded_before_are_of_the_same_model(simulated, saved):
    _, _, tuned, path = saved
    atac = simulated["atac"].copy()
    ep.tl.embed(atac, tuned)
    ep.tl.annotate(atac, ep.models.from_pretrained(path))
    assert "epifoundation_set" in atac.obs


def test_what_is_saved_is_a_part_of_the_model(saved):
    _, base, tuned, path = saved
    files = {"config.json", "adapter.safetensors", "labels.json", "README.md"}
    assert {file.name for file in path.iterdir()} == files | (
        {"cells.safetensors"} if tuned.cells else set()
    )
    names = {name.removesuffix(".left").removesuffix(".right") for name in tuned.adapter.tensors}
    assert any(name.startswith("label.") for name in names)
    unchanged = {
        "peaks.linear.weight",
        "encoder.vectors.weight",
        "encoder.vectors.count",
        "encoder.readout.weight",
    }
    assert not names & unchanged
    if tuned.cells:  # of the clusters they are those of the base
        assert set(tuned.cells) == {"encoder", "labels"}
        assert (path / "cells.safetensors").stat().st_size < len(tuned.cell_bytes) - len(
            base.cell_bytes
        ) / 2


def test_the_whole_can_be_saved_too(simulated, saved, tmp_path):
    _, _, tuned, _ = saved
    whole = ep.models.from_pretrained(tuned.save_pretrained(tmp_path / "whole"))
    assert whole.adapter is None
    assert whole.revision == tuned.revision
    for found, expected in zip(results(simulated, whole), results(simulated, tuned), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_an_adapter_of_an_adapter(simulated, saved):
    folder, _, _, path = saved
    middle = ep.models.from_pretrained(path)
    training = None if middle.config.is_measured else FINETUNING
    last = ep.tl.finetune(simulated["atac"], middle, label_key="cell_type", training=training)
    last.save_adapter(folder / "last")
    again = ep.models.from_pretrained(folder / "last")
    assert (again.revision, again.weights, again.cell_bytes) == (
        last.revision,
        last.weights,
        last.cell_bytes,
    )


def test_the_base_can_be_given_and_must_be_the_right_one(simulated, saved, model, tmp_path):
    folder, base, tuned, path = saved
    assert ep.models.from_pretrained(path, base=base).revision == tuned.revision
    assert ep.models.from_pretrained(path, base=folder / "base").revision == tuned.revision
    with pytest.raises(ValueError, match=r"adapter of the model .*base.*, but .* has the revision"):
        ep.models.from_pretrained(path, base=model)
    with pytest.raises(ValueError, match="is a whole model, not an adapter"):
        ep.models.from_pretrained(folder / "base", base=base)
    unsaved = ep.tl.finetune(simulated["atac"], model, label_key="cell_type")
    unsaved.save_adapter(tmp_path / "orphan")
    with pytest.raises(
        ValueError, match=r"of the model 'unsaved' .* which was not found .*pass it as `base=`"
    ):
        ep.models.from_pretrained(tmp_path / "orphan")
    assert ep.models.from_pretrained(tmp_path / "orphan", base=model).revision == unsaved.revision


def test_what_was_not_tuned_with_a_rank_has_no_adapter(simulated, model, tmp_path):
    with pytest.raises(ValueError, match=r"The model has no adapter.*save_pretrained"):
        model.save_adapter(tmp_path / "no")
    full = ep.tl.finetune(simulated["atac"], model, label_key="cell_type", rank=None)
    with pytest.raises(ValueError, match="The model has no adapter"):
        full.save_adapter(tmp_path / "no")
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("damage", ["truncated", "missing", "untold", "other tensors"])
def test_a_damaged_adapter_is_refused(saved, tmp_path, damage):
    _, base, tuned, _ = saved
    path = tuned.save_adapter(tmp_path / "broken")
    weights = path / "adapter.safetensors"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-10])
    elif damage == "missing":
        weights.unlink()
    elif damage == "untold":
        rewrite(path, lambda config: config.update(adapter_of={"model": "someone"}))
    else:
        tensors = dict(tuned.adapter.tensors)
        tensors["nowhere"] = next(iter(tensors.values())).clone()
        replace(tuned, adapter=replace(tuned.adapter, tensors=tensors)).save_adapter(
            path, overwrite=True
        )
    messages = {
        "truncated": "truncated or altered",
        "missing": "lacks 'adapter.safetensors'",
        "untold": r"damaged: missing or wrong \['adapter_of'\]",
        "other tensors": "unexpected",
    }
    with pytest.raises((ValueError, FileNotFoundError), match=messages[damage]):
        ep.models.from_pretrained(path, base=base)


def test_no_other_directory_is_overwritten(saved, tmp_path):
    _, _, tuned, _ = saved
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError, match="contains other files"):
        tuned.save_adapter(tmp_path, overwrite=True)
    path = tuned.save_adapter(tmp_path / "mine")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        tuned.save_adapter(path)
    tuned.save_adapter(path, overwrite=True)


def test_an_adapter_does_not_take_the_place_of_its_base(saved, tmp_path):
    _, base, tuned, _ = saved
    base.save_pretrained(tmp_path / "base")
    with pytest.raises(FileExistsError, match="contains the base model of the adapter"):
        tuned.save_adapter(tmp_path / "base", overwrite=True)
    assert ep.models.from_pretrained(tmp_path / "base").revision == base.revision


def test_a_model_read_from_an_adapter_and_saved_whole_is_the_same(saved, tmp_path):
    _, _, tuned, path = saved
    whole = ep.models.from_pretrained(path).save_pretrained(tmp_path / "whole")
    assert ep.models.from_pretrained(whole).revision == tuned.revision
