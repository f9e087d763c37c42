"""Expression of chosen genes."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import epifoundation as ep

KEY = "epifoundation_expression"


def test_the_same_numbers_as_embed(mdata, model):
    whole = ep.tl.embed(mdata["atac"], model, copy=True).obsm[KEY]
    alone = ep.tl.predict_expression(mdata["atac"], model, copy=True)
    pd.testing.assert_frame_equal(alone.obsm[KEY], whole, atol=1e-6)
    assert "X_epifoundation" not in alone.obsm
    assert KEY not in mdata["atac"].obsm
    few = ep.tl.predict_expression(
        mdata["atac"], model, genes=["gene7", "gene3", "gene7"], copy=True, batch_size=7
    )
    pd.testing.assert_frame_equal(few.obsm[KEY], whole[["gene7", "gene3"]], atol=1e-5)
    report = few.uns[KEY]
    assert (report["scale"], report["genes"], report["revision"]) == (
        "log1p of counts per 10,000",
        ["gene7", "gene3"],
        model.revision,
    )


def test_with_rna_it_is_a_layer_that_is_nan_for_other_genes(mdata, model, tmp_path):
    ep.tl.predict_expression(mdata, model, genes="gene3")
    layer = mdata["rna"].layers["epifoundation"]
    assert np.isfinite(layer[:, 3]).all()
    assert np.isnan(np.delete(layer, 3, axis=1)).all()
    short = ep.datasets.simulate_multiome(30, 600, 40, rng=1)
    short.mod["rna"] = short["rna"][:, :3].copy()
    ep.tl.predict_expression(short, model, genes=["gene3"])
    assert list(short["atac"].obsm[KEY].columns) == ["gene3"]
    mdata.write_h5mu(tmp_path / "x.h5mu")


def test_batches(mdata, model):
    mean = ep.tl.predict_expression(mdata, model, genes="gene0", copy=True)["rna"].layers[
        "epifoundation"
    ][:, 0]
    own = ep.tl.predict_expression(mdata, model, genes="gene0", batch_key="batch", copy=True)[
        "rna"
    ].layers["epifoundation"][:, 0]
    assert not np.allclose(mean, own)


@pytest.mark.parametrize(
    ("objective", "scale"),
    [("binary", "probability of being expressed"), ("gaussian", "the scale of the training data")],
)
def test_the_scale_of_other_objectives_is_reported(mdata, objective, scale):
    model = ep.tl.pretrain(mdata, objective=objective, config=ep.ModelConfig(dim=16))
    atac = mdata["atac"]
    ep.tl.predict_expression(atac, model)
    assert atac.uns[KEY]["scale"] == scale
    if objective == "binary":
        assert atac.obsm[KEY].to_numpy().min() > 0
        assert atac.obsm[KEY].to_numpy().max() < 1


def test_bad_input_is_refused_and_nothing_is_written(mdata, model):
    with pytest.raises(
        ValueError,
        match=r"2 of 2 genes are not among the 40 of the model: "
        r"'GENE3', close to \['gene3'.*'zzz', close to none",
    ):
        ep.tl.predict_expression(mdata, model, genes=["GENE3", "zzz"])
    with pytest.raises(ValueError, match="`genes` is empty"):
        ep.tl.predict_expression(mdata, model, genes=[])
    peaks = ep.tl.pretrain(mdata["atac"], objective="peaks", config=ep.ModelConfig(dim=16))
    with pytest.raises(ValueError, match="predicts no expression: it learned from ATAC alone"):
        ep.tl.predict_expression(mdata, peaks)
    assert "epifoundation" not in mdata["rna"].layers
    assert KEY not in mdata["atac"].uns
    empty = mdata["atac"][:3].copy()
    empty.X = sp.csr_matrix(empty.X.toarray() * np.array([[1], [0], [1]], dtype=np.float32))
    with pytest.warns(UserWarning, match="1 of 3 cells have no open peak"):
        ep.tl.predict_expression(empty, model)
    assert np.isnan(empty.obsm[KEY].to_numpy()).any(axis=1).tolist() == [False, True, False]


def test_embed_keeps_what_the_same_model_predicted(mdata, model, simulated):
    ep.tl.predict_expression(mdata, model, genes="gene3")
    before = mdata["rna"].layers["epifoundation"].copy()
    ep.tl.embed(mdata, model, expression=False)
    np.testing.assert_array_equal(mdata["rna"].layers["epifoundation"], before)
    other = ep.tl.pretrain(simulated, config=ep.ModelConfig(dim=16))
    ep.tl.embed(mdata, other, expression=False)
    assert "epifoundation" not in mdata["rna"].layers
    assert KEY not in mdata["atac"].uns
