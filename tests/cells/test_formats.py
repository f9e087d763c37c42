"""The table of file formats: whole files, files of no format, and a format that is added."""

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import epifoundation as ep
from epifoundation.cells import formats
from epifoundation.cells.source import InMemory


def test_cells_are_read_whole_from_each_format(tmp_path, mdata):
    for data, name in ((mdata, "m"), (mdata["atac"], "a")):
        data.write_zarr(tmp_path / f"{name}.zarr")
    mdata.write(tmp_path / "m.h5mu")
    mdata["atac"].write_h5ad(tmp_path / "a.h5ad")
    for name in ("m.h5mu", "m.zarr"):
        assert list(formats.read_cells(tmp_path / name).mod) == list(mdata.mod)
    for name in ("a.h5ad", "a.zarr"):
        assert formats.read_cells(tmp_path / name).shape == mdata["atac"].shape


def test_a_file_of_no_format_names_the_formats(tmp_path):
    (tmp_path / "cells.txt").write_text("AAAC")
    for read in (formats.read_cells, lambda path: formats.open_source(path, "atac")):
        with pytest.raises(
            ValueError, match=r"cells\.txt' is a text file, which begins with 'AAAC'; expected an"
        ):
            read(tmp_path / "cells.txt")
        with pytest.raises(FileNotFoundError, match=r"other\.h5ad' does not exist"):
            read(tmp_path / "other.h5ad")


def test_a_damaged_table_of_peaks_is_named(tmp_path, mdata):
    mdata["atac"].write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        del file["var"]["start"]  # `column-order` still names it
    with pytest.raises(OSError, match=r"`var` of '.*a\.h5ad' cannot be read \(.*truncated"):
        formats.open_source(tmp_path / "a.h5ad", "atac")
    with pytest.raises(ValueError, match=r"`var` of '.*a\.h5ad' cannot be read"):
        ep.pp.consensus_peaks(tmp_path / "a.h5ad")


def write_tenx(path, mdata, kinds=("Gene Expression", "Peaks"), names=None):
    """As CellRanger writes counts: features x cells, by columns."""
    parts = [mdata["rna"] if kind == "Gene Expression" else mdata["atac"] for kind in kinds]
    counts = sp.hstack([sp.csr_matrix(each.X) for each in parts], format="csr").astype(np.int32)
    listed = names or [name for each in parts for name in each.var_names]
    features = {
        "id": [f"ENSG{i}" if "chr" not in name else name for i, name in enumerate(listed)],
        "name": listed,
        "feature_type": [
            kind for kind, each in zip(kinds, parts, strict=True) for _ in each.var_names
        ],
    }
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["barcodes"] = mdata.obs_names.to_numpy().astype("S")
        for part in ("data", "indices", "indptr"):
            group[part] = getattr(counts, part)
        group["shape"] = counts.shape[::-1]
        for key, values in features.items():
            group[f"features/{key}"] = np.array(values).astype("S")
    return path


def test_10x_files_are_read(tmp_path, mdata):
    """Peaks alone, with genes, with names of MAESTRO; several files; genes alone are refused."""
    atac, rna = mdata["atac"], mdata["rna"]
    whole = formats.read_cells(write_tenx(tmp_path / "filtered_feature_bc_matrix.h5", mdata))
    for name in ("atac", "rna"):
        assert (whole[name].X != mdata[name].X).nnz == 0
        assert list(whole[name].var_names) == list(mdata[name].var_names)
        assert list(whole[name].obs_names) == list(mdata[name].obs_names)
    assert whole["rna"].var["gene_ids"].iloc[0] == "ENSG0"
    names = [name.replace(":", "_").replace("-", "_") for name in atac.var_names]
    peaks = write_tenx(tmp_path / "filtered_peak_bc_matrix.h5", mdata, ["Peaks"], names)
    assert (formats.read_cells(peaks).X != atac.X).nnz == 0
    model = ep.tl.pretrain(atac, config=ep.ModelConfig(dim=8, objective="peaks"), genome="hg38")
    expected = ep.tl.embed(atac, model, copy=True).obsm["X_epifoundation"]
    for i, path in enumerate([peaks, tmp_path / "filtered_feature_bc_matrix.h5"]):
        ep.tl.embed(path, model, output=tmp_path / f"{i}.h5ad")
        found = ad.read_h5ad(tmp_path / f"{i}.h5ad").obsm["X_epifoundation"]
        np.testing.assert_allclose(found, expected, atol=1e-6)
    assert ep.pp.consensus_peaks(atac).same_as(ep.pp.consensus_peaks(peaks).intervals)
    with pytest.raises(ValueError, match=r"cannot be written into .*: pass `output=`"):
        ep.tl.embed(peaks, model)
    genes = write_tenx(tmp_path / "genes.h5", mdata, ["Gene Expression"])
    message = rf"genes.h5' is a 10x matrix without peaks: its features are {rna.n_vars} of 'Gene"
    for read in (formats.read_cells, ep.tl.embed, ep.pp.consensus_peaks):
        with pytest.raises(ValueError, match=message):
            read(genes)


def test_gene_symbols_of_10x_that_occur_twice_are_made_unique(tmp_path, mdata):
    rna = mdata["rna"]
    names = ["TBCE", "TBCE", *rna.var_names[2:], *mdata["atac"].var_names]
    read = formats.read_cells(write_tenx(tmp_path / "m.h5", mdata, names=names))["rna"]
    assert read.var_names[:2].tolist() == ["TBCE", "TBCE-1"]
    assert read.var["gene_ids"].is_unique


@pytest.mark.parametrize("part", ["data", "indptr", "features/name", "barcodes", "shape"])
def test_damaged_10x_files_are_refused(tmp_path, mdata, part):
    path = write_tenx(tmp_path / "m.h5", mdata)
    with h5py.File(path, "r+") as file:
        values = file["matrix"][part][:]
        del file["matrix"][part]
    with pytest.raises(OSError, match=r"m.h5' cannot be read as a 10x matrix"):
        formats.read_cells(path)
    with h5py.File(path, "r+") as file:
        file["matrix"][part] = values[:-1]
    with pytest.raises(OSError, match=r"m.h5' cannot be read as a 10x matrix"):
        ep.tl.embed(path, output=tmp_path / "out.zarr")


def test_what_cannot_be_read_whole_is_named(tmp_path, mdata):
    """Whatever anndata and mudata raise."""
    mdata["atac"].write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        del file["X"]["indptr"]
    with pytest.raises(OSError, match=r"a\.h5ad' could not be read into memory \("):
        formats.read_cells(tmp_path / "a.h5ad")


def read_folder(path):
    """A toy format: a scipy matrix and two tables."""
    obs, var = (pd.read_csv(path / f"{name}.csv", index_col=0) for name in ("obs", "var"))
    return ad.AnnData(sp.load_npz(path / "matrix.npz"), obs=obs, var=var)


def test_a_format_added_to_the_table_is_read_by_all_tools(tmp_path, mdata, monkeypatch):
    toy = formats.Format(
        name="folder of matrix.npz, obs.csv and var.csv",
        matches=lambda path: (path / "matrix.npz").exists(),
        open=lambda path, modality: InMemory(read_folder(path), modality, repr(str(path))),
        read=read_folder,
    )
    monkeypatch.setattr(formats, "FORMATS", [toy, *formats.FORMATS])
    atac, folder = mdata["atac"], tmp_path / "toy"
    folder.mkdir()
    sp.save_npz(folder / "matrix.npz", atac.X)
    atac.obs.to_csv(folder / "obs.csv")
    atac.var.to_csv(folder / "var.csv")
    assert formats.read_cells(folder).shape == atac.shape
    expected = ep.pp.consensus_peaks(atac)
    assert expected.same_as(ep.pp.consensus_peaks(folder).intervals)
    options = {"config": ep.ModelConfig(dim=8, objective="peaks"), "genome": "hg38"}
    model = ep.tl.pretrain([folder], **options)
    assert model.weights == ep.tl.pretrain([atac], **options).weights
    with pytest.raises(ValueError, match=r"cannot be written into '.*toy': pass `output=`"):
        ep.tl.embed(folder, model)
    ep.tl.embed(folder, model, output=tmp_path / "out.h5ad")
    embedded = ep.tl.embed(atac, model, copy=True).obsm["X_epifoundation"]
    found = ad.read_h5ad(tmp_path / "out.h5ad")
    np.testing.assert_allclose(found.obsm["X_epifoundation"], embedded, atol=1e-6)
