"""``ep.get``: results as objects for scanpy, wherever the tools wrote them."""

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
from mudata import MuData

import epifoundation as ep

OBSM, LAYER = "epifoundation_expression", "epifoundation"


def test_expression_of_atac_alone(mdata, model):
    atac = mdata["atac"]
    ep.tl.embed(atac, model)
    atac.obsm["X_umap"] = np.random.default_rng(0).normal(size=(400, 2))
    atac.uns["epifoundation_cell_type_colors"] = ["red"] * 4
    before = atac.copy()
    found = ep.get.expression(atac)
    assert found.shape == (400, 40)
    assert list(found.var_names) == model.genes.names
    np.testing.assert_array_equal(found.X, atac.obsm[OBSM])
    pd.testing.assert_frame_equal(found.obs, atac.obs)
    assert set(found.obsm) == {"X_epifoundation", "X_umap"}
    assert found.uns["scale"] == "log1p of counts per 10,000"
    assert found.uns["epifoundation_cell_type_colors"] == ["red"] * 4
    found.X[:], found.obs["new"], found.obsm["X_umap"][:] = 0, 1, 0
    pd.testing.assert_frame_equal(atac.obsm[OBSM], before.obsm[OBSM])
    pd.testing.assert_frame_equal(atac.obs, before.obs)
    np.testing.assert_array_equal(atac.obsm["X_umap"], before.obsm["X_umap"])


def test_what_it_is_for(mdata, model):
    """scanpy finds genes and columns of `obs` in it."""
    ep.tl.embed(mdata["atac"], model)
    found = ep.get.expression(mdata["atac"])
    gene = model.genes.names[0]
    assert list(sc.get.obs_df(found, [gene, "epifoundation_cell_type"])) == [
        gene,
        "epifoundation_cell_type",
    ]
    sc.tl.rank_genes_groups(found, "cell_type", method="t-test")
    scores = found.uns["rank_genes_groups"]["scores"]
    assert np.isfinite([list(row) for row in scores]).all()


def test_layer_and_table_and_file_are_the_same(mdata, model, tmp_path):
    alone = ep.tl.embed(mdata["atac"], model, copy=True)
    expected = ep.get.expression(alone)
    mdata["rna"].var["chromosome"] = "chr1"
    mdata.obs["of_all"] = "a"
    ep.tl.embed(mdata, model)
    found = ep.get.expression(mdata)
    np.testing.assert_allclose(found.X, expected.X, atol=1e-6)
    assert list(found.var_names) == list(expected.var_names)
    assert set(found.var) >= {"chromosome"}
    assert set(found.obs) >= {"of_all", "epifoundation_cell_type"}
    assert found.uns["scale"] == expected.uns["scale"]
    mdata.write(tmp_path / "a.h5mu")
    alone.write_h5ad(tmp_path / "a.h5ad")
    out = ep.tl.embed(tmp_path / "a.h5ad", model, output=tmp_path / "out.zarr")
    for path in (tmp_path / "a.h5mu", str(tmp_path / "a.h5ad"), out, anndata.read_zarr(out)):
        again = ep.get.expression(path)
        np.testing.assert_allclose(again.X, expected.X, atol=1e-6)
        assert list(again.obs_names) == list(expected.obs_names)
        assert list(again.var_names) == list(expected.var_names)
        assert again.uns["scale"] == expected.uns["scale"]


def test_cells_and_genes_that_were_not_predicted(mdata, model):
    rna = mdata["rna"][100:, ::-1].copy()
    rna.var_names = ["not in the model", *rna.var_names[1:]]
    atac = mdata["atac"][:300].copy()
    atac.X = sp.diags((np.arange(300) != 150).astype(np.float32)) @ atac.X
    expected = ep.tl.embed(mdata["atac"], model, copy=True).obsm[OBSM]
    partly = MuData({"atac": atac, "rna": rna})
    with pytest.warns(UserWarning, match="no open peak that the model knows"):
        ep.tl.embed(partly, model)
    with pytest.warns(UserWarning, match=r"1 of 300 cells have no predicted expression \(NaN\)"):
        found = ep.get.expression(partly)
    assert list(found.obs_names) == list(atac.obs_names)  # also those without RNA
    assert list(found.var_names) == model.genes.names
    is_known = ~np.isnan(found.X).any(axis=1)
    assert is_known.sum() == 299
    wanted = expected.loc[found.obs_names[is_known], found.var_names]
    np.testing.assert_allclose(found.X[is_known], wanted, atol=1e-6)


def test_the_scale_is_that_of_the_values(mdata, model):
    """A table of an earlier run does not hide the layer of this one, nor lend it its scale."""
    ep.tl.predict_expression(mdata["atac"], model, genes="gene3", scale="measured")
    first = ep.get.expression(mdata)
    assert (list(first.var_names), first.uns["scale"]) == (
        ["gene3"],
        "mean of log1p of counts per 10,000",
    )
    ep.tl.predict_expression(mdata, model)
    second = ep.get.expression(mdata)
    assert second.n_vars == 40
    assert second.uns["scale"] == "log1p of counts per 10,000"


def test_missing_results_are_named(mdata, model):
    with pytest.raises(ValueError, match="No predicted expression in `obsm"):
        ep.get.expression(mdata)
    with pytest.raises(ValueError, match="No 'mine_probabilities' in `obsm`"):
        ep.get.probabilities(mdata, key_added="mine")
    with pytest.raises(ValueError, match="No 'epifoundation_accessibility' in `varm` or `obsm`"):
        ep.get.accessibility(mdata)
    with pytest.raises(TypeError, match="Expected an AnnData or MuData object, got list"):
        ep.get.expression([1])
    with pytest.raises(FileNotFoundError):
        ep.get.expression("nowhere.h5ad")
