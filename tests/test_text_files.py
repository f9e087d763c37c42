"""Compressed text, by either reader: whole, of several parts, cut off, altered."""

import gzip
import tracemalloc

import pytest
from isal import igzip

import epifoundation as ep
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


LINE = "chr1\t100\t200\tA γ\n"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", " \n", "\t\r\n"])
@pytest.mark.parametrize("is_compressed", [False, True])
def test_marks_and_blanks_are_no_part_of_fields(path, end, is_compressed):
    text = ("track name=x\n# comment\n" + LINE * 3).replace("\n", end)
    content = text.encode("utf-8-sig")
    path.write_bytes(gzip.compress(content) if is_compressed else content)
    assert _files.read_columns(path, 4) == [["chr1", "100", "200", "A γ"]] * 3


def test_a_name_may_begin_with_track(path):
    path.write_text("track1_AAAC-1\nbrowser-1\ntrack\nbrowser position chr1\n")
    assert _files.read_columns(path, 1) == [["track1_AAAC-1"], ["browser-1"]]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("is_compressed", [False, True])
def test_utf_16_is_refused_by_name(path, encoding, is_compressed):
    content = LINE.encode(encoding)
    path.write_bytes(gzip.compress(content) if is_compressed else content)
    with pytest.raises(ValueError, match=r"'.*lines.tsv.gz' is binary, or text in UTF-16: save it"):
        _files.read_columns(path, 3)


def test_every_text_file_may_have_a_mark(tmp_path):
    def write(name, text):
        (tmp_path / name).write_bytes(text.replace("\n", "\r\n").encode("utf-8-sig"))
        return tmp_path / name

    bed = write("a.bed", "chr1\t100\t200\tA\nchr1\t300\t400\tB\n")
    assert list(ep.PeakVocabulary.read_bed(bed).names) == ["chr1:100-200", "chr1:300-400"]
    assert list(ep.genome.read_genes(bed)["chrom"]) == ["chr1", "chr1"]
    gtf = write("a.gtf", 'chr1\tx\tgene\t1\t9\t.\t+\t.\tgene_id "G"\n')
    assert list(ep.genome.read_genes(gtf)["chrom"]) == ["chr1"]
    fragments = tmp_path / "fragments.tsv.gz"
    lines = "chr1\t120\t180\tcell0\t1\nchr1\t320\t350\tcell1\t1\n"
    fragments.write_bytes(gzip.compress(lines.encode("utf-8-sig")))
    counted = ep.pp.count_fragments(
        fragments, peaks=ep.PeakVocabulary.read_bed(bed), barcodes=write("a.txt", "cell1\ncell0\n")
    )
    assert list(counted.obs_names) == ["cell1", "cell0"]
    assert counted.X.toarray().astype(bool).tolist() == [[False, True], [True, False]]


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
