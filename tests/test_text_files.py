"""Compressed text, by either reader: whole, of several parts, cut off, altered."""

import gzip
import tracemalloc

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
    with pytest.raises(ValueError, match=r"lines.tsv.gz'( is not text, or is truncated|, line )"):
        _files.read_columns(path, 2)


def test_a_line_without_end_is_refused_with_little_memory(path):
    """300 MB in a file of 0.3 MB."""
    with gzip.open(path, "wb") as file:
        file.write(b"chr1\t1\n")
        for _ in range(300):
            file.write(bytes(1 << 20))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"lines.tsv.gz', line 2: longer than 1,048,576 bytes"):
        _files.read_columns(path, 2)
    assert tracemalloc.get_traced_memory()[1] < 32 * 2**20
    tracemalloc.stop()


def test_lines_of_the_largest_size_are_read(path):
    longest = "x" * (_files.MAX_LINE - 2)
    path.write_text(f"a\t{longest}\nb\t{longest}")
    assert _files.read_columns(path, 2) == [["a", longest], ["b", longest]]
    path.write_text(f"a\t{longest}y\n")
    with pytest.raises(ValueError, match="line 1: longer than"):
        _files.read_columns(path, 2)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_byte_order_mark_and_any_end_of_line_are_read(path, end):
    path.write_bytes(f"# note{end}a\tb{end}{end}c\td".encode("utf-8-sig"))
    assert _files.read_columns(path, 2) == [["a", "b"], ["c", "d"]]
