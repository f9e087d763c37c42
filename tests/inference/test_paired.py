"""Predicted expression where RNA and ATAC have different cells: no cell loses its prediction."""

import warnings

import anndata
import mudata
import numpy as np
import pandas as pd
import pytest
from stored_cells import combined, write

import epifoundation as ep
from epifoundation.inference import paired

KEY, FRAME = "epifoundation", "epifoundation_expression"
RNG = np.random.default_rng(0)
ORDERS = {  # rows of the cells with ATAC, and with RNA
    "other order": (np.arange(400), RNG.permutation(400)),
    "ATAC alone": (RNG.permutation(400), RNG.permutation(300)),
    "RNA alone": (np.arange(300), RNG.permutation(400)),
    "either alone": (np.arange(390), 100 + RNG.permutation(300)),
    "same number": (np.arange(300), np.arange(50, 350)),
}


def read(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return mudata.read_zarr(path) if path.suffix == ".zarr" else mudata.read_h5mu(path)


@pytest.fixture(scope="module")
def expected(simulated, model):
    """Predictions for all cells, from ATAC alone."""
    return ep.tl.embed(simulated["atac"], model, copy=True).obsm[FRAME]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", ["memory", "h5mu", "zarr"])
def test_every_cell_has_its_prediction_in_memory_and_in_its_file(
    simulated, model, expected, order, kind, tmp_path, monkeypatch
):
    monkeypatch.setattr(paired, "ROWS_PER_WRITE", 40 * 64)  # several writes
    data = combined(simulated, *ORDERS[order])
    if kind == "memory":
        ep.tl.embed(data, model)
    else:
        path = write(data, tmp_path / f"a.{kind}")
        ep.tl.embed(path, model)
        data = read(path)
    atac, rna = data["atac"], data["rna"]
    layer = pd.DataFrame(rna.layers[KEY], rna.obs_names, rna.var_names)
    has_atac = rna.obs_names.isin(atac.obs_names)
    assert layer[~has_atac].isna().all(axis=None)
    pd.testing.assert_frame_equal(
        layer[has_atac], expected.loc[rna.obs_names[has_atac], rna.var_names], atol=1e-5
    )
    lacks_rna = not atac.obs_names.isin(rna.obs_names).all()
    assert (FRAME in atac.obsm) == lacks_rna
    if lacks_rna:
        found = atac.obsm[FRAME]
        pd.testing.assert_frame_equal(found, expected.loc[found.index], atol=1e-5)
        assert list(found.index) == list(atac.obs_names)


def test_a_file_of_results_has_all_cells(simulated, model, expected, tmp_path):
    path = write(combined(simulated, *ORDERS["either alone"]), tmp_path / "a.h5mu")
    ep.tl.embed(path, model, output=tmp_path / "out.h5ad")
    found = anndata.read_h5ad(tmp_path / "out.h5ad")
    wanted = expected.loc[found.obs_names, found.var_names]
    np.testing.assert_allclose(found.layers[KEY], wanted, atol=1e-5)


def test_predictions_of_an_earlier_run_do_not_stay_beside_new_ones(simulated, model, tmp_path):
    data = combined(simulated, *ORDERS["ATAC alone"])
    ep.tl.embed(data, model)
    assert FRAME in data["atac"].obsm
    both = data["rna"].obs_names
    paired_only = mudata.MuData({"atac": data["atac"][both].copy(), "rna": data["rna"].copy()})
    path = write(paired_only, tmp_path / "a.h5mu")
    ep.tl.predict_expression(paired_only, model, genes=["gene3"])
    ep.tl.predict_expression(path, model, genes=["gene3"])
    for found in (paired_only, read(path)):
        assert FRAME not in found["atac"].obsm
        assert np.isfinite(found["rna"].layers[KEY]).sum() == len(both)


def test_some_genes_of_cells_without_rna(simulated, model, expected):
    data = combined(simulated, *ORDERS["either alone"])
    ep.tl.predict_expression(data, model, genes=["gene7", "gene3"])
    found = data["atac"].obsm[FRAME]
    pd.testing.assert_frame_equal(found, expected.loc[found.index, ["gene7", "gene3"]], atol=1e-5)
    layer = pd.DataFrame(data["rna"].layers[KEY], columns=data["rna"].var_names)
    assert list(layer.columns[layer.notna().any()]) == ["gene3", "gene7"]


@pytest.mark.parametrize("kind", ["memory", "h5mu"])
def test_without_a_cell_in_both_names_are_explained(simulated, model, expected, kind, tmp_path):
    data = simulated.copy()
    data["atac"].obs_names = data["atac"].obs_names + "_atac"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data.update()
    data["rna"].layers[KEY] = np.ones(data["rna"].shape, np.float32)  # of an earlier run
    target = data if kind == "memory" else write(data, tmp_path / "a.h5mu")
    with pytest.warns(UserWarning, match=r"0 cells are in both.*removesuffix\('_atac'\)"):
        ep.tl.embed(target, model)
    found = data if kind == "memory" else read(target)
    np.testing.assert_allclose(found["atac"].obsm[FRAME], expected, atol=1e-5)
    assert KEY not in found["rna"].layers


def test_modalities_that_share_variables_have_no_cells_in_common(simulated, model, tmp_path):
    mods = {"atac": simulated["atac"].copy(), "rna": simulated["rna"].copy()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = mudata.MuData(mods, axis=1)
    path = write(data, tmp_path / "a.h5mu")
    for place in (data, path):
        with pytest.raises(ValueError, match="`axis=1`"):
            ep.tl.embed(place, model)
        with pytest.raises(ValueError, match="`axis=1`"):
            ep.tl.pretrain(place, config=ep.ModelConfig(dim=8))
        with pytest.raises(ValueError, match="`axis=1`"):
            ep.tl.pretrain(place, objective="peaks", label_key="rna:cell_type")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        both = mudata.MuData(mods, axis=-1)
        ep.tl.embed(both, model)
    assert np.isfinite(both["rna"].layers[KEY]).all()
