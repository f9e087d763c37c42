"""Vocabularies: projection against brute force, round trips, refusals."""

import gzip

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epifoundation import GeneVocabulary, PeakVocabulary

spans = st.lists(
    st.tuples(st.sampled_from(["chr1", "chr2"]), st.integers(0, 60), st.integers(1, 30)),
    min_size=1,
    max_size=12,
    unique=True,
)


def peaks(rows):
    rows = [(c, s, s + w) for c, s, w in rows]
    return PeakVocabulary(
        pd.DataFrame(rows, columns=["chrom", "start", "end"]).astype({"chrom": object}), "hg38"
    )


@given(spans, spans)
def test_a_peak_maps_to_the_overlapping_peak_with_the_nearest_centre(a, b):
    data, vocabulary = peaks(a), peaks(b)
    known = [tuple(row) for row in vocabulary.intervals.to_numpy()]
    expected = np.zeros((len(data), len(vocabulary)))
    for i, (chrom, start, end) in enumerate(data.intervals.to_numpy()):
        near = [
            (abs((first + last) - (start + end)), (first, last) != (start, end), j)
            for j, (other, first, last) in enumerate(known)
            if chrom == other and start < last and first < end
        ]
        if near:
            expected[i, min(near)[2]] = 1
        if (chrom, start, end) in known:
            assert expected[i, known.index((chrom, start, end))] == 1
    np.testing.assert_array_equal(vocabulary.projection(data.intervals).toarray(), expected)


@given(spans)
def test_bed_round_trip_and_equal_bytes(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("bed")
    vocabulary = peaks(rows)
    for name in ("a.bed.gz", "b.bed.gz"):
        vocabulary.write_bed(folder / name)
    assert (folder / "a.bed.gz").read_bytes() == (folder / "b.bed.gz").read_bytes()
    again = PeakVocabulary.read_bed(folder / "a.bed.gz", genome="hg38")
    assert again.same_as(vocabulary.intervals)
    assert list(again.names) == list(vocabulary.names)


def test_duplicates_are_refused():
    with pytest.raises(ValueError, match=r"1 peaks occur twice, first chr1:0-10"):
        PeakVocabulary.from_names(["chr1:0-10", "chr1-0-10"])


def test_genes_by_symbol_or_identifier(tmp_path):
    genes = GeneVocabulary(["A", "B", "NA"], ["ENSG1", "ENSG2", "ENSG3"])
    assert genes.positions(["ENSG2", "A", "nothing", "NA"]).tolist() == [1, 0, -1, 2]
    genes.write_tsv(tmp_path / "genes.tsv")
    again = GeneVocabulary.read_tsv(tmp_path / "genes.tsv")
    assert (again.names, again.ids) == (genes.names, genes.ids)
    GeneVocabulary(["A"]).write_tsv(tmp_path / "genes.tsv")
    assert GeneVocabulary.read_tsv(tmp_path / "genes.tsv").ids is None
    with pytest.raises(ValueError, match="'A' occurs twice"):
        GeneVocabulary(["A", "A"])
    with pytest.raises(ValueError, match="one identifier per gene"):
        GeneVocabulary(["A"], [])


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
@pytest.mark.parametrize("name", ["a.bed", "a.bed.gz"])
def test_bed_files_of_all_kinds(tmp_path, compress, name):
    text = "browser position chr1\ntrack name=x\n# comment\n"
    text += 'chr1\t1\t5\t"alpha\nchr1\t6\t9\tb\n2\t20\t30\nchr1\t1\t5\tc\n\n'
    (tmp_path / name).write_bytes(compress(text.encode()))
    assert PeakVocabulary.read_bed(tmp_path / name).names.tolist() == [
        "chr1:1-5",
        "chr1:6-9",
        "chr2:20-30",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"chr1\t1\t5\nchr1 6 9\n", "line 2: 1 of 3 tab-separated columns, in 'chr1 6 9'"),
        (b"\xff\xfe", "is binary, or text in UTF-16"),
        (gzip.compress(b"chr1\t1\t5\n" * 99, mtime=0)[:-9], "is not text, or is truncated"),
        (b"\t1\t5\n", "1 of 1 intervals are empty"),
        (b"chr1\t5\t1\n", "1 of 1 intervals are empty, reversed"),
    ],
)
def test_files_that_are_not_bed_are_refused(tmp_path, content, message):
    (tmp_path / "a.bed").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        PeakVocabulary.read_bed(tmp_path / "a.bed")
    with pytest.raises(FileNotFoundError, match=r"nothing\.bed' does not exist"):
        PeakVocabulary.read_bed(tmp_path / "nothing.bed")


def test_a_vocabulary_of_a_table_is_checked_and_normalised():
    frame = pd.DataFrame(
        {
            "chrom": pd.Categorical(["1", "X"]),
            "start": ["5", "6"],
            "end": pd.array([9, 10], "Int64"),
        },
        ["a", "b"],
    )
    assert PeakVocabulary(frame).names.tolist() == ["chr1:5-9", "chrX:6-10"]
    for wrong in ([5, 9.5], pd.array([9, None], "Int64"), [5, 9]):
        with pytest.raises(ValueError, match="of 2 intervals are empty, reversed, negative or not"):
            PeakVocabulary(frame.assign(end=wrong))
