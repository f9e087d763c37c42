"""Metrics against independent implementations and hand-made cases."""

from itertools import pairwise, permutations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr
from sklearn.metrics import accuracy_score, f1_score

from epifoundation import metrics
from epifoundation.metrics import area_under_risk_coverage, conformal_coverage, risk_coverage

labels = st.lists(st.sampled_from(["B", "T", "NK"]), min_size=1, max_size=30)


@given(st.data(), labels)
def test_annotation_scores(data, true):
    guess = data.draw(
        st.lists(st.sampled_from(["B", "T", "mono"]), min_size=len(true), max_size=len(true))
    )
    assert metrics.accuracy(true, guess) == pytest.approx(accuracy_score(true, guess))
    expected = np.mean(
        [
            f1_score(true, guess, labels=[name], average="macro", zero_division=0)
            for name in {*true, *guess}
        ]
    )
    assert metrics.macro_f1(true, guess) == pytest.approx(expected)


def test_pearson_per_gene():
    rng = np.random.default_rng(0)
    true, guess = rng.poisson(1, (50, 4)).astype(float), rng.normal(size=(50, 4))
    guess[:, 1] = 3.0  # constant prediction counts as 0
    true[:, 2] = 1.0  # constant truth is ignored
    true[:, 3] = np.arange(50) == 7  # expressed in one cell
    with np.errstate(invalid="ignore"):
        each = [pearsonr(true[:, g], guess[:, g])[0] for g in (0, 3)]
    assert metrics.pearson_per_gene(true, guess) == pytest.approx((each[0] + 0 + each[1]) / 3)
    assert metrics.pearson_per_gene(true, guess, min_cells=2) == pytest.approx(each[0] / 2)
    with pytest.raises(ValueError, match="`min_cells`"):
        metrics.pearson_per_gene(true, guess, min_cells=51)


def test_calibration_error_of_a_calibrated_and_an_overconfident_forecaster():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.3, 1, 200_000)
    right = rng.random(200_000) < confidence
    guess = np.where(right, "B", "T")
    true = np.full(200_000, "B")
    assert metrics.expected_calibration_error(true, guess, confidence) < 0.01
    assert metrics.expected_calibration_error(true, guess, np.ones(200_000)) == pytest.approx(
        1 - right.mean()
    )


@pytest.mark.parametrize("name", ["accuracy", "macro_f1", "pearson_per_gene"])
def test_shapes_that_differ_and_empty_arrays_are_refused(name):
    for a, b in ((np.ones((2, 1)), np.ones((3, 1))), (np.ones((0, 1)), np.ones((0, 1)))):
        with pytest.raises(ValueError, match="same shape"):
            getattr(metrics, name)(a, b)


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([0.1, 0.5, 0.9])), min_size=1, max_size=6))
def test_risk_is_the_mean_over_all_orders_of_ties(cells):
    right, confidence = zip(*cells, strict=True)
    true, guess = ["a"] * len(cells), ["a" if r else "b" for r in right]
    orders = [
        o
        for o in permutations(range(len(cells)))
        if all(confidence[i] >= confidence[j] for i, j in pairwise(o))
    ]
    wrong = np.array([[not right[i] for i in order] for order in orders], dtype=float)
    expected = (np.cumsum(wrong, axis=1) / np.arange(1, len(cells) + 1)).mean(axis=0)
    coverage, risk = risk_coverage(true, guess, confidence)
    np.testing.assert_allclose(risk, expected, atol=1e-12)
    np.testing.assert_allclose(coverage, np.arange(1, len(cells) + 1) / len(cells))
    assert area_under_risk_coverage(true, guess, confidence) == pytest.approx(expected.mean())


def test_sets_are_counted():
    assert conformal_coverage(["a", "b", "c"], ["a | b", "a", ""]) == (1 / 3, 1.0)
    assert conformal_coverage(["T cell"], ["T cell"]) == (1.0, 1.0)
    with pytest.raises(ValueError, match="same shape"):
        conformal_coverage(["a"], ["a", "b"])


def test_correlations_of_expression_agree_with_numpy():
    rng = np.random.default_rng(0)
    true, predicted = rng.random((30, 8)), rng.random((30, 8))
    by_cell = [np.corrcoef(a, b)[0, 1] for a, b in zip(true, predicted, strict=True)]
    assert metrics.pearson_per_cell(true, predicted) == pytest.approx(np.mean(by_cell))
    assert metrics.pearson_pooled(true, predicted) == pytest.approx(
        np.corrcoef(true.ravel(), predicted.ravel())[0, 1]
    )
    groups = rng.choice(["B", "T", "NK"], 30)
    means = [
        np.stack([x[groups == g].mean(axis=0) for g in ("B", "NK", "T")]) for x in (true, predicted)
    ]
    by_gene = [np.corrcoef(means[0][:, g], means[1][:, g])[0, 1] for g in range(8)]
    assert metrics.pearson_pseudobulk(true, predicted, groups) == pytest.approx(np.mean(by_gene))
    with pytest.raises(ValueError, match="two or more of them; got 30 cells in 1 groups"):
        metrics.pearson_pseudobulk(true, predicted, np.full(30, "B"))


def test_correlations_do_not_depend_on_units():
    rng = np.random.default_rng(0)
    true, predicted = rng.random((30, 4)), rng.random((30, 4))
    groups = np.repeat(["B", "T", "NK"], 10)
    for unit in (1e-9, 1e6):
        for metric in (metrics.pearson_per_gene, metrics.pearson_per_cell, metrics.pearson_pooled):
            assert metric(true * unit, predicted * unit) == pytest.approx(metric(true, predicted))
    with pytest.raises(ValueError, match="10 of 30 cells have no group"):
        metrics.pearson_pseudobulk(true, predicted, np.where(groups == "B", None, groups))


def test_baselines_of_expression():
    rng = np.random.default_rng(0)
    kinds = np.array(["B", "NK", "T"])
    profile = rng.random((3, 40)) * 3
    train_of, test_of = rng.integers(0, 3, 300), rng.integers(0, 3, 90)
    train, true = (profile[of] + rng.normal(0, 0.3, (len(of), 40)) for of in (train_of, test_of))
    features = [np.eye(3)[of] + rng.normal(0, 0.05, (len(of), 3)) for of in (train_of, test_of)]
    options = {
        "train": train,
        "train_groups": kinds[train_of],
        "features": features[1],
        "train_features": features[0],
    }
    hard = metrics.compare_expression(
        true, {"truth": true}, kinds[test_of], predicted_groups=kinds[test_of], **options
    )
    soft = metrics.compare_expression(
        true, {}, kinds[test_of], predicted_groups=np.eye(3)[test_of], **options
    )
    assert list(hard.index) == ["truth", "mean of the gene", "mean of the predicted label", "ridge"]
    np.testing.assert_allclose(hard.loc["truth"], 1)
    assert (
        abs(hard.loc["mean of the gene", "per gene"])
        < 1e-9
        < 0.5
        < hard.loc["mean of the gene", "pooled"]
    )
    np.testing.assert_allclose(hard.iloc[1:], soft)
    means = np.stack([train[train_of == k].mean(axis=0) for k in range(3)])[test_of]
    assert hard.loc["mean of the predicted label", "per gene"] == pytest.approx(
        metrics.pearson_per_gene(true, means)
    )
    assert (
        abs(hard.loc["ridge", "per gene"] - hard.loc["mean of the predicted label", "per gene"])
        < 0.05
    )
    with pytest.raises(ValueError, match="Expected labels of 300 training cells"):
        metrics.compare_expression(
            true, {}, kinds[test_of], predicted_groups=np.eye(3)[test_of][:, :2], **options
        )


@given(share=st.floats(1e-6, 0.5), depth=st.integers(20, 30_000))
@settings(max_examples=30, deadline=None)
def test_expected_log1p_is_the_mean_over_draws(share, depth):
    counts = np.random.default_rng(0).poisson(share * depth, 20_000)
    drawn = np.log1p(1e4 * counts / depth)
    expected = metrics.expected_log1p(np.log1p(1e4 * share), [depth])
    assert abs(expected - drawn.mean()) < 5 * drawn.std() / np.sqrt(len(drawn)) + 2e-3


def test_expected_log1p_keeps_order_and_shape():
    values = np.log1p(np.array([[0.0, np.nan], [0.5, 2_000.0]]))
    expected = metrics.expected_log1p(values, [0, 100, 300])
    assert expected.shape == (2, 2)
    assert np.isnan(expected[0, 1])
    assert expected[0, 0] == 0 < expected[1, 0] < values[1, 0] < expected[1, 1] < values[1, 1]
    # So many counts that nothing is left to chance
    np.testing.assert_allclose(metrics.expected_log1p(values, [10**9]), values, atol=1e-3)
    with pytest.raises(ValueError, match="totals above 0"):
        metrics.expected_log1p(values, [0])
    with pytest.raises(ValueError, match="values from -1"):
        metrics.expected_log1p([-1.0], [10])


NAMES = pd.Index([f"cell{i}" for i in range(20)])


def test_tables_with_other_rows_or_columns_are_refused():
    rng = np.random.default_rng(0)
    true = pd.DataFrame(rng.random((20, 3)), NAMES, ["a", "b", "c"])
    guess = true + rng.random((20, 3))
    expected = metrics.pearson_per_gene(true.to_numpy(), guess.to_numpy())
    assert metrics.pearson_per_gene(true, guess) == expected
    assert metrics.pearson_per_gene(true, guess.reset_index(drop=True)) == expected
    assert metrics.pearson_per_gene(true, guess.to_numpy()) == expected
    for other in (guess[::-1], guess[["b", "a", "c"]]):
        for score in (metrics.pearson_per_gene, metrics.pearson_per_cell, metrics.pearson_pooled):
            with pytest.raises(ValueError, match=r"names in `(index|columns)` differ"):
                score(true, other)
    kind = pd.Series(["B", "T"] * 10, NAMES)
    for other in (kind[::-1], kind.set_axis(NAMES + "-1")):
        with pytest.raises(ValueError, match="20 of 20 names in `index` differ, first 'cell0'"):
            metrics.accuracy(kind, other)
    options = {"train": true, "train_groups": kind, "predicted_groups": kind}
    metrics.compare_expression(true, {"x": guess}, kind, **options)
    wrong = {
        "predicted_groups": kind[::-1],
        "train_groups": kind[::-1],
        "train": true[["b", "a", "c"]],
    }
    for name, value in wrong.items():
        with pytest.raises(ValueError, match="differ"):
            metrics.compare_expression(true, {"x": guess}, kind, **(options | {name: value}))


def test_missing_values_are_no_zeros_and_no_errors_of_the_prediction():
    values = np.arange(12.0).reshape(4, 3)
    lost = np.where(np.arange(4)[:, None] == 2, np.nan, values)
    for one, other in ((values, lost), (lost, values)):
        with pytest.raises(ValueError, match="1 of 4 cells are missing"):
            metrics.pearson_per_gene(one, other)
    labels = pd.Series(["B", None, "T"])
    for score in (metrics.accuracy, metrics.macro_f1):
        with pytest.raises(ValueError, match="1 of 3 cells are missing"):
            score(labels, ["B", "B", "T"])
    with pytest.raises(ValueError, match="1 of 3 cells are missing"):
        metrics.risk_coverage(["B", "B", "T"], ["B", "B", "T"], [0.5, np.nan, 1])
