"""Compressed text, by either reader: whole, of several parts, cut off, altered."""

import gzip

import pytest
from isal import igzip

from epifoundation import _files

LINES = [[f"chr{1 + i % 5}", str(1000 + i)] for i in range(5_000)]
WHOLE = gzip.compress("".join("\t".join(fields) + "\n" for fields in LINES).encode())


@pytest.fixture(params=[gzip, igzip], ids=["gzip", "isal"])
def path(request, monkeypatch, tmp_path):
    monkeypatch.setattr(_files, "READER", request.param)
    return tmp_path / "lines.tsv.gz"


@pytest.mark.parametrize("content", [WHOLE, gzip.decompress(WHOLE)], ids=["gzip", "plain"])
def test_lines_are_read_as_written(path, content):
    path.write_bytes(content)
    assert _files.read_columns(path, 2) == LINES


def test_members_are_read_in_order(path):
    path.write_bytes(WHOLE + WHOLE)
    assert _files.read_columns(path, 2) == LINES + LINES


def altered(at):
    content = bytearray(WHOLE)
    content[at] ^= 0xFF
    return bytes(content)


@pytest.mark.parametrize(
    "content",
    [WHOLE[:-100], altered(3000), altered(-6)],
    ids=["cut off", "altered", "wrong checksum"],
)
def test_damaged_files_are_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"'.*lines.tsv.gz' is not text, or is truncated"):
        _files.read_columns(path, 2)
