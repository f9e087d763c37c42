"""Exons: GTF, GFF3 and BED12 agree, unions of transcripts, regions, bad input."""

import gzip

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import epifoundation as ep

# Transcripts: gene, strand, exons, coding part (1-based positions are made below)
TRANSCRIPTS = [
    ("SPI1", "-", [(100, 200), (300, 400)], (150, 350)),
    ("SPI1", "-", [(150, 250), (300, 380)], (150, 350)),
    ("LNC", "+", [(1000, 1100)], None),
]
EXPECTED = {
    ("SPI1", "exon"): [(100, 250), (300, 400)],
    ("SPI1", "CDS"): [(150, 250), (300, 350)],
    ("LNC", "exon"): [(1000, 1100)],
}


def coding(exons, span):
    parts = [(max(s, span[0]), min(e, span[1])) for s, e in exons] if span else []
    return [(s, e) for s, e in parts if s < e]


def gtf(transcripts):
    text = ""
    for i, (gene, strand, exons, span) in enumerate(transcripts):
        for feature, parts in (("exon", exons), ("CDS", coding(exons, span))):
            for start, end in parts:
                attributes = f'gene_id "G{gene}"; transcript_id "T{i}"; gene_name "{gene}";'
                fields = ("chr1", "x", feature, start + 1, end, ".", strand, ".", attributes)
                text += "\t".join(map(str, fields)) + "\n"
    return text


def gff3(transcripts):
    """As Ensembl writes it: exons have a parent, and names of their own."""
    text = "##gff-version 3\n"
    for gene in dict.fromkeys(each[0] for each in transcripts):
        text += f"1\tx\tgene\t1\t9999\t.\t+\t.\tID=gene:{gene}X;Name={gene}\n"
    for i, (gene, strand, exons, span) in enumerate(transcripts):
        attributes = f"ID=transcript:{i};Parent=gene:{gene}X;Name={gene}-20{i}"
        text += f"1\tx\tmRNA\t1\t9999\t.\t{strand}\t.\t{attributes}\n"
        for feature, parts in (("exon", exons), ("CDS", coding(exons, span))):
            for start, end in parts:
                attributes = f"Parent=transcript:{i};Name=E{start}"
                text += f"1\tx\t{feature}\t{start + 1}\t{end}\t.\t{strand}\t.\t{attributes}\n"
    return text


def bed12(transcripts):
    text = ""
    for gene, strand, exons, span in transcripts:
        first, last = exons[0][0], exons[-1][1]
        sizes = ",".join(str(e - s) for s, e in exons) + ","
        starts = ",".join(str(s - first) for s, _ in exons)
        thick = span or (first, first)
        fields = ("chr1", first, last, gene, 0, strand, *thick, 0, len(exons), sizes, starts)
        text += "\t".join(map(str, fields)) + "\n"
    return text


def found(table):
    return {
        key: list(zip(part["start"], part["end"], strict=True))
        for key, part in table.groupby([table.index, "feature"])
    }


FORMATS = {"x.gtf": gtf, "x.gff3": gff3, "x.bed": bed12}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("packed", [False, True])
def test_formats_agree(tmp_path, name, packed):
    path = tmp_path / (name + ".gz" * packed)
    text = FORMATS[name](TRANSCRIPTS).encode()
    path.write_bytes(gzip.compress(text) if packed else text)
    table = ep.genome.read_exons(path)
    assert found(table) == EXPECTED
    assert set(table["chrom"]) == {"chr1"}
    assert table.loc[["SPI1"], "strand"].unique().tolist() == ["-"]
    part = ep.genome.read_exons(path, region="chr1:220-301")
    assert found(part)[("SPI1", "exon")][-1] == (300, 400)
    assert set(part.index) == {"SPI1"}
    assert ((part["end"] > 220) & (part["start"] < 301)).all()
    assert not len(ep.genome.read_exons(path, region="chr2:1-5000"))


@given(
    st.lists(
        st.tuples(st.sampled_from("AB"), st.integers(0, 60), st.integers(1, 20)),
        min_size=1,
        max_size=12,
    )
)
def test_union_covers_the_same_bases(tmp_path_factory, exons):
    path = tmp_path_factory.getbasetemp() / "union.gtf"
    path.write_text(gtf([(gene, "+", [(start, start + n)], None) for gene, start, n in exons]))
    table = ep.genome.read_exons(path)
    for gene in {each[0] for each in exons}:
        covered = np.zeros(100, int)
        for other, start, n in exons:
            covered[start : start + n] |= other == gene
        times = np.zeros(100, int)
        for start, end in table.loc[[gene], ["start", "end"]].to_numpy():
            times[start:end] += 1
        np.testing.assert_array_equal(times, covered)


def test_files_without_exons_and_bad_input(tmp_path):
    path = tmp_path / "genes.bed"
    path.write_text("chr1\t5\t9\tA\t0\t+\n")
    table = ep.genome.read_exons(path)
    assert (len(table), list(table.columns)) == (0, ["chrom", "start", "end", "strand", "feature"])
    path.write_text(bed12(TRANSCRIPTS).replace("100,100,", "x,100,"))
    with pytest.raises(ValueError, match="is not a BED12 file: expected numbers"):
        ep.genome.read_exons(path)
    with pytest.raises(ValueError, match="neither a file nor the name of an annotation"):
        ep.genome.read_exons("dm6")
    for name in ("nothing.gtf", "nothing.bed"):
        with pytest.raises(FileNotFoundError, match=f"{name}' does not exist"):
            ep.genome.read_exons(tmp_path / name)
    wrong = tmp_path / "x.gtf"
    wrong.write_text(gtf(TRANSCRIPTS).replace("\t101\t", "\tx\t"))
    with pytest.raises(ValueError, match="intervals are empty, reversed, negative or not numbers"):
        ep.genome.read_exons(wrong)
    path.write_text(bed12(TRANSCRIPTS))
    for region in ("chr1", "chr1:10-5", 5):
        with pytest.raises(ValueError, match="`region` must be a region such as"):
            ep.genome.read_exons(path, region=region)
    path.write_text("chr1\t0\t90\tA\t0\t+\t\t70\t0\t1\t90\t0\n")  # no thickStart
    with pytest.raises(ValueError, match="is not a BED12 file: expected numbers"):
        ep.genome.read_exons(path)
    for source in (None, 5, pd.DataFrame()):
        with pytest.raises(TypeError, match="`source` must be a GTF, GFF3 or BED12 file"):
            ep.genome.read_exons(source)
