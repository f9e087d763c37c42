"""Cells give the same embedding from files of all tools, read with the packages that people use."""

import gzip
import warnings

import anndata
import h5py
import mudata
import numpy as np
import pytest
import scanpy as sc
import scipy.io
import scipy.sparse as sp

import epifoundation as ep


@pytest.fixture(scope="module")
def cells(simulated):
    """Both modalities with the features that 10x writes."""
    atac, rna = simulated["atac"], simulated["rna"]
    names = [*rna.var_names, *atac.var_names]
    kinds = ["Gene Expression"] * rna.n_vars + ["Peaks"] * atac.n_vars
    counts = sp.hstack([rna.X, atac.X], format="csr").astype(np.int32)
    return counts, names, kinds, atac.obs_names


def write_h5(path, counts, names, kinds, barcodes):
    """HDF5 matrix of 10x, version 3: features x barcodes, by columns."""
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["barcodes"] = np.array(barcodes, dtype="S")
        for key in ("data", "indices", "indptr"):
            group[key] = getattr(counts, key)
        group["shape"] = np.array(counts.shape[::-1])
        features = group.create_group("features")
        for key, values in (
            ("id", names),
            ("name", names),
            ("feature_type", kinds),
            ("interval", names),
        ):
            features[key] = np.array(values, dtype="S")
        features["genome"] = np.array(["hg38"] * len(names), dtype="S")


def write_mtx(folder, counts, names, kinds, barcodes):
    """The folder of three files by 10x."""
    folder.mkdir()
    with gzip.open(folder / "matrix.mtx.gz", "wb") as file:
        scipy.io.mmwrite(file, counts.T.tocoo())
    lines = [f"{name}\t{name}\t{kind}\n" for name, kind in zip(names, kinds, strict=True)]
    (folder / "features.tsv.gz").write_bytes(gzip.compress("".join(lines).encode()))
    (folder / "barcodes.tsv.gz").write_bytes(gzip.compress("\n".join(barcodes).encode()))


def read(kind, path, cells, simulated):
    """Write the cells in a format and read them as in the guide."""
    if kind in ("10x h5", "10x mtx"):
        (write_h5 if kind == "10x h5" else write_mtx)(path, *cells)
        both = (sc.read_10x_h5 if kind == "10x h5" else sc.read_10x_mtx)(path, gex_only=False)
        with pytest.raises(
            ValueError,
            match="contains Gene Expression and Peaks: 40 of its 640 columns are genes.*== 'Peaks'",
        ):
            ep.pp.map_peaks(both)
        return both[:, both.var["feature_types"] == "Peaks"].copy()
    if kind == "h5mu":
        simulated.write_h5mu(path)
        return mudata.read_h5mu(path)
    if kind == "zarr":
        simulated["atac"].write_zarr(path)
        return anndata.read_zarr(path)
    simulated["atac"].write_h5ad(path)
    return anndata.read_h5ad(path, backed="r" if kind == "h5ad, backed" else None)


@pytest.mark.parametrize("kind", ["10x h5", "10x mtx", "h5mu", "zarr", "h5ad", "h5ad, backed"])
def test_cells_of_any_file_are_embedded(tmp_path, cells, simulated, model, kind):
    expected = ep.tl.embed(simulated["atac"], model, copy=True).obsm["X_epifoundation"]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", message="Writing zarr v2 data", category=UserWarning)
        data = read(kind, tmp_path / "cells", cells, simulated)
        ep.tl.embed(data, model)
    atac = data["atac"] if kind == "h5mu" else data
    np.testing.assert_allclose(atac.obsm["X_epifoundation"], expected, atol=1e-6)
