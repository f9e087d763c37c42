"""Predicted against measured expression."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

import epifoundation as ep


def test_means_of_groups_and_correlations_are_drawn(mdata, model, tmp_path):
    ep.tl.predict_expression(mdata, model)
    axes = ep.pl.expression(mdata, groupby="cell_type", genes=["gene3", "gene9"])
    assert len(axes) == 3
    counts = mdata["rna"].X.toarray()
    true = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
    predicted = mdata["rna"].layers["epifoundation"]
    kinds = sorted(mdata["rna"].obs["cell_type"].unique())
    for ax, gene in zip(axes[1:], (3, 9), strict=True):
        points = ax.collections[0].get_offsets()
        expected = [
            [
                x[(mdata["rna"].obs["cell_type"] == k).to_numpy(), gene].mean()
                for x in (true, predicted)
            ]
            for k in kinds
        ]
        np.testing.assert_allclose(points, expected, rtol=1e-4)
        assert (
            f"{np.corrcoef(true[:, gene], predicted[:, gene])[0, 1]:.2f} of cells" in ax.get_title()
        )
    mean = ep.metrics.pearson_per_gene(true, predicted)
    assert axes[0].get_title() == f"40 genes, mean {mean:.2f}"
    for ending in ("png", "svg"):
        axes[0].figure.savefig(tmp_path / f"x.{ending}")
        assert (tmp_path / f"x.{ending}").stat().st_size > 5_000
    plt.close("all")


def test_atac_with_expression_measured_elsewhere(mdata, model):
    atac = mdata["atac"].copy()
    ep.tl.predict_expression(atac, model)
    with pytest.raises(ValueError, match="pass `measured=`, an AnnData of cells x genes"):
        ep.pl.expression(atac, groupby="cell_type")
    axes = ep.pl.expression(atac, groupby="cell_type", measured=mdata["rna"][::-1])
    assert len(axes) == 6
    plt.close("all")


def test_bad_input_is_refused(mdata, model):
    with pytest.raises(ValueError, match="run `epifoundation.tl.embed` or"):
        ep.pl.expression(mdata, groupby="cell_type")
    ep.tl.predict_expression(mdata, model)
    with pytest.raises(ValueError, match="among the 40 genes that are both predicted and measured"):
        ep.pl.expression(mdata, groupby="cell_type", genes="GENE3")
    with pytest.raises(ValueError, match="`groupby='x'` is not a column"):
        ep.pl.expression(mdata, groupby="x")
    other = mdata["rna"].copy()
    other.var_names = [f"x{i}" for i in range(40)]
    with pytest.raises(ValueError, match="have 0 genes"):
        ep.pl.expression(mdata, groupby="cell_type", measured=other)


def test_cells_are_matched_by_name_and_those_with_one_modality_left_out(mdata, model):
    import mudata

    data = mudata.MuData({"atac": mdata["atac"][:350].copy(), "rna": mdata["rna"][:49:-1].copy()})
    ep.tl.embed(data, model)
    met = mdata[50:350].copy()
    ep.tl.embed(met, model)
    found, expected = (
        ep.pl.expression(each, groupby="cell_type", genes=["gene3"]) for each in (data, met)
    )
    assert [ax.get_title() for ax in found] == [ax.get_title() for ax in expected]
    plt.close("all")
    atac, far = met["atac"].copy(), met["rna"].copy()
    ep.tl.predict_expression(atac, model)
    far.obs_names = far.obs_names + "-1"
    cure = (
        r"0 cells are in both.*`measured.obs_names = measured.obs_names.str.removesuffix\('-1'\)`"
    )
    with pytest.raises(ValueError, match=cure):
        ep.pl.expression(atac, groupby="cell_type", measured=far)


def test_cells_that_the_model_learned_from_are_told_apart(mdata, model):
    ep.tl.embed(mdata, model)
    title = ep.pl.expression(mdata, groupby="cell_type")[0].get_title()
    assert title.endswith("\nthe model learned from all of these cells")
    is_new = np.arange(400) % 2 == 0
    mdata["atac"].obs["epifoundation_in_training"] = ~is_new
    title = ep.pl.expression(mdata, groupby="cell_type")[0].get_title()
    alone = mdata[is_new].copy()
    del alone["atac"].obs["epifoundation_in_training"]
    mean = ep.pl.expression(alone, groupby="cell_type")[0].get_title().split()[-1]
    assert title.endswith(f"\n200 cells new to the model: {mean}")
    plt.close("all")
