"""``ep.pl.umap`` draws what embed wrote and says what is missing."""

import matplotlib as mpl
import numpy as np
import pytest

import epifoundation as ep

mpl.use("Agg")


@pytest.fixture
def embedded(mdata, model):
    ep.tl.embed(mdata, model)
    mdata["atac"].obsm["X_umap"] = np.random.default_rng(0).normal(size=(400, 2))
    return mdata


def test_annotation_and_confidence_by_default(embedded):
    axes = ep.pl.umap(embedded, show=False)
    assert [ax.get_title() for ax in axes] == [
        "epifoundation_cell_type",
        "epifoundation_confidence",
    ]
    assert len(axes[0].collections[0].get_offsets()) == 400


def test_any_column(embedded):
    assert ep.pl.umap(embedded["atac"], color="batch", show=False).get_title() == "batch"


@pytest.mark.parametrize(
    ("key", "basis"), [("X_umap", "umap"), ("umap", "umap"), ("umap", "X_umap"), ("X_tsne", "tsne")]
)
def test_coordinates_by_either_name(embedded, key, basis):
    """scanpy 1.13 has an option to drop the prefix "X_"."""
    atac = embedded["atac"]
    atac.obsm[key] = atac.obsm.pop("X_umap")
    axes = ep.pl.umap(embedded, color="batch", basis=basis, show=False)
    np.testing.assert_allclose(axes.collections[0].get_offsets(), atac.obsm[key], rtol=1e-6)


def test_columns_of_other_tables(embedded):
    embedded["rna"].obs["of_rna"] = embedded["rna"].obs["cell_type"].to_numpy()
    before = list(embedded["atac"].obs)
    axes = ep.pl.umap(embedded, color=["rna:of_rna", "batch"], show=False)
    assert [ax.get_title() for ax in axes] == ["rna:of_rna", "batch"]
    assert list(embedded["atac"].obs) == before
    with pytest.raises(ValueError, match=r"`color='nothing'` is not a column"):
        ep.pl.umap(embedded, color="nothing")


def test_missing_results_are_named(embedded, mdata, model):
    with pytest.raises(ValueError, match=r"No \['mine_cell_type', 'mine_confidence'\] in `obs`"):
        ep.pl.umap(embedded, key_added="mine")
    del embedded["atac"].obsm["X_umap"]
    with pytest.raises(ValueError, match=r"No 'umap' in `obsm`.*use_rep='X_epifoundation'"):
        ep.pl.umap(embedded)
