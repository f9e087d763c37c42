"""The paper's checkpoint in the registry: downloaded, converted, cached; errors if files lack."""

import re
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import epifoundation as ep

PAPER = "UCSC-VLAA/EpiFoundation"


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    import json

    from oracles.original import SPECIAL, Original

    folder = tmp_path_factory.mktemp("paper")
    torch.manual_seed(0)
    plain = Original(50, 10, dim=16, n_heads=2, n_layers=1, feedforward=24, n_types=2).randomise(0)
    torch.save({"model": plain.state_dict()}, folder / "pretrained.pth")
    names = {
        "atac_vocab": [*SPECIAL, *(f"chr1-{100 * i}-{100 * i + 50}" for i in range(50))],
        "rna_vocab": [*SPECIAL, *(f"G{i}" for i in range(10))],
        "cell_vocab": ["B", "T"],
    }
    for file, tokens in names.items():
        (folder / f"{file}.json").write_text(
            json.dumps({token: i for i, token in enumerate(tokens)})
        )
    (folder / "config.json").write_text('{"head_num": 2}')
    return folder


@pytest.fixture
def repo(hub, checkpoint):
    return shutil.copytree(checkpoint, hub.folder / PAPER)


def test_it_is_fetched_and_converted_once(hub, repo, offline):
    model = ep.models.from_pretrained(PAPER, device="cpu")
    assert (model.name, model.labels, model.config.n_heads, len(model.peaks)) == (
        PAPER,
        ["B", "T"],
        2,
        50,
    )
    assert "pretrained.pth" in model.training["source"]
    assert len(hub.downloads) == 5
    offline()
    again = ep.models.from_pretrained(PAPER)
    assert again.revision == model.revision
    assert len(hub.downloads) == 5


def test_a_checkpoint_that_changed_is_converted_again(hub, repo):
    before = ep.models.from_pretrained(PAPER).revision
    content = torch.load(repo / "pretrained.pth", weights_only=True)
    content["model"]["norm.bias"] += 1
    torch.save(content, repo / "pretrained.pth")
    assert ep.models.from_pretrained(PAPER).revision != before


def test_without_a_network_the_files_and_the_folder_are_named(
    hub, repo, offline, checkpoint, tmp_path
):
    offline()
    with pytest.raises(
        ConnectionError,
        match=r"put the checkpoint \(\*\.pth\) and atac_vocab\.json, rna_vocab.*into '(.*)'\.",
    ) as error:
        ep.models.from_pretrained(PAPER)
    folder = str(error.value).split("into '")[1].removesuffix("'.")
    assert folder.startswith(str(tmp_path / "cache"))
    shutil.copytree(checkpoint, folder)
    assert ep.models.from_pretrained(PAPER).labels == ["B", "T"]


def test_one_of_several_is_chosen_by_name(hub, repo):
    shutil.copy(repo / "pretrained.pth", repo / "finetuned.pth")
    assert "pretrained.pth" in ep.models.from_pretrained(PAPER).training["source"]
    assert "finetuned.pth" in ep.models.from_pretrained(f"{PAPER}/finetuned.pth").training["source"]
    (repo / "pretrained.pth").rename(repo / "first.pth")
    with pytest.raises(
        ValueError, match=r"several checkpoints, \['finetuned.pth', 'first.pth'\]; name one, as in"
    ):
        ep.models.from_pretrained(PAPER)
    with pytest.raises(FileNotFoundError, match=r"no checkpoint third.pth; available:"):
        ep.models.from_pretrained(f"{PAPER}/third.pth")


def test_a_vocabulary_that_the_hub_lacks_can_be_passed(hub, repo, checkpoint):
    (repo / "rna_vocab.json").unlink()
    message = r"A vocabulary is missing next to '(.*)': No 'rna_vocab.json' \(genes\).*"
    message += "`ep.models.convert_original`"
    with pytest.raises(FileNotFoundError, match=message) as error:
        ep.models.from_pretrained(PAPER)
    path = re.search(message, str(error.value))[1]
    assert len(ep.models.convert_original(path, checkpoint).genes) == 10


def test_a_repository_without_a_checkpoint_is_named(hub, repo):
    (repo / "pretrained.pth").unlink()
    with pytest.raises(FileNotFoundError, match=r"no checkpoint \*\.pth; available: \[\]"):
        ep.models.from_pretrained(PAPER)


def test_without_the_names_of_cell_types_there_are_no_labels(hub, repo):
    (repo / "cell_vocab.json").unlink()
    with pytest.warns(
        UserWarning, match="comes without 'cell_vocab.json', so it annotates no cell types"
    ):
        model = ep.models.from_pretrained(PAPER)
    assert model.labels == []


def test_names_and_heads_that_changed_are_converted_again(hub, repo):
    ep.models.from_pretrained(PAPER)
    (repo / "cell_vocab.json").write_text('{"Mono": 0, "DC": 1}')
    (repo / "config.json").write_text('{"head_num": 4}')
    model = ep.models.from_pretrained(PAPER)
    assert model.labels == ["Mono", "DC"]
    assert model.config.n_heads == 4


def test_a_damaged_conversion_is_made_again(hub, repo):
    revision = ep.models.from_pretrained(PAPER).revision
    for file in (ep.settings.cache_dir / "converted").rglob("model.safetensors"):
        file.write_bytes(file.read_bytes()[:100])
    assert ep.models.from_pretrained(PAPER).revision == revision


def test_processes_at_once_do_not_ruin_each_other(hub, repo):
    with ThreadPoolExecutor(4) as pool:
        models = list(pool.map(lambda _: ep.models.from_pretrained(PAPER), range(4)))
    assert len({model.revision for model in models}) == 1
    assert len(hub.downloads) == 5


def test_a_conversion_that_fails_leaves_nothing(hub, repo):
    (repo / "rna_vocab.json").write_text("{}")
    with pytest.raises(ValueError, match="rna_vocab"):
        ep.models.from_pretrained(PAPER)
    left = (ep.settings.cache_dir / "converted").rglob("*")
    assert [path.name for path in left if path.is_file() and not path.name.endswith(".lock")] == []


def test_the_registry_lists_it():
    row = ep.models.available().loc[PAPER]
    assert row["source"].startswith("Hugging Face")
    assert row["genome"] == "hg38"
