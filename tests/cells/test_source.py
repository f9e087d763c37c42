"""Columns of `obs`, by their place in a MuData, in memory and in files."""

import numpy as np
import pandas as pd
import pytest

import epifoundation as ep
from epifoundation._validate import get_atac, obs_column
from epifoundation.cells.formats import open_source


@pytest.fixture(params=["memory", "h5mu", "zarr"])
def source(request, mdata, tmp_path):
    """Labels in RNA only, a stale copy of another column in the MuData, one cell without RNA."""
    data = mdata[:60].copy()
    rna = data["rna"][np.random.default_rng(0).permutation(60)[:-1]].copy()
    rna.obs = rna.obs.rename(columns={"cell_type": "of_rna", "batch": "run"})
    data = type(data)({"atac": data["atac"], "rna": rna})
    data["atac"].obs = data["atac"].obs.drop(columns="cell_type")
    data.obs["rna:of_rna"] = "stale"
    data.obs["of_all"] = pd.Categorical(np.where(np.arange(60) < 30, "a", "b"))
    expected = (
        mdata["atac"]
        .obs["cell_type"]
        .astype(str)[:60]
        .where(data["atac"].obs_names.isin(rna.obs_names))
    )
    if request.param == "memory":
        opened = open_source(data, "atac")
    else:
        path = tmp_path / f"a.{request.param}"
        data.write(path) if request.param == "h5mu" else data.write_zarr(path)
        opened = open_source(path, "atac")
    yield opened, data, expected
    opened.close()


def test_columns_of_another_modality_are_taken_from_it(source):
    opened, data, expected = source
    found = opened.column("rna:of_rna", "label_key")
    assert list(found.index) == list(range(60))
    assert list(found.astype(object).where(found.notna(), "none")) == list(
        expected.where(expected.notna(), "none")
    )
    of_memory = obs_column(data, get_atac(data), "rna:of_rna", "label_key")
    assert list(of_memory.dropna()) == list(expected.dropna())


def test_columns_of_the_modality_and_of_the_mudata(source):
    opened, data, _ = source
    for key, expected in (
        ("batch", data["atac"].obs["batch"]),
        ("atac:batch", data["atac"].obs["batch"]),
        ("of_all", data.obs["of_all"]),
    ):
        assert list(opened.column(key, "batch_key")) == list(expected)


def test_the_error_for_a_missing_column_suggests_another(source):
    opened, _, _ = source
    with pytest.raises(
        ValueError,
        match=r"`label_key='of_rna'` is not a column of `obs` of .*; available: "
        r"\['batch', .*'rna:run'\]\. Did you mean `label_key='rna:of_rna'`\?",
    ):
        opened.column("of_rna", "label_key")
    with pytest.raises(ValueError, match=r"`label_key='rna:nothing'` is not a column"):
        opened.column("rna:nothing", "label_key")


def test_tools_take_columns_of_modalities(mdata, model, tmp_path):
    """Labels and batches in RNA only, such as clusters made by scanpy, need not be copied."""
    labels = mdata["atac"].obs["cell_type"].copy()
    for adata in (mdata, mdata["atac"]):
        adata.obs = pd.DataFrame(index=adata.obs_names)
    mdata.update()
    ep.tl.annotate(
        mdata,
        model,
        reference=mdata,
        label_key="rna:cell_type",
        batch_key="rna:batch",
        calibration=["batch1"],
    )
    called = mdata["atac"].obs["epifoundation_cell_type"].astype(str)
    assert (called == labels.astype(str)).mean() > 0.8
    axes = ep.pl.composition(mdata, batch_key="rna:batch")
    assert axes is not None
    expected = ep.tl.embed(mdata, model, batch_key="rna:batch", copy=True)
    mdata.write(tmp_path / "a.h5mu")
    ep.tl.embed(tmp_path / "a.h5mu", model, batch_key="rna:batch", output=tmp_path / "out.zarr")
    import anndata

    found = anndata.read_zarr(tmp_path / "out.zarr")
    np.testing.assert_allclose(
        found.layers["epifoundation"], expected["rna"].layers["epifoundation"], atol=1e-4
    )
