"""Downloads: whole, broken off and continued, replaced meanwhile, refused, on a full disk."""

import hashlib
import threading
from types import SimpleNamespace
from urllib.error import HTTPError

import numpy as np
import pytest

import epifoundation as ep
from epifoundation import _downloads
from epifoundation._downloads import download, fetch_json

CONTENT = np.random.default_rng(0).bytes(300_000)
OTHER = CONTENT[::-1]
MD5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()


@pytest.fixture
def get(web, tmp_path, monkeypatch):
    """Downloads the file of the server, in small blocks."""
    monkeypatch.setattr(_downloads, "BLOCK_BYTES", 1000)
    web.files["/big.bin"] = CONTENT
    path = tmp_path / "cache" / "big.bin"

    def call(**options):
        found = download(f"{web.address}/big.bin", path, **options)
        assert found == path
        return path.read_bytes()

    call.folder = path.parent
    return call


def left(get):
    """Names of files in the folder, other than locks."""
    return sorted(path.name for path in get.folder.iterdir() if path.suffix != ".lock")


@pytest.mark.parametrize("options", [{}, {"size": len(CONTENT)}, {"md5": MD5}])
def test_a_file_is_downloaded_once(get, web, options):
    for _ in range(2):
        assert get(**options) == CONTENT
    assert web.requests == [("/big.bin", 0)]
    assert left(get) == ["big.bin"]


@pytest.mark.parametrize("size", [None, len(CONTENT)])
@pytest.mark.parametrize("has_tags", [True, False])
def test_a_download_that_breaks_off_goes_on_within_the_call(get, web, size, has_tags):
    web.has_tags, web.cut_after = has_tags, [70_000, 1, 150_000]
    assert get(size=size) == CONTENT
    assert [start for _, start in web.requests] == [0, 70_000, 70_001, 220_001]
    assert left(get) == ["big.bin"]


def test_a_download_that_keeps_breaking_off_goes_on_in_the_next_call(get, web):
    web.cut_after = [70_000, *[0] * (1 + len(_downloads.PAUSES))]
    message = (
        r"Could not download http\S+/big.bin \(it broke off after 70,000 of 300,000 bytes\). "
        r"70,000 bytes are kept: call again to go on, or put the file there yourself as '.*big.bin'"
    )
    with pytest.raises(ConnectionError, match=message) as raised:
        get()
    assert "\n" not in str(raised.value)
    assert "big.bin" not in left(get)
    web.requests.clear()
    web.cut_after = []
    assert get() == CONTENT
    assert web.requests == [("/big.bin", 70_000)]
    assert left(get) == ["big.bin"]


def break_off(get, web, n_bytes=70_000):
    web.cut_after = [n_bytes, *[0] * (1 + len(_downloads.PAUSES))]
    with pytest.raises(ConnectionError):
        get()
    web.requests.clear()
    web.cut_after = []


def test_a_file_that_was_replaced_meanwhile_is_downloaded_from_the_start(get, web):
    break_off(get, web)
    web.files["/big.bin"] = OTHER
    assert get() == OTHER


def test_a_server_that_does_not_state_the_length(get, web):
    web.has_length, web.cut_after = False, [70_000]
    assert get(size=len(CONTENT)) == CONTENT
    assert [start for _, start in web.requests] == [0, 70_000]


def test_a_server_without_ranges_sends_the_whole_file_again(get, web):
    break_off(get, web)
    web.has_ranges = False
    assert get(size=len(CONTENT)) == CONTENT


@pytest.mark.parametrize("size", [None, len(CONTENT)])
@pytest.mark.parametrize("n_bytes", [300_000, 300_001])
def test_a_partial_file_that_is_whole_or_too_long(get, size, n_bytes):
    get.folder.mkdir(parents=True, exist_ok=True)
    (get.folder / "big.bin.part").write_bytes((CONTENT + b"x")[:n_bytes])
    assert get(size=size) == CONTENT
    assert left(get) == ["big.bin"]


def test_a_truncated_file_is_downloaded_again(get):
    get(size=len(CONTENT))
    (get.folder / "big.bin").write_bytes(CONTENT[:99])
    assert get(size=len(CONTENT)) == CONTENT


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 299_999}, r"has 300,000 bytes, but 299,999 are expected"),
        ({"md5": "0" * 32}, rf"has the md5 {MD5} instead of 0+ and was not kept. Call again"),
    ],
)
def test_another_size_or_checksum_is_refused_and_nothing_is_kept(get, options, message):
    with pytest.raises(ValueError, match=message):
        get(**options)
    assert left(get) == []


@pytest.mark.parametrize("status", [403, 404, 500, 503])
def test_errors_of_the_server_name_the_status(get, web, status):
    del web.files["/big.bin"]
    web.answers["/big.bin"] = status
    with pytest.raises(ConnectionError, match=rf"\(HTTP Error {status}: .*\)\. Call again, or put"):
        get()
    assert len(web.requests) == 1
    with pytest.raises(HTTPError) as raised:
        fetch_json(f"{web.address}/big.bin")
    assert raised.value.code == status


def test_offline(tmp_path):
    with pytest.raises(ConnectionError, match=r"refused.*put the file there yourself as '.*x'"):
        download("http://127.0.0.1:9/x", tmp_path / "x")
    with pytest.raises(ValueError, match="'file:///etc/passwd' is not an address that begins with"):
        download("file:///etc/passwd", tmp_path / "x")


def test_a_full_disk_is_noticed_before_the_download(get, monkeypatch):
    usage = SimpleNamespace(free=1000)
    monkeypatch.setattr(_downloads.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(OSError, match=r"has 0.0 GB of free space.*`ep.settings.cache_dir`"):
        get()
    usage.free = len(CONTENT)
    assert get() == CONTENT


def test_answers_that_are_no_json(web):
    web.answers["/a"] = b"<html>"
    with pytest.raises(ValueError, match=r"/a did not answer in JSON: b'<html>'"):
        fetch_json(f"{web.address}/a")


def test_two_calls_at_once_download_once(get, web):
    calls = [threading.Thread(target=get) for _ in range(2)]
    for call in calls:
        call.start()
    for call in calls:
        call.join()
    assert web.paths() == ["/big.bin"]
    assert left(get) == ["big.bin"]


def test_a_progress_bar_counts_what_was_there_before(get, web, monkeypatch, capsys):
    break_off(get, web)
    monkeypatch.setattr(ep.settings, "progress", True)
    get(size=len(CONTENT))
    shown = capsys.readouterr().err
    assert "big.bin" in shown
    assert "100%" in shown
