"""Positions of genes, from every format that users have."""

import gzip

import numpy as np
import pandas as pd
import pytest
from conftest import SHARED

import epifoundation as ep
from epifoundation.genome import read_genes, transcription_start

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
