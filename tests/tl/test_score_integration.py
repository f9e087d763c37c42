"""Integration scores: those of scib-metrics, in one call."""

import warnings

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest

import epifoundation as ep

mpl.use("Agg")


@pytest.fixture
def exact_neighbors(monkeypatch):
    """scib-metrics with exact nearest neighbours: the approximate search is slow to compile."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what it imports
        from scib_metrics import nearest_neighbors
        from scib_metrics.benchmark import _core
    from sklearn.neighbors import NearestNeighbors

    def search(X, n_neighbors, random_state=0, n_jobs=1):
        distances, indices = (
            NearestNeighbors(n_neighbors=n_neighbors, algorithm="brute").fit(X).kneighbors(X)
        )
        return nearest_neighbors.NeighborsResults(indices=indices, distances=distances)

    for module in (_core, nearest_neighbors):
        monkeypatch.setattr(module, "pynndescent", search)


@pytest.fixture
def planted():
    """Cells with an embedding of types alone, and one of batches alone."""
    atac = ep.datasets.simulate_multiome(240, 300, 10, n_types=3, rng=0)["atac"]
    rng = np.random.default_rng(0)
    for name, column in (("X_epifoundation", "cell_type"), ("X_batches", "batch")):
        codes = atac.obs[column].cat.codes.to_numpy()
        atac.obsm[name] = (np.eye(4)[codes] * 5 + rng.normal(size=(240, 4))).astype(np.float32)
    return atac


@pytest.mark.slow
def test_types_are_kept_and_batches_are_mixed_or_the_other_way_round(
    planted, tmp_path, exact_neighbors
):
    before = planted.copy()
    planted.obs.loc[planted.obs_names[:7], "cell_type"] = np.nan
    planted.obsm["X_epifoundation"][8] = np.nan
    options = {
        "batch_key": "batch",
        "label_key": "cell_type",
        "embeddings": ["X_epifoundation", "X_batches"],
    }
    assert ep.tl.score_integration(planted, **options) is None
    table = planted.uns["epifoundation_integration"]
    assert list(table.index) == ["LSI", "X_epifoundation", "X_batches"]
    assert list(table.columns[-3:]) == ["Bio conservation", "Batch correction", "Total"]
    assert (
        table.drop(columns="Total").loc["X_epifoundation"]
        - table.drop(columns="Total").loc["X_batches"]
        > 0.1
    ).sum() >= 7
    np.testing.assert_allclose(
        table["Total"], 0.6 * table["Bio conservation"] + 0.4 * table["Batch correction"]
    )
    assert list(planted.obsm) == list(before.obsm)
    ax = ep.pl.integration(planted)
    assert ax.get_yticklabels()[0].get_text() == table["Total"].idxmax()
    plt.close("all")
    planted.write_h5ad(tmp_path / "scored.h5ad")
    import anndata

    again = anndata.read_h5ad(tmp_path / "scored.h5ad").uns["epifoundation_integration"]
    np.testing.assert_allclose(again.loc[table.index, table.columns], table)


def test_bad_input(planted):
    options = {"batch_key": "batch", "label_key": "cell_type"}
    planted.obs["one"] = "a"
    planted.obs["few"] = planted.obs["cell_type"].astype(object).where(np.arange(240) < 50)
    for changed, message in [
        ({"embeddings": ["X_none"]}, r"No embedding \['X_none'\] in `obsm`"),
        ({"embeddings": []}, "No embedding"),
        ({"key_added": "other"}, r"No embedding \['X_other'\]"),
        ({"batch_key": "one"}, r"'one' has 1 value \(\['a'\]\)"),
        ({"label_key": "one"}, "two are needed"),
        ({"label_key": "few"}, "50 cells can be scored"),
        ({"label_key": "nowhere"}, "not a column"),
        ({"n_jobs": 0}, "`n_jobs` must be"),
    ]:
        with pytest.raises(ValueError, match=message):
            ep.tl.score_integration(planted, **(options | changed))
    assert not planted.uns


def test_without_scib_metrics_it_is_said_how_to_get_it(planted, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "scib_metrics.benchmark", None)
    with pytest.raises(ImportError, match=r'pip install "epifoundation\[bench\]"'):
        ep.tl.score_integration(planted, batch_key="batch", label_key="cell_type")
