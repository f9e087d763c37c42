"""Downloads from a hub of one folder: whole, resumed, broken, altered, missing, put there by hand."""

import pytest

from epifoundation import _hub
from epifoundation._hub import fetch, folder_of

REPO = "someone/things"
LARGE, SMALL = bytes(range(256)) * 400, b'{"a": 1}'


@pytest.fixture
def repo(hub):
    folder = hub.folder / REPO
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "large.bin").write_bytes(LARGE)
    (folder / "small.json").write_bytes(SMALL)
    return folder


def get(choose=lambda paths: paths, **options):
    return fetch(REPO, choose, needed="large.bin", **options)


def downloads(hub):
    return [request for request in hub.requests if "/resolve/" in request[0]]


@pytest.mark.parametrize("repo_type", ["model", "dataset"])
def test_files_come_once_and_whole(hub, repo, repo_type):
    files = get(repo_type=repo_type)
    assert files["deep/large.bin"].read_bytes() == LARGE
    assert files["small.json"].read_bytes() == SMALL
    assert get(repo_type=repo_type) == files
    assert len(downloads(hub)) == 2
    assert not [path for path in folder_of(REPO).rglob("*.part") if not path.name.startswith(".")]


def test_only_what_is_chosen_comes(hub, repo):
    assert list(get(lambda paths: [path for path in paths if path.endswith(".json")])) == ["small.json"]
    assert len(downloads(hub)) == 1


def test_a_broken_connection_is_gone_on_from(hub, repo):
    hub.cut_after = 30_000
    assert get()["deep/large.bin"].read_bytes() == LARGE
    ranges = [wanted for path, wanted in downloads(hub) if path.endswith("large.bin")]
    assert ranges == [None, "bytes=30000-", "bytes=60000-", "bytes=90000-"]


def test_a_later_call_goes_on_where_an_earlier_one_stopped(hub, repo, monkeypatch):
    hub.cut_after = 30_000
    original = _hub._download

    def interrupted(*args):
        try:
            original(*args)
        except ConnectionError as error:
            raise KeyboardInterrupt from error

    monkeypatch.setattr(_hub, "_download", interrupted)
    with pytest.raises(KeyboardInterrupt):
        get()
    target = folder_of(REPO) / "deep" / "large.bin"
    assert not target.exists()
    (part,) = target.parent.glob("large.bin.*.part")
    assert part.stat().st_size == 30_000
    monkeypatch.setattr(_hub, "_download", original)
    hub.cut_after = None
    assert get()["deep/large.bin"].read_bytes() == LARGE
    assert downloads(hub)[1] == (downloads(hub)[0][0], "bytes=30000-")


def test_a_file_that_stays_truncated_is_named(hub, repo):
    hub.cut_after = 0
    with pytest.raises(ConnectionError, match="'deep/large.bin' of someone/things is truncated: 0 of 102,400 bytes"):
        get()
    assert not (folder_of(REPO) / "deep" / "large.bin").exists()


@pytest.mark.parametrize("name", ["deep/large.bin", "small.json"])
def test_an_altered_file_is_refused_and_removed(hub, repo, name):
    hub.altered.add(name)
    with pytest.raises(ValueError, match=f"'{name}' of someone/things is damaged: its checksum is"):
        get()
    assert not (folder_of(REPO) / name).exists()
    hub.altered.clear()
    assert get()[name].read_bytes() == (repo / name).read_bytes()


def test_a_file_that_is_listed_and_not_there_is_named(hub, repo):
    hub.gone.add("small.json")
    with pytest.raises(ValueError, match=r"'small.json' of someone/things cannot be fetched: the hub answers 404"):
        get()


def test_another_commit_replaces_what_was_fetched(hub, repo):
    get()
    (repo / "small.json").write_bytes(b'{"a": 2}')  # as long as before
    assert get()["small.json"].read_bytes() == b'{"a": 2}'
    (repo / "deep" / "large.bin").write_bytes(LARGE[::-1])
    assert get()["deep/large.bin"].read_bytes() == LARGE[::-1]


def test_what_is_there_stays_until_there_is_a_better_one(hub, repo):
    path = get()["small.json"]
    (repo / "small.json").write_bytes(b'{"a": 2}')
    hub.gone.add("small.json")
    with pytest.raises(ValueError, match="404"):
        get()
    assert path.read_bytes() == SMALL


def test_part_of_another_commit_is_not_gone_on_from(hub, repo):
    hub.cut_after = 30_000
    _stop_after_one(hub)
    (repo / "deep" / "large.bin").write_bytes(LARGE[::-1])
    hub.cut_after = None
    assert get()["deep/large.bin"].read_bytes() == LARGE[::-1]
    assert not [path for path in folder_of(REPO).rglob("*.part") if not path.name.startswith(".")]


def _stop_after_one(hub):
    """Break off for good after the first piece."""
    before = hub.cut_after
    original = hub.files

    def files(repo):
        if any(wanted for _, wanted in hub.requests):
            hub.cut_after = 0
        return original(repo)

    hub.files = files
    with pytest.raises(ConnectionError, match="truncated: 30,000 of"):
        get()
    hub.files, hub.cut_after = original, before


@pytest.mark.parametrize("code", [429, 503])
def test_a_busy_hub_is_no_final_answer(hub, repo, code):
    hub.busy = code
    with pytest.raises(ConnectionError, match=f"cannot be fetched: the hub answers {code}"):
        get()


def test_what_was_damaged_in_the_cache_is_fetched_again(hub, repo):
    path = get()["deep/large.bin"]
    path.write_bytes(LARGE[:50])
    assert get()["deep/large.bin"].read_bytes() == LARGE


def test_a_file_that_was_put_there_by_hand_is_never_replaced(hub, repo):
    folder = folder_of(REPO)
    folder.mkdir(parents=True)
    (folder / "small.json").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"small.json' is not what the hub has: it has 4 bytes.*Remove it"):
        get()
    assert (folder / "small.json").read_bytes() == b"mine"
    (folder / "small.json").write_bytes(SMALL)
    assert get()["small.json"].read_bytes() == SMALL
    assert all("small.json" not in path for path, _ in downloads(hub))


def test_without_a_network_what_is_there_is_taken(hub, repo, offline):
    files = get()
    offline()
    assert get() == files
    with pytest.raises(
        ConnectionError,
        match=r"Could not reach the Hugging Face model 'someone/things'.*put large.bin into '.*someone--things@v1'",
    ):
        get(revision="v1")


def test_a_repository_that_is_not_there_is_named(hub):
    with pytest.raises(ValueError, match="There is no Hugging Face model 'no/thing' that can be read"):
        fetch("no/thing", list, needed="")


def test_a_disk_that_is_too_small_is_told_before(hub, repo, monkeypatch):
    import shutil
    from types import SimpleNamespace

    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1))
    with pytest.raises(OSError, match=r"needs .* GB more.*`ep.settings.cache_dir`"):
        get()
    assert not downloads(hub)
