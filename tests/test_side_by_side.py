"""The benchmarks: scores of known results, no leakage of test cells, and pages from results."""

import json

import methods
import numpy as np
import page
import pandas as pd
import pytest
import scipy.sparse as sp
import scores
import side_by_side
import splits

import epifoundation as ep


@pytest.fixture
def split():
    """Few cells, deep enough to distinguish types."""
    mdata = ep.datasets.simulate_multiome(
        500, 400, 30, n_types=3, n_batches=3, median_fragments=150, rng=0
    )
    for name in ("atac", "rna"):
        mdata[name].obs = mdata.obs[["cell_type", "batch"]].copy()
    batch = mdata.obs["batch"].astype(str).to_numpy()
    return splits.Split(
        *(mdata["atac"], mdata["rna"]),
        *(batch == "batch0", batch == "batch1"),
        genome="simulated",
        batch_key="batch",
        validation=["batch1"],
    )


def omniscient(split, right=1.0):
    """A perfect method, wrong for a fraction of the cells."""
    classes = np.unique(split.labels)
    place = {name: i for i, name in enumerate(split.atac.obs_names)}
    called = split.labels.copy()
    wrong = np.random.default_rng(0).random(len(called)) > right
    called[wrong] = classes[(np.searchsorted(classes, called[wrong]) + 1) % len(classes)]

    def rows(atac):
        return [place[name] for name in atac.obs_names]

    def one_hot(atac):
        return np.eye(len(classes))[np.searchsorted(classes, called[rows(atac)])]

    def embed(atac):
        return one_hot(atac) * 10 + 0.01 * np.random.default_rng(1).standard_normal(
            (atac.n_obs, len(classes))
        )

    return methods.Fitted(
        embed,
        lambda atac: (called[rows(atac)], one_hot(atac) * (1 - 1e-9)),
        lambda atac: split.expression[rows(atac)],
        classes,
        n_bytes=3,
    )


def test_scores_of_a_method_that_knows_all(split):
    best = omniscient(split)
    assert scores.annotation(split, best) == pytest.approx(
        {"accuracy": 1, "macro-F1": 1, "ECE": 0, "risk–coverage": 0}, abs=1e-8
    )
    assert scores.risk_curve(split, best) == [0] * 20
    assert scores.clustering(split, best)["NMI"] > 0.5  # clusters may be finer than types
    assert scores.expression(split, best) == pytest.approx(
        dict.fromkeys(("per gene", "per cell", "pooled", "cell types", "AUROC"), 1.0)
    )
    assert scores.cost(split, best)["model MB"] == 3e-6


def test_scores_of_one_that_is_right_in_seven_of_ten_and_sure_of_all(split):
    found = scores.annotation(split, omniscient(split, 0.7))
    assert found["accuracy"] == pytest.approx(0.7, abs=0.1)
    assert found["ECE"] == pytest.approx(1 - found["accuracy"], abs=1e-6)
    assert scores.risk_curve(split, omniscient(split, 0.7))[-1] == pytest.approx(
        1 - found["accuracy"]
    )


def test_scores_of_one_that_says_the_mean(split):
    found = scores.expression(split, methods.gene_mean(split, 0)["gene mean"])
    assert found["AUROC"] == 0.5
    assert found["per cell"] > 0.2
    assert abs(found["per gene"]) < 1e-6


def test_fragments_are_lost_and_peaks_moved(split):
    lost = scores.thinned(split.atac, 0.75)
    assert lost.X.sum() == pytest.approx(0.25 * split.atac.X.sum(), rel=0.05)
    assert (lost.X.toarray() <= split.atac.X.toarray()).all()
    moved = scores.shifted(split.atac, 100)
    before, after = (
        ep.genome.parse_intervals(names) for names in (split.atac.var_names, moved.var_names)
    )
    gap = after["start"].to_numpy() - before["start"].to_numpy()
    assert np.abs(gap).max() <= 100
    assert len(np.unique(gap)) > 50
    again = methods.onto(moved, split)
    assert sp.csr_matrix(again != split.atac.X).nnz < 0.2 * split.atac.X.nnz


@pytest.mark.parametrize("data", ["PBMC 51 loci", "simulated, 50 fragments"])
def test_no_cell_is_on_two_sides(data):
    of, folds = splits.DATA[data]
    split = of(folds[0])
    assert not (split.test & split.held).any()
    assert (split.train | split.held | split.test).all()
    known = split.known_data()
    assert not set(known.obs_names) & set(split.atac.obs_names[split.test])
    if split.batch_key:
        batch = split.atac.obs[split.batch_key].astype(str).to_numpy()
        sides = [set(batch[mask]) for mask in (split.train, split.held, split.test)]
        assert sum(map(len, sides)) == len(set.union(*sides))


@pytest.mark.parametrize(
    "name",
    [
        # Warnings of muon, and of what it imports
        pytest.param("lsi", marks=pytest.mark.filterwarnings("ignore")),
        *("svm", "logistic", "gene_mean", "gene_activity"),
        pytest.param("epifoundation", marks=pytest.mark.slow),
    ],
)
def test_what_is_judged_on_is_not_seen(split, name):
    rows = methods.METHODS[name](split, 0)
    other = splits.Split(**vars(split))
    other.atac, other.rna = split.atac.copy(), split.rna.copy()
    labels = other.labels
    labels[split.test] = "type0"
    for part in (other.atac, other.rna):
        part.obs["cell_type"] = labels
    other.rna.X = sp.csr_matrix(
        sp.diags((~split.test).astype(np.float32)) @ sp.csr_matrix(other.rna.X)
    )
    again = methods.METHODS[name](other, 0)
    cells = split.atac[split.test].copy()
    assert list(rows) == list(again)
    for key, fitted in rows.items():
        for part in ("embed", "labels", "expression"):
            function = getattr(fitted, part)
            assert (function is None) == (getattr(again[key], part) is None)
            if function is None:
                continue
            found, expected = getattr(again[key], part)(cells), function(cells)
            if part == "labels":
                np.testing.assert_array_equal(found[0], expected[0])
                found, expected = found[1], expected[1]
            if part == "embed":  # an SVD leaves signs open
                found, expected = found @ found.T, expected @ expected.T
            if expected is not None:
                np.testing.assert_allclose(found, expected, atol=1e-5)
        if fitted.labels is not None:
            assert scores.annotation(split, fitted)["accuracy"] > 0.6


def test_a_method_that_cannot_is_listed():
    _, _, rows = side_by_side.work(("method", "PBMC 51 loci", "0", "multivi"))
    assert rows == [
        {
            "data": "PBMC 51 loci",
            "fold": "0",
            "job": "multivi",
            "method": "multivi",
            "why": "needs counts, but this RNA is smoothed log values",
        }
    ]
    text = page.failures(pd.DataFrame(rows).assign(task=None))
    assert "| PBMC 51 loci | multivi | all | needs counts" in text


def results(ours, other):
    common = {"data": "SNARE-seq cortex", "task": "annotation", "metric": "accuracy"}
    return [
        common | {"fold": str(i), "job": name, "method": name, "value": value}
        for name, values in (("EpiFoundation", ours), ("LSI", other))
        for i, value in enumerate(values)
    ]


def test_where_ours_is_not_first_the_page_says_so():
    first = page.tables({"rows": results([0.70, 0.72, 0.74], [0.60, 0.62, 0.64])})
    assert "Better than" not in first
    assert "| EpiFoundation | **0.720\u00a0±\u00a00.020** |" in first
    within = page.tables({"rows": results([0.70, 0.72, 0.74], [0.71, 0.73, 0.75])})
    assert "accuracy (EpiFoundation 0.720): LSI 0.730 (within one standard deviation)" in within
    outside = page.tables({"rows": results([0.70, 0.72, 0.74], [0.90, 0.92, 0.94])})
    assert "accuracy (EpiFoundation 0.720): LSI 0.920.\n" in outside


def test_two_runs_are_compared(capsys):
    side_by_side.compare(results([0.7, 0.8], [0.5, 0.5]), results([0.7, 0.81], [0.5, 0.5]))
    assert (
        "4 scores in both runs; 1 differ by more than 1e-4; largest difference 1.0e-02"
        in capsys.readouterr().out
    )


def test_what_is_measured_again_takes_the_place_of_what_was():
    before, now = results([0.7, 0.8], [0.5, 0.5]), results([0.9, 0.9], [])
    for row in [*before, *now]:
        row["job"] = {"EpiFoundation": "epifoundation", "LSI": "lsi"}[row["method"]]
    gone = before[-1] | {"job": "a method that is there no more"}
    assert side_by_side.merged([*before, gone], now) == [*before[2:], *now]


def test_the_page_is_made_of_the_results():
    results = json.loads(side_by_side.RESULTS.read_text())
    assert (page.DOCS / "benchmarks.md").read_text() == page.first_page(results)
    assert (page.DOCS / "benchmarks_all.md").read_text() == page.second_page(results)
    readme = page.README.read_text()
    assert readme == page.with_summary(readme, results)


def test_what_mixes_batches_and_keeps_types_integrates_best(split, quick_scores):
    rng = np.random.default_rng(0)
    types, batches = (pd.Categorical(split.atac.obs[name]).codes for name in ("cell_type", "batch"))
    noise = rng.standard_normal((split.atac.n_obs, 4)) * 0.1
    embeddings = {
        "LSI": np.c_[types, 3 * batches, noise],
        "good": np.c_[types, 0 * types, noise],
        "bad": np.c_[0 * types, batches, noise],
    }
    found = scores.integration(split, embeddings)
    assert found["good"]["Total"] > found["LSI"]["Total"] > found["bad"]["Total"]
    assert found["good"]["Batch correction"] > found["bad"]["Batch correction"] + 0.2
