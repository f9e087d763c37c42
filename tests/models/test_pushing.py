"""Models that are uploaded to a hub on this machine, and read back."""

from dataclasses import replace

import pytest
import yaml
from huggingface_hub import constants

import epifoundation as ep
from epifoundation.models._card import with_metadata
from epifoundation.models._config import MODEL_FILES

REPO = "lab/atlas"
# Of huggingface_hub about itself, when it uploads large files as git LFS does
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def writable(hub, monkeypatch):
    """A hub with a token, and uploads of large files as of git LFS."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "right")
    hub.owners["right"] = "lab"
    return hub


@pytest.fixture
def tuned(model, simulated):
    atac = simulated["atac"][:200].copy()
    atac.obs["other"] = atac.obs["cell_type"].astype(str) + "!"
    return ep.tl.finetune(atac, model, label_key="other")


def files_of(hub, repo=REPO):
    return {path.name for path in (hub.folder / repo).iterdir()} - {".gitattributes"}


def metadata(card):
    return yaml.safe_load(card.split("---\n")[1])


def test_a_model_is_read_back_by_the_name_of_its_repository(writable, model, tmp_path):
    address = model.push_to_hub(REPO, license="cc-by-4.0")
    assert address.endswith(f"/{REPO}/commit/{'a' * 40}")
    found = ep.models.from_pretrained(REPO)
    assert found.revision == model.revision
    assert found.name == REPO
    model.save_pretrained(tmp_path / "saved")
    assert files_of(writable) == {path.name for path in (tmp_path / "saved").iterdir()}
    ((title, branch, files),) = writable.commits
    assert (title, branch) == ("Upload model", "main")
    assert set(files) == files_of(writable)
    assert len(writable.objects) > 0  # the weights, and not as text
    assert not writable.private


def test_the_card_has_metadata_and_keeps_its_own(writable, model):
    model.push_to_hub(REPO, license="cc-by-4.0")
    card = ep.models.from_pretrained(REPO).card
    assert metadata(card) == {
        "library_name": "epifoundation",
        "license": "cc-by-4.0",
        "tags": ["epifoundation", "biology", "single-cell", "scATAC-seq", "hg38"],
    }
    assert "# EpiFoundation model" in card
    mine = "---\nlicense: mit\ntags:\n- brain\npipeline_tag: other\nx: 1\n---\n# Mine\n"
    replace(model, card=mine).push_to_hub(REPO)
    card = ep.models.from_pretrained(REPO).card
    tags = ["brain", "epifoundation", "biology", "single-cell", "scATAC-seq", "hg38"]
    assert metadata(card) == {
        "library_name": "epifoundation",
        "license": "mit",
        "tags": tags,
        "pipeline_tag": "other",
        "x": 1,
    }
    assert card.endswith("# Mine\n")
    ep.models.from_pretrained(REPO).push_to_hub(REPO, license="gpl-3.0")
    again = ep.models.from_pretrained(REPO).card
    assert again == card.replace("license: mit", "license: gpl-3.0")
    with pytest.raises(
        ValueError, match=r"metadata at the beginning of `model.card` are not valid"
    ):
        replace(model, card="---\na: [\n---\nx").push_to_hub(REPO)


@pytest.mark.parametrize(
    ("given", "first"), [("brain", "brain"), ("[a, 1]", "a"), ("", "epifoundation")]
)
def test_tags_of_any_form(given, first):
    card = with_metadata(f"---\ntags: {given}\n---\nx", "unknown", license_id=None, base=None)
    found = metadata(card)["tags"]
    assert found[0] == first
    assert set(found) >= {"epifoundation", "scATAC-seq"}
    assert "unknown" not in found


def test_the_model_itself_is_unchanged(writable, model):
    card = model.card
    model.push_to_hub(REPO)
    assert model.card == card


def test_files_of_an_earlier_model_are_removed_and_others_stay(writable, model):
    model.push_to_hub(REPO)
    assert "cells.safetensors" in files_of(writable)
    (writable.folder / REPO / "figure.png").write_bytes(b"x")
    model.push_to_hub(REPO, cells=False, commit_message="Without cells")
    assert files_of(writable) - set(MODEL_FILES) == {"figure.png"}
    assert "cells.safetensors" not in files_of(writable)
    assert writable.commits[-1][0] == "Without cells"
    assert ep.models.from_pretrained(REPO).cells == {}


def test_private_repositories(writable, model):
    model.push_to_hub(REPO, private=True)
    assert writable.private == {REPO}


def test_branches_and_pull_requests(writable, model):
    model.push_to_hub(REPO, revision="v1")
    assert writable.branches == ["v1"]
    assert writable.commits[-1][1] == "v1"
    before = files_of(writable)
    address = model.push_to_hub(REPO, create_pr=True)
    assert address.endswith("/discussions/1")
    assert writable.commits[-1][1] == "pull request"
    assert files_of(writable) == before
    with pytest.raises(ValueError, match="`create_pr` is for the branch main; .*got 'v1'"):
        model.push_to_hub(REPO, create_pr=True, revision="v1")


def test_an_adapter_finds_its_base_on_the_hub(writable, model, tuned):
    model.push_to_hub(REPO)
    base = ep.models.from_pretrained(REPO)
    shared = replace(tuned, adapter=replace(tuned.adapter, base=REPO))
    shared.push_to_hub("lab/tuned", adapter=True)
    assert "adapter.safetensors" in files_of(writable, "lab/tuned")
    assert "model.safetensors" not in files_of(writable, "lab/tuned")
    found = ep.models.from_pretrained("lab/tuned")
    assert found.revision == tuned.revision
    assert found.adapter.revision == base.revision
    assert metadata(found.card)["base_model"] == REPO


def test_adapters_whose_base_others_do_not_have(writable, model, tuned):
    with pytest.warns(UserWarning, match=r"base of the adapter is 'unsaved', which others do not"):
        tuned.push_to_hub("lab/tuned", adapter=True)
    found = ep.models.from_pretrained("lab/tuned", base=model)
    assert found.revision == tuned.revision
    assert "base_model" not in metadata(found.card)
    with pytest.raises(ValueError, match="The model has no adapter"):
        model.push_to_hub(REPO, adapter=True)


@pytest.mark.parametrize(
    "repo_id",
    ["", "atlas", "a/b/c", "lab/", "/atlas", "lab/a b", "lab/a..b", "lab/x.git", "./atlas"],
)
def test_malformed_names(writable, model, repo_id):
    message = rf"`repo_id` must be the name of .* 'owner/name', got '{repo_id}'"
    with pytest.raises(ValueError, match=message):
        model.push_to_hub(repo_id)
    assert not list(writable.folder.iterdir())


def test_other_types(writable, model):
    with pytest.raises(TypeError, match="`repo_id` must be a string, got 5"):
        model.push_to_hub(5)
    for option in ("private", "token", "commit_message", "revision", "create_pr", "license"):
        with pytest.raises(TypeError, match=f"`{option}` must be"):
            model.push_to_hub(REPO, **{option: 5})
    assert not writable.commits


def test_without_a_token(writable, model, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "nothing"))
    with pytest.raises(PermissionError, match=r"no token of Hugging Face: pass `token=`, set HF_T"):
        model.push_to_hub(REPO)
    assert model.push_to_hub(REPO, token="right")  # noqa: S106


@pytest.mark.parametrize(("token", "status"), [("unknown", 401), ("reader", 403)])
def test_without_the_right_to_write(writable, model, token, status):
    writable.owners["reader"] = "someone"
    message = rf"The token has no right to write to .* 'lab/atlas' \(.*{status}.*\). Make one with"
    with pytest.raises(PermissionError, match=message) as raised:
        model.push_to_hub(REPO, token=token)
    assert "\n" not in str(raised.value)
    assert token not in str(raised.value)
    model.push_to_hub(REPO)  # now it exists
    with pytest.raises(PermissionError, match=message):
        model.push_to_hub(REPO, token=token)
    assert len(writable.commits) == 1


def test_others_may_open_pull_requests(writable, model):
    model.push_to_hub(REPO)
    writable.owners["reader"] = "someone"
    address = model.push_to_hub(REPO, token="reader", create_pr=True)  # noqa: S106
    assert "/discussions/" in address


@pytest.mark.parametrize("step", ["repos/create", "preupload", "batch", "commit"])
@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (400, ValueError, r"Hugging Face refused the upload to 'lab/atlas': .*400"),
        (500, ConnectionError, r"Could not upload to the .* 'lab/atlas' \(.*500.*\). Call again"),
    ],
)
def test_a_step_that_fails(writable, model, monkeypatch, step, status, error, message):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between attempts
    writable.refused[step] = (status, "")
    with pytest.raises(error, match=message) as raised:
        model.push_to_hub(REPO)
    assert "\n" not in str(raised.value)
    assert not writable.commits
    del writable.refused[step]
    model.push_to_hub(REPO)
    assert ep.models.from_pretrained(REPO).revision == model.revision


def test_offline(writable, model, offline):
    offline()
    message = r"Could not upload to the Hugging Face repository 'lab/atlas' \(.*\). Call again"
    with pytest.raises(ConnectionError, match=message) as raised:
        model.push_to_hub(REPO)
    assert "\n" not in str(raised.value)
