"""Positions of genes, from every format that users have."""

import gzip

import numpy as np
import pandas as pd
import pytest
from conftest import SHARED
from hypothesis import given
from hypothesis import strategies as st

import epifoundation as ep
from epifoundation.genome import read_genes, transcription_start
from epifoundation.genome._genes import gene_name

GTF = """##description: a comment
chr1\tHAVANA\tgene\t101\t200\t.\t+\t.\tgene_id "ENSG1"; gene_name "A";
chr1\tHAVANA\ttranscript\t101\t200\t.\t+\t.\tgene_id "ENSG1"; gene_name "A";
2\tHAVANA\tgene\t301\t500\t.\t-\t.\tgene_id "ENSG2";
chr3\tHAVANA\tgene\t1\t50\t.\t+\t.\tgene_id "ENSG3"; gene_name "A";
"""


@pytest.mark.parametrize("name", ["genes.gtf", "genes.gtf.gz", "genes.gff3"])
def test_gtf_counts_from_one_and_names_genes(tmp_path, name):
    path = tmp_path / name
    text = (
        GTF.replace('gene_id "', "ID=x;gene_id=").replace('gene_name "', "Name=").replace('"', "")
        if "gff" in name
        else GTF
    )
    path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    genes = read_genes(path)
    assert genes.loc["A"].tolist() == ["chr1", 100, 200, "+"]  # the longer of two
    assert genes.loc["ENSG2"].tolist() == ["chr2", 300, 500, "-"]
    assert transcription_start(genes).tolist() == [100, 499]


NAMES = ["gene_name", "Name", "gene_id"]
# Attributes whose names contain that of the gene, and text that looks like one
DECOYS = [
    ("ref_gene_name", "OLD"),
    ("projection_parent_gene_id", "PARENT"),
    ("gene_name_source", "HGNC"),
    ("Full_Name", "long"),
    ("note", 'a; gene_name X; gene_id=Y; Name "Z'),
    ("gene_version", "5"),
    ("empty", ""),
]
values = st.text("AZ09 .-;=%,'γ", min_size=1, max_size=8).map(str.strip).filter(bool)


def written(key, value, style):
    if style == "GFF3":
        escaped = value.replace("%", "%25").replace(";", "%3B").replace("=", "%3D")
        return f"{key}={escaped}"
    if style == "GTF without quotes" and not set(value) & set(';="') and value:
        return f"{key} {value}"
    escaped = value.replace('"', '\\"')
    return f'{key} "{escaped}"'


@given(
    given=st.dictionaries(st.sampled_from(NAMES), values, min_size=1),
    style=st.sampled_from(["GTF", "GTF without quotes", "GFF3"]),
    between=st.sampled_from([";", "; ", " ; "]),
    end=st.sampled_from(["", ";", " ; "]),
    data=st.data(),
)
def test_attributes_are_found_by_their_exact_names(given, style, between, end, data):
    decoys = data.draw(st.lists(st.sampled_from(DECOYS), unique=True))
    attributes = data.draw(st.permutations([*given.items(), *decoys]))
    line = between.join(written(key, value, style) for key, value in attributes) + end
    assert gene_name(line) == next(given[key] for key in NAMES if key in given)


def test_lines_are_read_whatever_ends_them(tmp_path):
    path = tmp_path / "genes.gtf"
    line = 'chr1\tx\tgene\t1001\t2000\t.\t+\t.\tgene_id "G1"; ref_gene_name "OLD"; gene_name "{}"; '
    for end in ("\n", "\r\n", "\r", "  \n"):
        # A form feed and a line separator are text
        path.write_bytes("".join(line.format(n) + end for n in ("A\x0c", "B\u2028c")).encode())
        assert list(read_genes(path).index) == ["A", "B\u2028c"]


@pytest.mark.parametrize("columns", ["{s}", "0\t{s}", "0"])
def test_bed_with_and_without_score_and_strand(tmp_path, columns):
    path = tmp_path / "genes.bed"
    path.write_text(
        "\n".join(f"chr1\t{i}\t{i + 100}\tg{i}\t{columns.format(s='-')}" for i in (0, 500))
    )
    genes = read_genes(path)
    assert list(genes.index) == ["g0", "g500"]
    assert transcription_start(genes).tolist() == ([99, 599] if "{s}" in columns else [49, 549])


def test_the_table_of_an_rna_modality():
    tenx = pd.DataFrame({"interval": ["chr1:100-200", "NA", "chrX:5-7"]}, index=["A", "B", "C"])
    assert read_genes(tenx).to_dict("list") == {
        "chrom": ["chr1", "chrX"],
        "start": [100, 5],
        "end": [200, 7],
        "strand": [".", "."],
    }
    simulated = ep.datasets.simulate_multiome(20, 300, 5)["rna"].var
    pd.testing.assert_frame_equal(
        read_genes(simulated)[["chrom", "start", "end"]],
        simulated[["chrom", "start", "end"]],
        check_dtype=False,
    )
    with_strand = simulated.assign(strand="-", start=simulated["start"].astype(float))
    with_strand.iloc[0, 1] = np.nan
    genes = read_genes(with_strand)
    assert len(genes) == 4
    assert set(genes["strand"]) == {"-"}


def test_files_that_are_not_annotations_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_genes(tmp_path / "genes.gtf")
    (tmp_path / "genes.gtf").write_text("chr1\tx\texon\t1\t2\t.\t+\t.\tgene_id\n")
    with pytest.raises(ValueError, match="no lines of the feature 'gene'"):
        read_genes(tmp_path / "genes.gtf")
    (tmp_path / "bare.gtf").write_text("chr1\tx\tgene\t1\t2\t.\t+\t.\tnote x\n")
    with pytest.raises(ValueError, match="a gene has none of"):
        read_genes(tmp_path / "bare.gtf")
    (tmp_path / "genes.bed").write_text("chr1\t1\t2\n")
    with pytest.raises(ValueError, match="3 of 4 tab-separated columns"):
        read_genes(tmp_path / "genes.bed")
    with pytest.raises(ValueError, match="has no positions: expected the columns"):
        read_genes(pd.DataFrame({"gene_ids": ["x"]}, index=["A"]))
    with pytest.raises(ValueError, match="has no gene with a position"):
        read_genes(pd.DataFrame({"interval": ["NA"]}, index=["A"]))


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real data at {SHARED}")
@pytest.mark.parametrize("build", ["hg38", "hg19", "mm10"])
def test_the_build_of_real_annotations_is_detected(build):
    genes = read_genes(SHARED / "annotation" / f"{build}_genes.bed.gz")
    assert ep.genome.detect_build(genes) == [build]
    assert genes.index.is_unique
    assert set(genes["strand"]) == {"+", "-"}
