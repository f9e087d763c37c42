"""``ep.tl.link_peaks``: links against planted truth, groups, files, bad input."""

import anndata
import mudata
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score

import epifoundation as ep

KEY, REPORT = "epifoundation_links", "epifoundation_links_report"
OPTIONS = {"genes": None, "max_distance": 50_000, "batch_key": "batch"}


@pytest.fixture(scope="module")
def world():
    """Cells enough to find links, and a model of them."""
    data = ep.datasets.simulate_multiome(1200, 1500, 60, rng=5)
    return data, ep.tl.pretrain(data, batch_key="batch", config=ep.ModelConfig(dim=32))


@pytest.fixture(scope="module")
def linked(world):
    data, model = world
    return ep.tl.link_peaks(data, model, copy=True, **OPTIONS)["atac"].uns[KEY]


@pytest.mark.slow
def test_planted_links_are_found_and_others_are_not(world, linked):
    data, _ = world
    planted = pd.MultiIndex.from_frame(data.uns["truth"]["links"][["gene", "peak"]])
    true = pd.MultiIndex.from_frame(linked[["gene", "peak"]]).isin(planted)
    assert average_precision_score(true, -linked["pvalue"].fillna(1)) > 0.8
    found = (linked["qvalue"] <= 0.1).to_numpy()
    assert true[found].mean() > 0.8
    assert found.sum() > 0.35 * true.sum()  # of these few cells
    effects = linked[true & found].merge(
        data.uns["truth"]["links"], on=["gene", "peak"], suffixes=("", "_planted")
    )
    assert (np.sign(effects["effect"]) == np.sign(effects["effect_planted"])).mean() > 0.95


@pytest.mark.slow
def test_credible_sets_contain_planted_links(world, linked):
    planted = pd.MultiIndex.from_frame(world[0].uns["truth"]["links"][["gene", "peak"]])
    true = pd.MultiIndex.from_frame(linked[["gene", "peak"]]).isin(planted)
    assert average_precision_score(true, linked["pip"].fillna(0)) > 0.85
    in_sets = linked.assign(true=true)[linked["credible_set"] > 0]
    contains = in_sets.groupby(["gene", "credible_set"])["true"].any()
    assert len(contains) > 0.4 * true.sum()
    assert contains.mean() > 0.9
    likely = (linked["pip"] > 0.9).to_numpy()
    assert true[likely].mean() > 0.9


@pytest.mark.slow
def test_without_links_few_genes_have_any(world):
    data, model = world
    shuffled = data.copy()
    order, rng = np.arange(data.n_obs), np.random.default_rng(0)
    for rows in data["rna"].obs.groupby(["cell_type", "batch"], observed=True).indices.values():
        order[rows] = rng.permutation(rows)
    shuffled["rna"].X = shuffled["rna"].X[order]
    ep.tl.link_peaks(shuffled, model, **OPTIONS)
    links = shuffled["atac"].uns[KEY]
    assert links.loc[links["qvalue"] <= 0.1, "gene"].nunique() <= 0.12 * 60
    assert links.loc[links["credible_set"] > 0, "gene"].nunique() <= 0.05 * 60
    assert (links["pip"] > 0.5).sum() <= 3
    assert links["pip"].median() < 0.02


def test_the_table_is_complete_and_survives_a_file(world, linked, tmp_path):
    data, _ = world
    sites, peaks = data["rna"].var, data["atac"].var
    assert list(linked.columns) == [
        "gene", "peak", "chrom", "start", "end", "tss", "distance", "group", "effect",
        "by_embedding", "by_measurement", "direction", "n_cells", "pvalue", "qvalue", "score",
        "pip", "credible_set",
    ]  # fmt: skip
    # Brute force: every pair that is near
    near = 0
    for _, site in sites.iterrows():
        here = peaks[peaks["chrom"] == site["chrom"]]
        gap = np.maximum(
            np.maximum(here["start"] - site["start"], site["start"] - (here["end"] - 1)), 0
        )
        near += int((gap <= 50_000).sum())
    tested = linked["n_cells"] >= 10
    assert near - 60 <= len(linked) <= near  # peaks that no cell has open are not in the vocabulary
    assert linked["distance"].max() <= 50_000
    np.testing.assert_allclose(linked["effect"], linked["by_embedding"] + linked["by_measurement"])
    assert (
        linked["direction"]
        == np.select(
            [linked["effect"] > 0, linked["effect"] < 0], ["activating", "repressing"], "none"
        )
    ).all()
    assert linked.loc[tested, "pvalue"].between(0, 1).all()
    assert linked.loc[tested, "qvalue"].between(0, 1).all()
    assert linked.loc[~tested, ["pvalue", "qvalue", "pip"]].isna().all(axis=None)
    assert linked.loc[tested, "pip"].between(0, 1).all()
    assert (linked.loc[~tested, "credible_set"] == 0).all()
    assert linked["credible_set"].dtype.kind == "i"
    for _, numbers in linked.groupby("gene")["credible_set"]:
        assert set(numbers) | {0} == set(range(numbers.max() + 1))
    counted = np.asarray((data["atac"].X > 0).sum(axis=0)).ravel()
    assert (linked["n_cells"] == counted[data["atac"].var_names.get_indexer(linked["peak"])]).all()
    data = data.copy()
    data["atac"].uns[KEY] = linked
    data.write_h5mu(tmp_path / "x.h5mu")
    data["atac"].write_h5ad(tmp_path / "x.h5ad")
    for again in (
        mudata.read_h5mu(tmp_path / "x.h5mu")["atac"],
        anndata.read_h5ad(tmp_path / "x.h5ad"),
    ):
        pd.testing.assert_frame_equal(
            again.uns[KEY], linked, check_dtype=False, check_categorical=False
        )


def test_effects_by_embedding_are_those_of_knock_outs(world):
    data, model = world
    part = data[:150].copy()
    ep.tl.link_peaks(part, model, genes=["gene5", "gene30"], max_distance=20_000, measured=False)
    links = part["atac"].uns[KEY]
    assert (links["by_measurement"] == 0).all()
    assert links["pip"].isna().all()
    assert (links["credible_set"] == 0).all()
    for _, row in links.sample(6, random_state=0).iterrows():
        if not row["n_cells"]:
            continue
        whole = ep.tl.predict_expression(part["atac"], model, copy=True).obsm[
            "epifoundation_expression"
        ][row["gene"]]
        change = ep.tl.knock_out(part["atac"], model, peaks=row["peak"], genes=row["gene"])
        open_now = (change.n_removed > 0).to_numpy()
        before = whole[open_now].to_numpy(np.float64)
        after = before + change.expression.loc[open_now, row["gene"]].to_numpy(np.float64)
        expected = np.mean(np.log(np.expm1(before)) - np.log(np.expm1(after)))
        assert row["by_embedding"] == pytest.approx(expected, abs=2e-4)


def test_atac_alone_groups_and_small_groups(world):
    data, model = world
    atac = data["atac"][:200].copy()
    kinds = np.where(np.arange(200) < 195, "many", "few")
    atac.obs["kind"] = pd.Categorical(kinds)
    annotation = data["rna"].var
    with pytest.warns(
        UserWarning, match=r"Groups of fewer than 10 cells are not tested: 'few' \(5\)"
    ):
        ep.tl.link_peaks(
            atac,
            model,
            genes=["gene5", "gene9"],
            annotation=annotation,
            max_distance=50_000,
            groupby="kind",
        )
    links = atac.uns[KEY]
    assert set(links["group"]) == {"many", "few"}
    assert links.loc[links["group"] == "few", "pvalue"].isna().all()
    is_many = links["group"] == "many"
    assert (links.loc[is_many, "pvalue"].notna() == (links.loc[is_many, "n_cells"] >= 10)).all()
    assert atac.uns[REPORT]["measured"] is False
    alone = ep.tl.link_peaks(
        atac[:195].copy(),
        model,
        genes=["gene5", "gene9"],
        annotation=annotation,
        max_distance=50_000,
        copy=True,
    ).uns[KEY]
    both = links[links["group"] == "many"]
    pd.testing.assert_series_equal(
        both.set_index(["gene", "peak"])["effect"].sort_index(),
        alone.set_index(["gene", "peak"])["effect"].sort_index(),
        atol=1e-6,
    )


@pytest.mark.slow
def test_many_groups_and_few_genes_without_links_have_none(world):
    """20 groups of 60 cells, RNA shuffled within type and batch; at most 10 % expected."""
    data, model = world
    n_calls, with_links = 8, 0
    for seed in range(n_calls):
        rng, shuffled = np.random.default_rng(seed), data.copy()
        order = np.arange(data.n_obs)
        for rows in data["rna"].obs.groupby(["cell_type", "batch"], observed=True).indices.values():
            order[rows] = rng.permutation(rows)
        shuffled["rna"].X = shuffled["rna"].X[order]
        shuffled["atac"].obs["group"] = rng.integers(20, size=data.n_obs).astype(str)
        options = OPTIONS | {"genes": [f"gene{i}" for i in rng.choice(60, 3, replace=False)]}
        ep.tl.link_peaks(shuffled, model, groupby="group", min_cells=1, rng=seed, **options)
        with_links += (shuffled["atac"].uns[KEY]["qvalue"] <= 0.1).any()
    assert with_links <= 2


def test_peaks_open_in_few_cells_are_not_tested(world):
    data, model = world
    part = data[:200].copy()
    options = {"genes": ["gene5", "gene9"], "max_distance": 50_000}
    ep.tl.link_peaks(part, model, min_cells=25, **options)
    links, report = part["atac"].uns[KEY], part["atac"].uns[REPORT]
    for name in ("pvalue", "pip"):
        assert (links[name].notna() == (links["n_cells"] >= 25)).all()
    assert report["min_cells"] == 25
    assert report["tests"] == links["qvalue"].notna().sum() > 0
    with pytest.warns(UserWarning, match=r"is open in 201 cells \(`min_cells`\) of a group"):
        ep.tl.link_peaks(part, model, min_cells=201, **options)
    assert part["atac"].uns[KEY]["qvalue"].isna().all()


def test_a_call_has_one_progress_bar(world, monkeypatch, capsys):
    data, model = world
    part = data[:200].copy()
    monkeypatch.setattr(ep.settings, "progress", True)
    ep.tl.link_peaks(part, model, genes="gene5", max_distance=50_000, groupby="cell_type")
    shown = capsys.readouterr().err
    assert shown.count("Links:   0%") == 1
    assert shown.count("Links: 100%") == 1
    assert "Knock-out" not in shown


@pytest.mark.parametrize("objective", ["binary", "gaussian"])
def test_other_objectives(world, objective):
    part = world[0][:300].copy()
    model = ep.tl.pretrain(part, objective=objective, config=ep.ModelConfig(dim=16))
    ep.tl.link_peaks(part, model, genes=["gene5"], max_distance=50_000)
    assert np.isfinite(part["atac"].uns[KEY]["effect"]).all()
    assert (part["atac"].uns[KEY]["by_measurement"] != 0).any()
    assert part["atac"].uns[KEY]["pip"].between(0, 1).any()


def test_bad_input_is_refused_and_nothing_is_written(world):
    data, model = world
    atac, options = data["atac"], {"max_distance": 50_000}
    genes = data["rna"].var
    for given, match in (
        ({"genes": "Gene5"}, r"not among the 60 of the model: 'Gene5', close to \['gene5'"),
        (
            {"genes": ["gene5", "gene6"], "annotation": genes.drop(index="gene6")},
            r"1 of 2 genes have no position in the annotation: \['gene6'\]",
        ),
        ({"genes": "gene5", "max_distance": 0}, "`max_distance` must be an integer of at least 1"),
        ({"genes": "gene5", "min_cells": 0}, "`min_cells` must be an integer of at least 1"),
        ({"genes": "gene5", "annotation": genes.loc[["gene5"]]}, "There are no controls"),
        ({"genes": "gene5", "groupby": "nothing"}, "`groupby='nothing'` is not a column"),
        (
            {"genes": "gene5", "annotation": genes.drop(columns=["chrom", "start", "end"])},
            "has no positions",
        ),
    ):
        with pytest.raises(ValueError, match=match):
            ep.tl.link_peaks(data, model, **options | given)
    with pytest.raises(ValueError, match="The positions of genes are not known: pass `annotation`"):
        ep.tl.link_peaks(atac, model, genes="gene5")
    peaks_only = ep.tl.pretrain(atac, objective="peaks", config=ep.ModelConfig(dim=16))
    with pytest.raises(ValueError, match="predicts no expression"):
        ep.tl.link_peaks(data, peaks_only, genes="gene5")
    logs = data.copy()
    logs["rna"].X = logs["rna"].X * 0.5
    with pytest.raises(
        ValueError, match="does not contain counts, but the model was trained on counts"
    ):
        ep.tl.link_peaks(logs, model, genes="gene5", **options)
    assert KEY not in atac.uns


def test_an_annotation_of_another_build_is_refused(shared_data):
    atac = ep.datasets.pbmc_multiome()["atac"][:50].copy()
    for build, cure in (
        ("hg19", "Pass an annotation of hg38"),
        ("mm10", "The annotation is of mm10, the peaks are of hg38"),
    ):
        path = shared_data.parent / "annotation" / f"{build}_genes.bed.gz"
        with pytest.raises(ValueError, match=cure):
            ep.tl.link_peaks(atac, genes="MS4A1", annotation=path)
    granja = anndata.read_h5ad(shared_data / "granja_bmmc_atac_hg19.h5ad")[:50].copy()
    with pytest.raises(ValueError, match="The annotation is of hg38, the peaks are of hg19"):
        ep.tl.gene_activity(
            granja, annotation=shared_data.parent / "annotation" / "hg38_genes.bed.gz"
        )


def test_cells_without_rna_change_nothing_of_what_was_measured(world):
    data, model = world
    rna = data["rna"][np.random.default_rng(0).permutation(900)].copy()
    some = mudata.MuData({"atac": data["atac"].copy(), "rna": rna})
    met = mudata.MuData({"atac": data["atac"][:900].copy(), "rna": data["rna"][:900].copy()})
    found, expected = (
        ep.tl.link_peaks(each, model, copy=True, **OPTIONS)["atac"].uns for each in (some, met)
    )
    assert found[REPORT]["measured_cells"] == expected[REPORT]["measured_cells"] == 900
    one, other = (
        each[KEY].set_index(["gene", "peak"])["by_measurement"] for each in (found, expected)
    )
    assert other.abs().max() > 0.1
    pd.testing.assert_series_equal(one.sort_index(), other.sort_index(), atol=1e-6)


def test_a_group_without_rna_is_tested_with_the_model_alone(world):
    data, model = world
    batch = data["atac"].obs["batch"].to_numpy()
    rna = data["rna"][batch == "batch0"].copy()
    some = mudata.MuData({"atac": data["atac"].copy(), "rna": rna})
    options = OPTIONS | {"genes": ["gene3", "gene4"]}
    with pytest.warns(UserWarning, match=r"with the model alone: 'batch1' \(0\)"):
        ep.tl.link_peaks(some, model, groupby="batch", **options)
    links = some["atac"].uns[KEY]
    alone = ep.tl.link_peaks(
        some["atac"], model, groupby="batch", copy=True, annotation=data["rna"].var, **options
    ).uns[KEY]
    of_group = [each[each["group"] == "batch1"] for each in (links, alone)]
    assert (of_group[0]["by_measurement"] == 0).all()
    assert of_group[0]["pip"].isna().all()
    assert (of_group[0]["credible_set"] == 0).all()
    np.testing.assert_allclose(of_group[0]["by_embedding"].sum(), of_group[1]["by_embedding"].sum())
    assert (links.loc[links["group"] == "batch0", "by_measurement"] != 0).any()
