"""The table of file formats: whole files, files of no format, and a format that is added."""

import anndata as ad
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
            ValueError, match=r"cells\.txt' is not a file of cells; expected h5ad or h5mu, zarr\."
        ):
            read(tmp_path / "cells.txt")
        with pytest.raises(FileNotFoundError, match=r"other\.h5ad' does not exist"):
            read(tmp_path / "other.h5ad")


def test_a_damaged_table_of_peaks_is_named(tmp_path, mdata):
    import h5py

    mdata["atac"].write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        del file["var"]["start"]  # `column-order` still names it
    with pytest.raises(OSError, match=r"`var` of '.*a\.h5ad' cannot be read \(.*truncated"):
        formats.open_source(tmp_path / "a.h5ad", "atac")
    with pytest.raises(ValueError, match=r"`var` of '.*a\.h5ad' cannot be read"):
        ep.pp.consensus_peaks(tmp_path / "a.h5ad")


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
