"""Annotation: planted types, sets that cover, cells that do not belong, and what bad input gets."""

import warnings

import anndata
import mudata
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

import epifoundation as ep
from epifoundation.inference.labellers import threshold

WRITTEN = {
    "epifoundation_cell_type",
    "epifoundation_confidence",
    "epifoundation_set",
    "epifoundation_novelty",
}


@pytest.fixture(scope="module")
def planted():
    """Cells of four types in three batches, and a model that knows two of the batches."""
    mdata = ep.datasets.simulate_multiome(
        1500, 800, 60, n_types=4, n_batches=3, median_fragments=20, rng=5
    )
    known = (mdata.obs["batch"] != "batch2").to_numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = ep.tl.pretrain(
            mdata[known].copy(),
            config=ep.ModelConfig(dim=32),
            batch_key="batch",
            validation=["batch1"],
            genome="hg38",
        )
        return mdata[known]["atac"].copy(), mdata[~known]["atac"].copy(), model


OPTIONS = {"label_key": "cell_type", "batch_key": "batch"}


def test_another_batch_by_a_reference(planted):
    reference, query, model = planted
    before = reference.copy()
    query = query.copy()
    assert ep.tl.annotate(query, model, reference=reference, **OPTIONS) is None
    true = query.obs["cell_type"].astype(str)
    assert set(query.obs) >= WRITTEN
    assert ep.metrics.accuracy(true, query.obs["epifoundation_cell_type"].astype(str)) > 0.8
    best = query.obsm["epifoundation_probabilities"].idxmax(axis=1)
    confidence = query.obs["epifoundation_confidence"]
    assert ep.metrics.expected_calibration_error(true, best, confidence) < 0.1
    covered, size = ep.metrics.conformal_coverage(true, query.obs["epifoundation_set"])
    assert 0.84 < covered < 0.97
    assert size < 2.5
    report = query.uns["epifoundation_annotation"]
    assert report["calibration"] == ["batch1"]  # what the model held out in its training
    assert report["calibration_cells"] == (reference.obs["batch"] == "batch1").sum()
    assert report["labels"] == ["type0", "type1", "type2", "type3"]
    assert report["n_unknown"] == (query.obs["epifoundation_cell_type"] == "unknown").sum()
    assert set(reference.obsm) == set(before.obsm)
    assert set(reference.obs) == set(before.obs)
    assert not reference.uns


def test_a_type_that_the_reference_lacks_stands_out(planted):
    reference, query, model = planted
    found = []
    for left_out in sorted(query.obs["cell_type"].unique()):
        part = reference[reference.obs["cell_type"] != left_out].copy()
        marked = ep.tl.annotate(
            query, model, reference=part, copy=True, unknown=0.05, **OPTIONS
        ).obs
        is_new = (marked["cell_type"] == left_out).to_numpy()
        found.append(roc_auc_score(is_new, marked["epifoundation_novelty"]))
        flagged = marked["epifoundation_cell_type"] == "unknown"
        assert flagged[is_new].mean() > flagged[~is_new].mean()
        assert flagged[~is_new].mean() < 0.15
        names = marked["epifoundation_cell_type"].cat.categories
        assert left_out not in names
    assert np.mean(found) > 0.8


def test_cells_of_another_world_are_unknown(planted):
    """Open peaks at random, far from any cell that was seen."""
    reference, query, model = planted
    rng = np.random.default_rng(0)
    strange = anndata.AnnData(
        (rng.random((200, query.n_vars)) < 0.5).astype(np.float32), var=query.var
    )
    ep.tl.annotate(strange, model, reference=reference, **OPTIONS)
    ep.tl.annotate(query := query.copy(), model, reference=reference, **OPTIONS)
    novelty = [*strange.obs["epifoundation_novelty"], *query.obs["epifoundation_novelty"]]
    assert roc_auc_score([1] * 200 + [0] * query.n_obs, novelty) > 0.8


def test_the_label_head_of_the_model(simulated, model, tmp_path):
    atac = simulated["atac"].copy()
    ep.tl.embed(embedded := simulated.copy(), model)
    ep.tl.annotate(atac, model, unknown=0)
    theirs = embedded["atac"]
    pd.testing.assert_frame_equal(
        atac.obsm["epifoundation_probabilities"],
        theirs.obsm["epifoundation_probabilities"],
        atol=1e-6,
    )
    assert (atac.obs["epifoundation_cell_type"] == theirs.obs["epifoundation_cell_type"]).all()
    model.save_pretrained(tmp_path / "model")
    again = ep.tl.annotate(simulated["atac"], tmp_path / "model", unknown=0, copy=True)
    pd.testing.assert_frame_equal(again.obs[sorted(WRITTEN)], atac.obs[sorted(WRITTEN)])
    pairs = zip(atac.obs["epifoundation_cell_type"], atac.obs["epifoundation_set"], strict=True)
    assert all(label in text.split(" | ") for label, text in pairs)


def test_the_bundled_model_annotates_by_itself():
    mdata = ep.datasets.pbmc_multiome()
    query = mdata[(mdata.obs["split"] == "test").to_numpy()].copy()
    ep.tl.annotate(query, "pbmc-51loci")
    obs = query["atac"].obs
    covered, _ = ep.metrics.conformal_coverage(
        obs["cell_type"].astype(str), obs["epifoundation_set"]
    )
    assert 0.87 < covered < 0.94
    assert 0.01 < (obs["epifoundation_cell_type"] == "unknown").mean() < 0.1


def test_smaller_alpha_gives_larger_sets(planted):
    reference, query, model = planted
    sizes = []
    for alpha in (0.3, 0.1, 0.02):
        sets = ep.tl.annotate(
            query, model, reference=reference, alpha=alpha, copy=True, **OPTIONS
        ).obs["epifoundation_set"]
        sizes.append(ep.metrics.conformal_coverage(sets, sets)[1])
    assert sizes == sorted(sizes)
    few = reference[reference.obs["batch"] == "batch0"][:40].copy()
    sets = ep.tl.annotate(
        query, model, reference=few, label_key="cell_type", alpha=0.01, copy=True
    ).obs["epifoundation_set"]
    assert (
        sets.str.count(r" \| ") == few.obs["cell_type"].nunique() - 1
    ).all()  # eight cells cannot promise 99 %


@pytest.mark.parametrize("kind", ["the same", "other cells", "damaged"])
def test_an_embedding_in_the_object_is_not_used(planted, kind):
    """The object may have been changed since, so cells are embedded anew."""
    reference, query, model = planted
    expected = ep.tl.annotate(query, model, reference=reference, copy=True, **OPTIONS)
    query = query.copy()
    ep.tl.embed(query, model)
    if kind == "other cells":
        other = query[::-1].copy()
        ep.tl.embed(other, model)
        query.obsm["X_epifoundation"] = other.obsm["X_epifoundation"]
    if kind == "damaged":
        query.obsm["X_epifoundation"][::2] = np.nan
    ep.tl.annotate(query, model, reference=reference, **OPTIONS)
    assert "epifoundation_expression" in query.obsm  # what was there stays
    assert "expression_scale" in query.uns["epifoundation"]
    for name in ("confidence", "novelty", "set", "cell_type"):
        key = f"epifoundation_{name}"
        pd.testing.assert_series_equal(query.obs[key], expected.obs[key])
    np.testing.assert_array_equal(query.obsm["X_epifoundation"], expected.obsm["X_epifoundation"])


@pytest.mark.parametrize("merge", [None, "first", "same", "unique", "only"])
def test_objects_put_together(planted, merge):
    """Embedded cells, cells embedded by another model, and cells without an embedding."""
    reference, query, model = planted
    other = ep.tl.pretrain(reference, objective="peaks", rng=1)
    parts = [query[i::3].copy() for i in range(3)]
    expected = ep.tl.annotate(query, model, reference=reference, copy=True, **OPTIONS)
    ep.tl.embed(parts[0], model)
    ep.tl.embed(parts[1], other, key_added="epifoundation")
    both = anndata.concat(parts, join="outer", uns_merge=merge)
    both.var = query.var
    found = both.uns.get("epifoundation", {}).get("revision", model.revision)
    if found != model.revision:
        with pytest.raises(ValueError, match="cells of two models cannot be compared"):
            ep.tl.annotate(both, model, reference=reference, **OPTIONS)
        return
    ep.tl.annotate(both, model, reference=reference, **OPTIONS)
    wanted = expected.obs.loc[both.obs_names]
    for name in ("epifoundation_confidence", "epifoundation_novelty", "epifoundation_set"):
        assert list(both.obs[name]) == list(wanted[name])
    np.testing.assert_array_equal(
        both.obsm["X_epifoundation"], expected[both.obs_names].obsm["X_epifoundation"]
    )


def test_embedding_anew_leaves_nothing_of_an_annotation(planted):
    reference, query, model = planted
    query = ep.tl.annotate(query, model, reference=reference, copy=True, **OPTIONS)
    ep.tl.embed(query, model)
    assert not WRITTEN & set(query.obs)
    assert "epifoundation_probabilities" not in query.obsm
    assert set(query.uns) == {"epifoundation"}


def test_a_cell_does_not_depend_on_the_others(planted):
    reference, query, model = planted
    whole = ep.tl.annotate(query, model, reference=reference, copy=True, **OPTIONS).obs
    part = ep.tl.annotate(query[::-3].copy(), model, reference=reference, copy=True, **OPTIONS).obs
    np.testing.assert_allclose(
        part["epifoundation_novelty"], whole["epifoundation_novelty"][::-3], atol=1e-4
    )
    np.testing.assert_allclose(
        part["epifoundation_confidence"], whole["epifoundation_confidence"][::-3], atol=1e-5
    )


def test_results_are_written_to_files(planted, tmp_path):
    reference, query, model = planted
    query = query.copy()
    query.X.data[: query.X.indptr[2]] = 0
    with pytest.warns(UserWarning, match="2 of .* cells have no open peak"):
        ep.tl.annotate(query, model, reference=reference, unknown=0, key_added="mine", **OPTIONS)
    assert query.obs["mine_cell_type"].isna().tolist()[:3] == [True, True, False]
    assert query.obs["mine_set"].tolist()[:2] == ["", ""]
    assert query.obs["mine_confidence"].isna().sum() == query.obs["mine_novelty"].isna().sum() == 2
    data = mudata.MuData({"atac": query})
    data.write_h5mu(tmp_path / "a.h5mu")
    again = mudata.read_h5mu(tmp_path / "a.h5mu")["atac"]
    assert again.obs["mine_set"].tolist() == query.obs["mine_set"].tolist()
    assert again.uns["mine_annotation"]["alpha"] == 0.1
    assert again.uns["mine_annotation"]["novelty_threshold"] == np.inf


def test_missing_labels_are_left_out_and_counted(planted):
    reference, query, model = planted
    reference = reference.copy()
    reference.obs["cell_type"] = reference.obs["cell_type"].astype(object)
    reference.obs.iloc[:30, reference.obs.columns.get_loc("cell_type")] = None
    report = ep.tl.annotate(query, model, reference=reference, copy=True, **OPTIONS).uns[
        "epifoundation_annotation"
    ]
    assert report["unlabelled_cells"] == 30
    assert report["reference_cells"] + report["calibration_cells"] == reference.n_obs - 30


def test_a_label_with_one_cell_is_learned_and_one_that_only_calibrates_is_not(planted):
    reference, query, model = planted
    reference = reference.copy()
    labels = reference.obs["cell_type"].astype(str)
    batch = reference.obs["batch"]
    labels.loc[batch.index[batch == "batch0"][0]] = "lonely"
    labels.loc[batch.index[batch == "batch1"][0]] = "late"
    reference.obs["cell_type"] = labels
    report = ep.tl.annotate(query, model, reference=reference, copy=True, **OPTIONS).uns[
        "epifoundation_annotation"
    ]
    assert report["labels"] == ["lonely", "type0", "type1", "type2", "type3"]


def test_a_reference_may_have_unknown_cells_itself(planted):
    reference, query, model = planted
    reference = reference.copy()
    reference.obs["cell_type"] = (
        reference.obs["cell_type"].astype(str).replace({"type3": "unknown"})
    )
    marked = ep.tl.annotate(
        query, model, reference=reference, unknown=0.2, copy=True, **OPTIONS
    ).obs
    guess = marked["epifoundation_cell_type"]
    assert (guess[marked["cell_type"] == "type3"] == "unknown").mean() > 0.8
    assert (guess == "unknown").mean() > (marked["cell_type"] == "type3").mean()


BAD = [
    ({"alpha": 0}, "`alpha` must be above 0 and below 1, got 0"),
    ({"alpha": 1.0}, "`alpha` must be above 0 and below 1, got 1.0"),
    ({"alpha": float("nan")}, "`alpha` must be above 0 and below 1, got nan"),
    ({"unknown": -0.1}, "`unknown` must be at least 0 and below 1, got -0.1"),
    ({"label_key": None}, r"`reference` needs `label_key`.*\['cell_type', 'batch'\]"),
    ({"label_key": "kind"}, "`label_key='kind'` is not a column of `obs`"),
    (
        {"calibration": ["batch9"]},
        r"`calibration` must name batches of \['batch0', 'batch1'\], got \['batch9'\]",
    ),
    ({"calibration": ["batch1"], "batch_key": None}, "pass `batch_key=`, their column of `obs`"),
    ({"calibration": ["batch0", "batch1"]}, "Too few cells: 0 to train on"),
    (
        {"calibration": 1.5},
        "`calibration` must be a fraction between 0 and 1 or a list of batches, got 1.5",
    ),
    (
        {"reference": None},
        "`label_key`, `batch_key` and `calibration` are options for the reference",
    ),
    (
        {"reference": None, "label_key": None, "batch_key": None},
        "has no label head: pass `reference=`",
    ),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_bad_references_are_refused(planted, options, message):
    reference, query, model = planted
    query = query.copy()
    with pytest.raises(ValueError, match=message):
        ep.tl.annotate(query, model, **({"reference": reference} | OPTIONS | options))
    assert not query.obsm
    assert not WRITTEN & set(query.obs)


def test_one_label_is_too_few(planted):
    reference, query, model = planted
    same = reference[reference.obs["cell_type"] == "type1"].copy()
    with pytest.raises(
        ValueError, match=r"two labels or more among the training cells.*\['type1'\]"
    ):
        ep.tl.annotate(query.copy(), model, reference=same, **OPTIONS)


def test_other_contents_of_the_reference_do_not_matter(planted):
    reference, query, model = planted
    reference = reference.copy()
    expected = ep.tl.annotate(query, model, reference=reference, copy=True, **OPTIONS).obs
    reference.obsm["X_epifoundation"] = np.zeros((reference.n_obs, 32), np.float32)
    reference.uns["epifoundation"] = {"model": "other", "revision": "abc"}
    reference.X.data[:] = 3
    found = ep.tl.annotate(query, model, reference=reference, copy=True, **OPTIONS).obs
    pd.testing.assert_frame_equal(found, expected)


def test_embeddings_of_another_model_and_other_builds_are_refused(planted, model):
    query, own = planted[1].copy(), planted[2]
    ep.tl.embed(query, own)
    with pytest.raises(ValueError, match=r"The data have an embedding .*not of 'unsaved'"):
        ep.tl.annotate(query, model)
    foreign = planted[0].copy()
    foreign.var_names = [
        *foreign.var_names[:-60],
        *(f"chr1:{i}-{i + 500}" for i in range(249_000_000, 249_030_000, 500)),
    ]
    foreign.var = foreign.var[[]]
    with pytest.raises(ValueError, match="The peaks are of hg19, the model is of hg38"):
        ep.tl.annotate(query, own, reference=foreign, **OPTIONS)


def test_a_head_that_is_not_calibrated_is_refused(simulated, model):
    from dataclasses import replace

    from epifoundation.nn import Network

    network = Network(model.config, replace(model.network.sizes, n_calibration=0, n_reference=0))
    old = ep.EpiFoundation(network, model.peaks, model.genes, model.labels, name="old")
    with pytest.raises(
        ValueError,
        match="The model 'old' has a label head that is not calibrated: pass `reference=",
    ):
        ep.tl.annotate(simulated["atac"].copy(), old)


@pytest.mark.parametrize("n", [5, 9, 10, 99, 1000])
@pytest.mark.parametrize("share", [0.05, 0.1, 0.5])
def test_thresholds_keep_what_they_promise(n, share):
    """The last of n + 1 exchangeable scores exceeds the threshold with probability <= `share`."""
    scores = torch.arange(n, dtype=torch.float32)
    at = threshold(scores, share)
    # Places that a further score can take among them
    above = sum(at < place - 0.5 for place in range(n + 1))
    assert above / (n + 1) <= share + 1e-9
    assert (at == np.inf) == (share * (n + 1) < 1 - 1e-9)
