"""Downloads from a hub: whole, interrupted, damaged, refused, offline, put there by hand."""

import pytest
from huggingface_hub.utils import are_progress_bars_disabled

from epifoundation._hub import fetch, folder_of

REPO = "someone/things"
LARGE, SMALL = bytes(range(256)) * 400, b'{"a": 1}'


@pytest.fixture
def repo(hub):
    folder = hub.folder / REPO
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "large[1].bin").write_bytes(LARGE)
    (folder / "small.json").write_bytes(SMALL)
    return folder


def get(choose=list, **options):
    files = fetch(REPO, choose, needed="large.bin", **options)
    return {name: path.read_bytes() for name, path in files.items()}


@pytest.mark.parametrize("repo_type", ["model", "dataset"])
def test_files_are_downloaded_once(hub, repo, repo_type):
    expected = {"deep/large[1].bin": LARGE, "small.json": SMALL}
    assert get(repo_type=repo_type) == expected
    assert get(repo_type=repo_type) == expected
    assert sorted(hub.downloads) == sorted(expected)
    assert are_progress_bars_disabled()  # as `ep.settings.progress` is off in tests


def test_only_chosen_files_are_downloaded(hub, repo):
    assert list(get(lambda paths: [path for path in paths if path.endswith(".json")])) == [
        "small.json"
    ]
    assert hub.downloads == ["small.json"]


def test_a_download_that_breaks_off_leaves_nothing_that_is_taken_for_whole(hub, repo, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between attempts of huggingface_hub
    hub.cut_after = 30_000
    with pytest.raises(
        ConnectionError, match=r"Could not download .* 'someone/things' \(.*\). Call again"
    ):
        get()
    hub.cut_after = None
    assert get()["deep/large[1].bin"] == LARGE


def test_a_damaged_file_is_refused_and_downloaded_again(hub, repo):
    hub.altered.add("deep/large[1].bin")
    with pytest.raises(
        ValueError,
        match=r"\['deep/large\[1\].bin'\] of the Hugging Face model 'someone/things' are damaged",
    ):
        get()
    hub.altered.clear()
    assert get()["deep/large[1].bin"] == LARGE


def test_a_new_commit_is_downloaded(hub, repo):
    get()
    (repo / "small.json").write_bytes(b'{"a": 2}')
    assert get()["small.json"] == b'{"a": 2}'


def test_without_a_network_the_cache_is_read(hub, repo, offline):
    files = get()
    offline()
    assert get() == files
    message = r"Could not download from .* 'someone/things' \(.*\). "
    message += r"Call again, or put large.bin into '.*someone--things@v1'"
    with pytest.raises(ConnectionError, match=message):
        get(revision="v1")


def test_files_put_there_by_hand_come_first(hub, repo):
    folder = folder_of(REPO)
    folder.mkdir(parents=True)
    (folder / "small.json").write_bytes(b"mine")
    assert get() == {"small.json": b"mine"}
    assert not hub.downloads


@pytest.mark.parametrize(
    ("where", "status", "code", "error", "message"),
    [
        (
            "revision",
            404,
            "RepoNotFound",
            ValueError,
            "There is no Hugging Face model 'someone/things', or it is private: check the name",
        ),
        ("revision", 404, "RevisionNotFound", ValueError, "'.*' does not have this revision"),
        (
            "resolve",
            403,
            "GatedRepo",
            ValueError,
            "'.*' is gated: accept its terms .* set HF_TOKEN",
        ),
        (
            "resolve",
            404,
            "EntryNotFound",
            ConnectionError,
            r"Could not download .* 'someone/things' \(.*404.*small.json.*\)",
        ),
        ("revision", 503, "", ConnectionError, r"Could not download .* '.*' \(.*503.*\)"),
    ],
)
def test_errors_name_the_repository_and_the_cure(hub, repo, where, status, code, error, message):
    hub.refused[where] = (status, code)
    with pytest.raises(error, match=message) as raised:
        get(lambda paths: ["small.json"])
    assert "\n" not in str(raised.value)
    assert not list(hub.folder.parent.rglob("*.incomplete"))
