"""Imputed accessibility: by cells and by groups, and against what was planted."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from anndata import AnnData
from sklearn.metrics import roc_auc_score

import epifoundation as ep

KEY = "epifoundation_accessibility"


def test_probabilities_of_asked_peaks_and_their_means(mdata, model, tmp_path):
    atac = mdata["atac"]
    known = [name for name in atac.var_names if name in set(model.peaks.names)]
    asked = [known[3], known[50], known[7]]
    ep.tl.impute_accessibility(atac, model, peaks=asked, depth=50)
    cells = atac.obsm[KEY]
    assert list(cells.columns) == sorted(asked, key=list(atac.var_names).index)
    assert cells.to_numpy().min() > 0
    assert cells.to_numpy().max() < 1
    ep.tl.impute_accessibility(atac, model, groupby="cell_type", depth=50)
    groups = atac.varm[KEY]
    means = cells.groupby(atac.obs["cell_type"], observed=True).mean()
    np.testing.assert_allclose(groups.loc[cells.columns].T, means[cells.columns], rtol=1e-4)
    # By hand: one minus exp of minus the calibrated expected number
    embedding = torch.from_numpy(ep.tl.embed(atac, model, copy=True).obsm["X_epifoundation"][:5])
    with torch.inference_mode():
        share = model.network.peaks(embedding).softmax(dim=-1).numpy()
    position = [list(model.peaks.names).index(name) for name in cells.columns]
    knots = np.log(atac.uns[KEY]["curve"].to_numpy())
    knots = np.vstack([knots[0] - 20, knots, knots[-1] + 20])  # parallel to the diagonal outside
    calibrated = np.exp(np.interp(np.log(50 * share[:, position]), *knots.T))
    np.testing.assert_allclose(cells.iloc[:5], 1 - np.exp(-calibrated), rtol=5e-3)
    mdata.write_h5mu(tmp_path / "x.h5mu")


def test_groups_differ_as_their_open_peaks_do(mdata, model):
    atac = mdata["atac"]
    ep.tl.impute_accessibility(atac, model, groupby="cell_type")
    imputed = atac.varm[KEY]
    known = imputed.notna().all(axis=1).to_numpy()
    kinds = imputed.columns
    measured = np.stack(
        [
            np.asarray((atac.X[(atac.obs["cell_type"] == k).to_numpy()] > 0).mean(axis=0)).ravel()
            for k in kinds
        ],
        axis=1,
    )
    a, b = imputed.to_numpy()[known], measured[known]
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.6
    total = imputed.to_numpy()[known].sum(axis=0)
    depth = np.median(np.asarray((atac.X > 0).sum(axis=1)))
    assert np.abs(total / depth - 1).max() < 0.3


def test_foreign_peaks_and_empty_cells(mdata, model):
    atac = mdata["atac"]
    start = atac.var["start"].iloc[0]
    chrom = atac.var["chrom"].iloc[0]
    names = [f"{chrom}:{start}-{start + 2600}", "chr22:1-500", *atac.var_names[2:]]
    other = AnnData(atac.X, var=pd.DataFrame(index=names), obs=atac.obs)
    ep.tl.impute_accessibility(other, model, peaks=names[:2], depth=30)
    ep.tl.impute_accessibility(atac, model, peaks=list(atac.var_names[:2]), depth=30)
    found = other.obsm[KEY]
    assert found["chr22:1-500"].isna().all()
    assert found.iloc[:, 0].notna().all()
    empty = atac[:3].copy()
    empty.X = sp.csr_matrix(empty.X.toarray() * np.array([[1], [0], [1]], dtype=np.float32))
    ep.tl.impute_accessibility(empty, model, peaks=model.peaks.names[5])
    assert empty.obsm[KEY].isna().to_numpy().ravel().tolist() == [False, True, False]


def test_probabilities_of_a_held_out_batch_are_calibrated():
    data = ep.datasets.simulate_multiome(600, 800, 40, n_batches=3, rng=3)
    is_held_out = (data.obs["batch"] == "batch2").to_numpy()
    model = ep.tl.pretrain(data[~is_held_out].copy(), config=ep.ModelConfig(dim=16))
    atac = data["atac"][is_held_out, model.peaks.names].copy()
    before = atac.copy()
    ep.tl.impute_accessibility(atac, model, peaks=list(atac.var_names))
    result = atac.uns[KEY]
    table = result["reliability"]
    assert result["error"]["calibrated"] < 0.5 * result["error"]["uncalibrated"]
    top = table[table["n"] >= 200].iloc[-1]
    assert top["predicted"] > 0.5
    assert abs(top["predicted"] - top["observed"]) < 0.08
    assert abs(top["uncalibrated"] - top["observed"]) > 0.1
    assert table["n"].sum() == result["cells"] * atac.n_vars
    # Calibration does not change the order of peaks and cells
    with torch.inference_mode():
        ep.tl.embed(before, model)
        share = model.network.peaks(torch.from_numpy(before.obsm["X_epifoundation"]))
        share = share.softmax(dim=-1).numpy()
    is_open = before.X.toarray().ravel() > 0
    found = roc_auc_score(is_open, atac.obsm[KEY].to_numpy().ravel())
    assert found == pytest.approx(roc_auc_score(is_open, share.ravel()), abs=1e-4)


def test_too_few_open_peaks_are_not_calibrated(mdata, model):
    atac = mdata["atac"][:2].copy()
    matrix = np.zeros(atac.shape, np.float32)
    matrix[:, :30] = 1
    atac.X = sp.csr_matrix(matrix)
    ep.tl.impute_accessibility(atac, model, peaks=list(atac.var_names[:5]))
    assert atac.uns[KEY]["curve"].to_numpy().tolist() == [[1, 1]]
    matrix[:] = 0
    atac.X = sp.csr_matrix(matrix)
    ep.tl.impute_accessibility(atac, model, peaks=list(atac.var_names[:5]))
    assert atac.uns[KEY]["cells"] == len(atac.uns[KEY]["reliability"]) == 0
    assert atac.obsm[KEY].isna().all(axis=None)


def test_bad_input_is_refused(mdata, model):
    with pytest.raises(
        ValueError,
        match="All 600 peaks of 400 cells are too many: select some with `peaks=`, "
        "or pass `groupby=`",
    ):
        ep.tl.impute_accessibility(mdata, model)
    with pytest.raises(ValueError, match="`depth` must be a positive number"):
        ep.tl.impute_accessibility(mdata, model, groupby="cell_type", depth=0)
    with pytest.raises(ValueError, match="neither a peak of the data nor a region"):
        ep.tl.impute_accessibility(mdata, model, peaks="nonsense")
    paper = ep.ModelConfig(
        encoder="transformer", dim=8, n_heads=1, n_layers=1, objective="binary", decoder="query"
    )
    without = ep.tl.pretrain(mdata, config=paper, training=ep.TrainingConfig(max_epochs=1))
    with pytest.raises(
        ValueError, match="predicts no peaks: it is an atlas, or its decoder is the paper's"
    ):
        ep.tl.impute_accessibility(mdata, without, groupby="cell_type")
