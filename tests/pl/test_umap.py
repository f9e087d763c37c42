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
    assert [ax.get_title() for ax in axes] == ["epifoundation_cell_type", "epifoundation_confidence"]
    assert len(axes[0].collections[0].get_offsets()) == 400


def test_any_column(embedded):
    assert ep.pl.umap(embedded["atac"], color="batch", show=False).get_title() == "batch"


def test_what_is_missing_is_said(embedded, mdata, model):
    with pytest.raises(ValueError, match=r"No \['mine_cell_type', 'mine_confidence'\] in `obs`"):
        ep.pl.umap(embedded, key_added="mine")
    del embedded["atac"].obsm["X_umap"]
    with pytest.raises(ValueError, match=r"No UMAP in `obsm`.*use_rep='X_epifoundation'"):
        ep.pl.umap(embedded)
