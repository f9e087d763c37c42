"""Files of other kinds are refused in one line that says what they are."""

import gzip
import zipfile

import h5py
import numpy as np
import pytest
import zarr

import epifoundation as ep
from epifoundation.cells.formats import open_source, read_cells

FRAGMENTS = b"chr1\t100\t200\tAAACGAAAGACGTCAG-1\t2\n"
KINDS = {  # content, and what it is
    "a.rds": (gzip.compress(b"X\n\x00\x00\x00\x03\x00\x04\x02\x00"), "a file of R"),
    "b.rds": (b"X\n\x00\x00\x00\x03\x00\x04\x02\x00", "a file of R"),
    "a.RData": (gzip.compress(b"RDX3\nX\n\x00\x00\x00\x03"), "a file of R"),
    "a.bam": (gzip.compress(b"BAM\x01" + bytes(99)), "a file of sequencing reads"),
    "a.parquet": (b"PAR1" + bytes(20) + b"PAR1", "a Parquet table"),
    "a.feather": (b"ARROW1\x00\x00" + bytes(20), "an Arrow table"),
    "a.npy": (b"\x93NUMPY\x01\x00", "a NumPy array"),
    "a.pkl": (b"\x80\x05\x95", "a Python pickle"),
    "a.tar.gz": (gzip.compress(b"x" * 257 + b"ustar\x0000" + bytes(99)), "a tar archive"),
    "a.zarr.zip": (b"PK\x03\x04" + bytes(30), "a zip archive"),
    "a.xz": (b"\xfd7zXZ\x00" + bytes(30), "compressed with xz"),
    "a.h5ad": (b"\n<!DOCTYPE html>\n<html><head></head></html>", "a web page"),
    "a.tsv.gz": (gzip.compress(b"<HTML><title>Log in</title></HTML>"), "a web page"),
    "lfs.h5ad": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git"),
    "matrix.mtx.gz": (gzip.compress(b"%%MatrixMarket matrix coordinate\n"), "a MatrixMarket file"),
}
TEXTS = {  # what only tools that read cells refuse by its kind
    "fragments.tsv.gz": (gzip.compress(b"# id=x\n" * 500 + FRAGMENTS), "a fragments file"),
    "a.narrowPeak": (b"chr1\t1\t9\tp1\t0\t.\t5\t-1\t-1\t3\n", "a BED file of peaks"),
    "peaks.bed": (b"chr1\t1\t9\r\nchr1\t20\t30\r\n", "a BED file of peaks"),
    "a.csv": (b"cell,chr1:100-200\nA,1\n", "a text file, which begins with 'cell,chr1:100-200'"),
    "empty.h5ad": (b"", "an empty file"),
    "noise.h5ad": (bytes(range(256)), "of an unknown kind"),
    "cut.h5ad": (b"\xff\xfe", "of an unknown kind"),
}


def refusals(path, what):
    """All that reads cells."""
    for read in (read_cells, lambda path: open_source(path, "atac"), ep.tl.embed):
        with pytest.raises(
            ValueError, match=f"{path.name}' is {what}.*; expected an .h5ad"
        ) as error:
            read(path)
        assert "\n" not in str(error.value)
        assert str(error.value).endswith((".", "`"))


@pytest.mark.parametrize("name", [*KINDS, *TEXTS])
def test_files_are_no_cells(tmp_path, name):
    content, what = (KINDS | TEXTS)[name]
    (tmp_path / name).write_bytes(content)
    refusals(tmp_path / name, what)


@pytest.mark.parametrize("name", KINDS)
def test_files_are_no_text(tmp_path, name):
    content, what = KINDS[name]
    path = tmp_path / name
    path.write_bytes(content)
    peaks = ep.PeakVocabulary.from_names(["chr1:100-200"])
    with pytest.raises(ValueError, match=f"{name}' is {what}.*, not a fragments file"):
        ep.pp.count_fragments(path, peaks)
    with pytest.raises(ValueError, match=f"{name}' is {what}.*, not a table of text"):
        ep.PeakVocabulary.read_bed(path)
    (tmp_path / "f.tsv").write_bytes(FRAGMENTS)
    with pytest.raises(ValueError, match=f"{name}' is {what}.*, not a table of text"):
        ep.pp.count_fragments(tmp_path / "f.tsv", peaks, barcodes=path)
    with pytest.raises(ValueError, match=f"{name}' is {what}"):
        ep.pp.consensus_peaks(path)


def test_cells_are_no_fragments(tmp_path, simulated):
    simulated["atac"].write_h5ad(tmp_path / "a.h5ad")
    simulated.write(tmp_path / "m.h5mu")
    for name in ("a.h5ad", "m.h5mu"):
        with pytest.raises(ValueError, match=f"{name}' is an HDF5 file, not a fragments file"):
            ep.pp.count_fragments(tmp_path / name, simulated["atac"].var)
        with pytest.raises(ValueError, match=f"{name}' is an HDF5 file.*consensus_peaks"):
            ep.PeakVocabulary.read_bed(tmp_path / name)


def test_peaks_and_fragments_are_not_confused(tmp_path):
    for name in ("a.narrowPeak", "peaks.bed"):
        (tmp_path / name).write_bytes(TEXTS[name][0])
        with pytest.raises(ValueError, match=f"{name}' is a BED file of peaks, not a fragments"):
            ep.pp.count_fragments(tmp_path / name, None, min_fragments=1)
    (tmp_path / "f.tsv").write_bytes(FRAGMENTS)
    for barcode in (b"AAACGAAAGACGTCAG-1", b"donor_AAACGAAAGACGTCAG-1_4", b"s1#AAACGAAAGACGTCAG"):
        (tmp_path / "f.tsv").write_bytes(FRAGMENTS.replace(b"AAACGAAAGACGTCAG-1", barcode))
        for read in (ep.PeakVocabulary.read_bed, ep.pp.consensus_peaks):
            with pytest.raises(ValueError, match=r"f.tsv' is a fragments file .*, not a BED file"):
                read(tmp_path / "f.tsv")


def foreign(*members, **attributes):
    def build(root):
        for member in members:
            root[member] = np.zeros(2)
        root.attrs.update(attributes)

    return build


HDF5 = {
    "a.loom": (foreign("matrix", "row_attrs/Gene", "col_attrs/CellID"), "a .loom file"),
    "a.snap": (foreign("AM/a", "HD/b", "BD/c"), "a .snap file of SnapATAC"),
    "a.arrow": (foreign("ArchRVersion", "Fragments/a"), "an Arrow file of ArchR"),
    "a.h5seurat": (foreign("assays/ATAC/a", "meta.data/a"), "an .h5seurat file"),
    "a.h5ads": (foreign("obs/_index", "uns/AnnDataSet/keys"), "an .h5ads data set of SnapATAC2"),
    "a.h5ad": (foreign("obs/_index", "obsm/fragment_paired/data"), "an AnnData of SnapATAC2 with"),
    "molecule_info.h5": (foreign("barcode_idx", "count"), "a 10x file of molecules"),
    "rna.h5": (foreign("GRCh38/gene_names", "GRCh38/data"), "a 10x matrix of genes"),
    "a.h5": (foreign("val", version="packed-uint-matrix-v2"), "a matrix of BPCells"),
    "c.h5": (foreign("count_hdf5_peaks"), "a matrix of ChrAccR"),
    "d.h5": (foreign("x", "y"), r"an HDF5 file with \['x', 'y'\]"),
    "e.h5": (foreign(), "an HDF5 file without content"),
}


@pytest.mark.parametrize("name", HDF5)
def test_hdf5_of_other_tools(tmp_path, name):
    build, what = HDF5[name]
    with h5py.File(tmp_path / name, "w") as root:
        build(root)
    refusals(tmp_path / name, what)


def test_folders_of_other_kinds(tmp_path):
    names = {
        "mtx": (["matrix.mtx.gz", "peaks.bed", "barcodes.tsv"], "a folder of MatrixMarket files"),
        "cells": (["a.h5ad", "b.h5ad"], r"a folder of files of cells \(2\)"),
        "none": ([], "an empty folder"),
        "other": (["x.txt"], r"a folder with \['x.txt'\], not a zarr store"),
    }
    for folder, (files, what) in names.items():
        (tmp_path / folder).mkdir()
        for file in files:
            (tmp_path / folder / file).touch()
        refusals(tmp_path / folder, what)
        with pytest.raises(ValueError, match="is a folder; expected a fragments file"):
            ep.pp.count_fragments(tmp_path / folder, None)
        with pytest.raises(ValueError, match="is a folder; expected a file"):
            ep.PeakVocabulary.read_bed(tmp_path / folder)
    root = zarr.open_group(tmp_path / "s.zarr", mode="w")
    for part in ("images", "tables"):
        root.create_group(part)
    refusals(tmp_path / "s.zarr", "a SpatialData store")


@pytest.mark.filterwarnings("ignore::anndata.OldFormatWarning")
@pytest.mark.filterwarnings("ignore:The HDF5 file was not created by muon:UserWarning")
def test_files_of_people_are_read_or_refused_in_one_line(shared_data, tmp_path):
    """What each of the public files is."""
    folder = shared_data.parent / "files"
    read = {
        "bpcells_mini_mat.anndata-v0.6.22.h5ad": (3, 5),
        "bpcells_mini_mat.anndata-v0.7.h5ad": (3, 5),
        "maestro_test_peak_count.h5": (100, 4283),
        "muon_mdata_axis1_v0.4.1.h5mu": (200, 30),
    }
    for name, shape in read.items():
        assert read_cells(folder / name).shape == shape
    refused = {
        "10x_gex_only_filtered_feature_bc_matrix.h5": "without peaks: .* 33,538 of 'Gene Expr",
        "archr_ChrAccR_regionCounts_2.h5": "ChrAccR",
        "bpcells_mini_mat.anndata-v0.6.22.h5ad": "peak names are not genomic intervals, first '0'",
        "cellxgene_example_with_labels.h5ad": "They are genes: RNA has no peaks",
        "cellxgene_fragments.tsv.gz": "is a fragments file",
        "maestro_test_peak_count.h5": "Too little in common: the data's peaks reach 8 of",
        "muon_mudata_v0.1.2.h5mu": r"it has \['mod1', 'mod2'\]. Name one with `modality=`",
        "muon_test_rna_atac.h5ad": "Too little in common: the data's peaks reach 14 of",
        "scatacpro_ss_peaks.narrowPeak": "a BED file of peaks",
        "sctoolbox_mm10_atac_named_var.h5ad": r"The columns \['chr', 'start', 'stop'\] may have",
        "sctoolbox_snapatac.h5ad": "The column 'name' may have them: `adata.var_names =",
        "snap_demo.snap": "SnapATAC",
    }
    for name, message in refused.items():
        with pytest.raises(ValueError, match=message):
            ep.tl.embed(folder / name, "pbmc-51loci", output=tmp_path / "out.zarr")
    assert not list(tmp_path.iterdir())
    for name in ("muon_mudata_v0.1.2.h5mu", "muon_test_rna_atac.h5ad"):
        with pytest.raises(OSError, match=f"{name}' could not be read into memory"):
            read_cells(folder / name)
    assert len(ep.PeakVocabulary.read_bed(folder / "scatacpro_ss_peaks.narrowPeak")) == 504


def test_a_zip_is_refused_by_its_content(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.h5ad", "w") as archive:
        archive.writestr("a.txt", "x")
    refusals(tmp_path / "a.h5ad", "a zip archive")
