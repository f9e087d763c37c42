"""The directory format: round trip, and every kind of damage named."""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save, save_file
from sealing import reseal, rewrite

import epifoundation as ep


@pytest.fixture
def saved(model, tmp_path):
    return model.save_pretrained(tmp_path / "model")


def test_round_trip(model, saved):
    again = ep.models.from_pretrained(saved)
    assert again.config == model.config
    assert again.labels == model.labels
    assert again.genes.names == model.genes.names
    assert again.peaks.same_as(model.peaks.intervals)
    assert again.peaks.genome == model.peaks.genome == "hg38"
    assert again.training == json.loads(json.dumps(model.training))
    assert again.revision == model.revision
    for name, tensor in model.network.state_dict().items():
        assert torch.equal(tensor, again.network.state_dict()[name])


def test_saving_twice_gives_the_same_bytes(model, saved, tmp_path):
    other = model.save_pretrained(tmp_path / "deep" / "er")
    files = sorted(file.name for file in saved.iterdir())
    assert files == [
        "README.md",
        "cells.safetensors",
        "config.json",
        "genes.tsv",
        "labels.json",
        "model.safetensors",
        "peaks.bed.gz",
    ]
    for file in files:
        assert (saved / file).read_bytes() == (other / file).read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["model", "deep"] or len(
        list(tmp_path.iterdir())
    ) == 2


def test_a_directory_is_only_replaced_on_request_and_only_if_it_is_a_model(model, saved, tmp_path):
    with pytest.raises(FileExistsError, match="overwrite=True"):
        model.save_pretrained(saved)
    assert model.save_pretrained(saved, overwrite=True) == saved
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("precious")
    with pytest.raises(FileExistsError, match="choose another"):
        model.save_pretrained(tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "precious"
    (tmp_path / "empty").mkdir()
    model.save_pretrained(tmp_path / "empty")


def test_models_of_others_and_files_beside_ours_are_never_deleted(model, saved, tmp_path):
    foreign = tmp_path / "bert"
    foreign.mkdir()
    for name, text in (
        ("config.json", '{"model_type": "bert"}'),
        ("model.safetensors", ""),
        ("vocab.txt", ""),
    ):
        (foreign / name).write_text(text)
    (saved / "notes.txt").write_text("precious")
    for directory in (foreign, saved):
        before = sorted(directory.iterdir())
        with pytest.raises(FileExistsError, match="contains other files"):
            model.save_pretrained(directory, overwrite=True)
        assert sorted(directory.iterdir()) == before


def test_a_folder_does_not_shadow_a_registered_name(model, tmp_path, monkeypatch):
    model.save_pretrained(tmp_path / "pbmc-51loci")
    monkeypatch.chdir(tmp_path)
    assert len(ep.models.from_pretrained("pbmc-51loci").peaks) == 5724
    assert len(ep.models.from_pretrained("./pbmc-51loci").peaks) == len(model.peaks)
    monkeypatch.chdir(tmp_path / "pbmc-51loci")
    with pytest.raises(ValueError, match="Unknown model ''"):
        ep.models.from_pretrained("")


@pytest.mark.parametrize(
    "file",
    [
        "model.safetensors",
        "cells.safetensors",
        "peaks.bed.gz",
        "genes.tsv",
        "labels.json",
        "README.md",
    ],
)
@pytest.mark.parametrize("damage", ["truncated", "altered", "missing"])
def test_damage_is_found_and_named(saved, file, damage):
    path = saved / file
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "altered":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    else:
        path.unlink()
    message = (
        f"lacks '{file}'" if damage == "missing" else f"{re.escape(file)}' is truncated or altered"
    )
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        ep.models.from_pretrained(saved)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"no": "version"}'])
def test_a_damaged_config_is_named(saved, text):
    (saved / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json' is damaged"):
        ep.models.from_pretrained(saved)


def test_a_config_without_checksums_is_no_way_round_them(saved):
    rewrite(saved, lambda config: config["sha256"].pop("model.safetensors"))
    with pytest.raises(ValueError, match=r"missing or wrong \['model.safetensors'\]"):
        ep.models.from_pretrained(saved)


def test_a_newer_format_is_refused(saved):
    rewrite(saved, lambda config: config.update(format_version=99))
    with pytest.raises(ValueError, match="format version 99.*Upgrade"):
        ep.models.from_pretrained(saved)


def test_unknown_architecture_is_refused(saved):
    rewrite(saved, lambda config: config["model"].update(n_experts=8))
    with pytest.raises(ValueError, match=r"Unknown configuration keys \['n_experts'\]"):
        ep.models.from_pretrained(saved)


def test_weights_that_do_not_fit_are_named(saved):
    tensors = load_file(saved / "model.safetensors")
    tensors["encoder.extra"] = tensors.pop("encoder.vectors.base")
    tensors["encoder.vectors.count"] = tensors["encoder.vectors.count"][1:].clone()
    save_file(tensors, saved / "model.safetensors")
    reseal(saved, "model.safetensors")
    message = (
        r"missing encoder\.vectors\.base.*unexpected encoder\.extra.*\.vectors\.count has shape"
    )
    with pytest.raises(ValueError, match=message):
        ep.models.from_pretrained(saved)


def test_files_that_contradict_each_other_are_refused(saved):
    (saved / "genes.tsv").write_text("gene\nA\n")
    reseal(saved, "genes.tsv")
    with pytest.raises(ValueError, match="is inconsistent"):
        ep.models.from_pretrained(saved)


def test_no_pickle_is_ever_read(saved):
    (saved / "model.safetensors").write_bytes(b"\x80\x04\x95 not a safetensors file")
    reseal(saved, "model.safetensors")
    with pytest.raises(ValueError, match="not a safetensors file"):
        ep.models.from_pretrained(saved)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x04\x95 not a safetensors file", "is not a safetensors file"),
        (save({"encoder.hashes": torch.zeros(3)}), "lacks 'encoder.codes'"),
    ],
)
def test_damaged_cells_are_named(saved, content, message):
    (saved / "cells.safetensors").write_bytes(content)
    reseal(saved, "cells.safetensors")
    with pytest.raises(ValueError, match=message):
        ep.models.from_pretrained(saved)


def test_cells_come_back_or_are_left_out(model, saved, tmp_path):
    again = ep.models.from_pretrained(saved)
    assert set(again.cells) == set(model.cells) == {"encoder", "labels"}
    assert again.cell_bytes == model.cell_bytes
    assert "It recognizes its 400 training cells" in again.card
    without = ep.models.from_pretrained(model.save_pretrained(tmp_path / "without", cells=False))
    assert not (tmp_path / "without" / "cells.safetensors").exists()
    assert not without.cells
    assert without.weights == model.weights
    assert without.revision != model.revision
    assert "saved without its training cells" in without.card
    assert model.cells  # not changed


def test_what_is_kept_of_cells_is_small(model):
    """At most 30 bytes of each cell."""
    arrays = [array for cells in model.cells.values() for array in vars(cells).values()]
    assert sum(array.nbytes for array in arrays) <= 30 * 400


def test_unknown_names_list_the_known():
    with pytest.raises(
        ValueError, match=r"Unknown model 'pbmc'.*\['human-atlas', 'pbmc-51loci', '"
    ):
        ep.models.from_pretrained("pbmc")
    with pytest.raises(ValueError, match=r"`revision` \('main'\)"):
        ep.models.from_pretrained("pbmc-51loci", revision="main")
    with pytest.raises(ValueError, match="`device`"):
        ep.models.from_pretrained("pbmc-51loci", device="abacus")


def test_a_directory_that_is_no_model_says_what_is_there(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(FileNotFoundError, match=r"no config\.json; it contains \['notes\.txt'\]"):
        ep.models.from_pretrained(tmp_path)


def test_a_repository_is_downloaded(saved, hub):
    repo = shutil.copytree(saved, hub.folder / "someone" / "model")
    (repo / "notes.txt").write_text("not of the model")
    again = ep.models.from_pretrained("someone/model")
    assert again.revision == ep.models.from_pretrained(saved).revision
    assert again.name == "someone/model"
    assert sorted(hub.downloads) == sorted(file.name for file in saved.iterdir())


def test_a_name_that_is_found_nowhere_says_where_it_was_looked_for(hub, offline):
    (hub.folder / "someone" / "else").mkdir(parents=True)
    with pytest.raises(
        FileNotFoundError,
        match=r"'someone/else' is not a model of this package: it has no config\.json",
    ):
        ep.models.from_pretrained("someone/else")
    message = (
        r"'someone/model' is neither a directory nor one of \['human-atlas', 'pbmc-51loci', .*"
    )
    message += "There is no Hugging Face model"
    with pytest.raises(ValueError, match=message):
        ep.models.from_pretrained("someone/model")
    offline()
    with pytest.raises(
        ConnectionError, match=r"Could not download .*put the files of the model .* into '"
    ):
        ep.models.from_pretrained("someone/model")


def test_the_bundled_model_is_small_and_what_the_registry_says():
    model = ep.models.from_pretrained("pbmc-51loci")
    row = ep.models.available().loc["pbmc-51loci"]
    assert (row["peaks"], row["genes"], row["labels"]) == (
        len(model.peaks),
        len(model.genes),
        len(model.labels),
    )
    assert row["genome"] == model.peaks.genome
    assert "## Limits" in model.card
    folder = ep.models._registry.files("epifoundation.models") / "bundled" / "pbmc-51loci"
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 4e6
