"""Files that cannot be read: one line says what they are and what to install."""

import json
import sys

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import zarr

import epifoundation as ep
from epifoundation.cells import groups
from epifoundation.cells.formats import open_source
from epifoundation.cells.groups import open_group


@pytest.fixture
def atac():
    return ep.datasets.simulate_multiome(30, 40, 5, rng=0)["atac"].copy()


def one_line(error):
    return "\n" not in str(error.value)


def test_zstd_is_read_if_hdf5plugin_is_installed(atac, tmp_path, forks):
    """As SnapATAC2 writes files. In a separate process: imported filters stay registered."""
    code = """
import sys, hdf5plugin, anndata, epifoundation as ep
atac = ep.datasets.simulate_multiome(30, 40, 5, rng=0)["atac"].copy()
atac.write_h5ad(sys.argv[1], compression=hdf5plugin.FILTERS["zstd"])
"""
    path = tmp_path / "zstd.h5ad"
    (tmp_path / "script.py").write_text(code)
    process = forks.start(tmp_path / "script.py", path)
    process.communicate()
    assert process.returncode == 0
    source = open_source(path, "atac")
    assert (source.read(0, 30) != atac.X).nnz == 0
    assert list(source.names(0, 30)) == list(atac.obs_names)
    source.close()


def test_a_filter_that_is_not_installed_is_named(atac, tmp_path, monkeypatch):
    path = tmp_path / "a.h5ad"
    atac.write_h5ad(path, compression="gzip")
    monkeypatch.setattr(h5py.h5z, "filter_avail", lambda code: False)
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    monkeypatch.setitem(groups.HDF5_FILTERS, h5py.h5z.FILTER_DEFLATE, "zstd")
    with pytest.raises(
        OSError, match=r"a\.h5ad' is compressed with zstd \(HDF5 filter 1\).*pip install hdf5plugin"
    ) as error:
        open_group(path)
    assert one_line(error)
    with pytest.raises(ValueError, match="pip install hdf5plugin"):
        ep.pp.consensus_peaks(path)
    h5py.File(path, "r+").close()  # it was closed


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_an_encoding_that_anndata_does_not_know_is_named(atac, tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    atac.obs["batch"] = pd.Categorical(["a", "b"] * 15)
    getattr(atac, f"write_{kind}")(path)
    root = (
        h5py.File(path, "r+") if kind == "h5ad" else zarr.open_group(path, use_consolidated=False)
    )
    root["obs/batch"].attrs["encoding-type"] = "wonder"
    if kind == "h5ad":
        root.close()
    else:
        (path / "zarr.json").write_text(
            json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {}})
        )
    source = open_source(path, "atac")
    with pytest.raises(
        OSError,
        match=r"`obs/batch` of '.*' is stored in the encoding 'wonder' .*pip install -U anndata",
    ) as error:
        source.column("batch", "batch_key")
    assert one_line(error)
    source.close()


def test_a_matrix_in_another_encoding_is_named(atac, tmp_path):
    path = tmp_path / "a.h5ad"
    atac.write_h5ad(path)
    with h5py.File(path, "r+") as file:
        file["X"].attrs["encoding-type"] = "awkward-array"
    source = open_source(path, "atac")
    with pytest.raises(
        OSError, match=r"`X` of .* is stored in the encoding 'awkward-array'; expected one of"
    ) as error:
        source.matrix(None)
    assert one_line(error)
    source.close()


def test_a_newer_format_of_zarr_is_named(atac, tmp_path):
    path = tmp_path / "a.zarr"
    atac.write_zarr(path)
    metadata = json.loads((path / "zarr.json").read_text())
    (path / "zarr.json").write_text(json.dumps(metadata | {"zarr_format": 4}))
    with pytest.raises(
        OSError,
        match=r"a\.zarr' is a zarr store of format 4; zarr .* reads \[2, 3\].*pip install -U zarr",
    ) as error:
        ep.tl.embed(path, output=tmp_path / "out.zarr")
    assert one_line(error)


def test_a_codec_that_is_not_installed_is_named(atac, tmp_path):
    path = tmp_path / "a.zarr"
    atac.write_zarr(path)
    for file in (path / "X/data/zarr.json", path / "zarr.json"):
        file.write_text(file.read_text().replace('"zstd"', '"wonder"'))
    with pytest.raises(OSError, match="wonder") as error:
        open_source(path, "atac").read(0, 30)
    assert one_line(error)


def test_files_without_cells_are_refused(tmp_path):
    (tmp_path / "empty.zarr").mkdir()
    (tmp_path / "text.h5ad").write_text("no HDF5")
    for name in ("empty.zarr", "text.h5ad"):
        with pytest.raises(OSError, match=rf"{name}' cannot be opened as an .h5ad, .h5mu or .zarr"):
            open_group(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        open_group(tmp_path / "none.h5ad")


# This option is what is tested
@pytest.mark.filterwarnings("ignore:The 'future.infer_string' option:DeprecationWarning")
@pytest.mark.parametrize("nullable", [None, True, False])
@pytest.mark.parametrize("infer_string", [True, False])
@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_text_of_every_kind_is_read(tmp_path, kind, infer_string, nullable):
    """Names of cells and peaks, text and categories as arrays, or as values and masks."""
    with (
        pd.option_context("future.infer_string", infer_string),
        ad.settings.override(allow_write_nullable_strings=nullable),
    ):
        names = pd.Index([f"cell{i}" for i in range(6)], dtype="str" if infer_string else object)
        obs = pd.DataFrame(
            {"text": list("abcabc"), "kind": pd.Categorical(list("xyxyxy"))}, index=names
        )
        var = pd.DataFrame(index=[f"chr1:{i}00-{i}50" for i in range(1, 5)])
        path = tmp_path / f"a.{kind}"
        getattr(
            ad.AnnData(sp.csr_matrix(np.ones((6, 4), np.float32)), obs=obs, var=var),
            f"write_{kind}",
        )(path)
    source = open_source(path, "atac")
    assert list(source.names(1, 4)) == ["cell1", "cell2", "cell3"]
    assert list(source.var.index) == list(var.index)
    assert list(source.column("text", "label_key")) == list("abcabc")
    assert list(source.column("kind", "label_key")) == list("xyxyxy")
    source.close()
