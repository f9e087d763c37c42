"""Cells in files: parts that are missing are named, changed files are other files."""

import anndata
import numpy as np
import pandas as pd
import pytest
from mudata import MuData

from epifoundation.cells.stored import OnDisk


def write(data, path):
    data.write_zarr(path) if path.suffix == ".zarr" else data.write(path)
    return path


@pytest.fixture
def adata():
    names = [f"cell{i}" for i in range(10)]
    return anndata.AnnData(np.ones((10, 3), np.float32), obs=pd.DataFrame(index=names))


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_missing_parts_are_named(adata, tmp_path, kind):
    adata.layers["counts"] = adata.X
    source = OnDisk.open(write(adata, tmp_path / f"a.{kind}"), "atac")
    with pytest.raises(ValueError, match=r"a\.\w+' has no layer 'raw'; available: \['counts'\]"):
        source.matrix("raw")
    assert source.other("rna") is None
    assert source.uns("nothing") is None
    source.close()


@pytest.mark.parametrize("kind", ["h5mu", "zarr"])
def test_modalities(adata, tmp_path, kind):
    rna = adata[:4, :2].copy()
    rna.var_names = ["gene0", "gene1"]
    data = MuData({"atac": adata, "rna": rna})
    data["rna"].uns["report"] = {"cells": 4}
    path = write(data, tmp_path / f"a.{kind}")
    with pytest.raises(ValueError, match=r"No modality 'peaks' in .*; it has \['atac', 'rna'\]"):
        OnDisk.open(path, "peaks")
    source = OnDisk.open(path, "atac")
    other = source.other("rna")
    assert (source.n_obs, len(source.var)) == (10, 3)
    assert (other.n_obs, len(other.var)) == (4, 2)
    assert list(other.names(1, 3)) == ["cell1", "cell2"]
    assert other.uns("report") == {"cells": 4}
    assert source.other("peaks") is None
    source.close()
