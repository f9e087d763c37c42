"""Decoders of expression: planted profiles of clusters are found, and what batches change."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

import epifoundation as ep
from epifoundation.nn import ExpressionHead, LinearMeasuredHead, ModelConfig
from epifoundation.training.components import log_normalise
from epifoundation.training.expression import (
    PROFILE_RIDGE,
    PSEUDO_CELLS,
    batch_offsets,
    expression_weights,
    measured_weights,
    ridge,
)
from epifoundation.training.statistics import Statistics, profile_units, whole_numbers

N_CLUSTERS, N_GENES = 4, 30
OBJECTIVES = ["counts", "binary", "gaussian"]


class Planted:
    """Cells of clusters, with expression drawn from a profile of each."""

    def __init__(self, objective, seed=0, n_cells=6000, n_batches=0):
        rng = np.random.default_rng(seed)
        self.objective = objective
        self.code = rng.integers(N_CLUSTERS, size=n_cells)
        self.batch = rng.integers(max(n_batches, 1), size=n_cells)
        # What batches do to genes, on the scale on which effects add up
        self.effect = rng.normal(0, 0.5, (max(n_batches, 1), N_GENES))
        self.effect -= self.effect.mean(axis=0)  # nothing, without batches
        effect = self.effect[self.batch]
        if objective == "counts":
            self.profile = rng.dirichlet(np.full(N_GENES, 2.0), N_CLUSTERS)
            share = self.profile[self.code] * np.exp(effect)
            depth = rng.poisson(400, (n_cells, 1))
            values = rng.poisson(depth * share / share.sum(axis=1, keepdims=True))
        elif objective == "binary":
            self.profile = rng.uniform(0.1, 0.9, (N_CLUSTERS, N_GENES))
            odds = self.profile / (1 - self.profile)
            odds = odds[self.code] * np.exp(effect)
            values = rng.random((n_cells, N_GENES)) < odds / (1 + odds)
        else:
            self.profile = rng.normal(0, 2, (N_CLUSTERS, N_GENES))
            values = self.profile[self.code] + effect + rng.normal(0, 1, (n_cells, N_GENES))
        self.expression = sp.csr_matrix(values.astype(np.float32))

    def statistics(self):
        n = len(self.code)
        n_genes = dict.fromkeys(profile_units(self.objective), N_GENES)
        options = {"n_kept": 1, "n_genes": n_genes, "device": torch.device("cpu")}
        found = Statistics(n, 2, N_CLUSTERS, 0, **options)
        expression = normalised = self.expression
        if self.objective == "counts":
            normalised = log_normalise(expression)
        found.add(
            np.arange(n),
            sp.csr_matrix(np.ones((n, 2), np.int8)),
            (self.code[:, None].astype(np.uint8), np.zeros((n, 0), np.uint8)),
            keys=np.arange(2, dtype=np.uint64),
            is_held=np.arange(n) % 10 == 0,  # profiles are of all cells
            expression=whole_numbers(expression, normalised, self.objective),
        )
        return found

    def heads(self, *, n_batches=0):
        config = ModelConfig(dim=N_CLUSTERS, objective=self.objective)
        memberships = np.eye(N_CLUSTERS, dtype=np.float32)[self.code]
        batches = self.batch if n_batches else None
        cells = memberships, self.expression, batches, n_batches
        statistics = self.statistics()
        expression = ExpressionHead(N_CLUSTERS, N_GENES, n_batches, self.objective)
        expression.load_state_dict(expression_weights(statistics, config, *cells))
        measured = LinearMeasuredHead(N_CLUSTERS, N_GENES)
        if self.objective == "counts":
            measured.load_state_dict(measured_weights(statistics))
        return expression.requires_grad_(False), measured


ONE_EACH = torch.eye(N_CLUSTERS)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_cell_of_one_cluster_expresses_what_was_planted(objective):
    planted = Planted(objective)
    found = planted.heads()[0].predict(ONE_EACH).numpy()
    expected, atol = planted.profile, 0.05
    if objective == "counts":
        expected, atol = np.log1p(1e4 * expected), 0.15
    elif objective == "gaussian":  # which is shrunken to the mean
        expected = expected.mean(axis=0) + (expected - expected.mean(axis=0)) / (1 + PROFILE_RIDGE)
        atol = 0.25
    np.testing.assert_allclose(found, expected, atol=atol)
    assert np.abs(expected - expected.mean(axis=0)).max() > 0.3


def test_on_the_measured_scale_a_cell_has_the_mean_of_its_cluster():
    planted = Planted("counts")
    normalised = log_normalise(planted.expression).toarray()
    means = np.stack([normalised[planted.code == code].mean(axis=0) for code in range(N_CLUSTERS)])
    _, measured = planted.heads()
    np.testing.assert_allclose(measured(ONE_EACH), means, atol=0.02)
    mixed = torch.tensor([[0.5, 0.5, 0, 0], [0.1, 0.2, 0.3, 0.4]])
    np.testing.assert_allclose(measured(mixed), mixed.numpy() @ means, atol=0.02)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_memberships_mix_clusters_on_the_scale_on_which_effects_add_up(objective):
    head, _ = Planted(objective).heads()
    mixed = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.1, 0.2, 0.3, 0.4]])
    logits = head.predictor(link=True)
    found, expected = logits(mixed, None), mixed @ logits(ONE_EACH, None)
    if objective == "counts":  # shares add up to 1
        expected = expected.log_softmax(dim=1)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@given(st.integers(5, 60), st.integers(1, 8), st.integers(0, 2**31))
def test_values_are_a_ridge_regression_on_memberships(n_cells, dim, seed):
    """Against scikit-learn's, whose constant is not penalized either."""
    rng = np.random.default_rng(seed)
    memberships = rng.dirichlet(np.ones(dim + 1), n_cells)[:, :dim]
    values = rng.normal(0, 2, (n_cells, 3)) * (rng.random((n_cells, 3)) < 0.5)
    weight, mean = ridge(memberships, sp.csr_matrix(values))
    around = memberships - memberships.mean(axis=0)
    oracle = Ridge(alpha=PROFILE_RIDGE * np.square(around).sum() / dim).fit(memberships, values)
    np.testing.assert_allclose(weight.T, oracle.coef_, atol=1e-6)
    np.testing.assert_allclose(mean, oracle.intercept_, atol=1e-6)


@pytest.mark.parametrize("objective", ["counts", "binary"])
def test_a_cluster_of_few_cells_is_like_all_cells(objective):
    """By as many cells like the mean as the constant says; a cluster without cells is the mean."""
    planted = Planted(objective, n_cells=3000)
    few = np.flatnonzero(planted.code == 0)[5:]
    planted.code[few] = 1  # five cells are left in the first cluster, and none in the last
    planted.code[planted.code == 3] = 2
    found = planted.heads()[0].predict(ONE_EACH).numpy()
    values = planted.expression.toarray()
    if objective == "counts":
        share = values.sum(axis=0) / values.sum()
        of_few = values[planted.code == 0]
        pseudo = PSEUDO_CELLS * values.sum(axis=1).mean()
        mixed = (of_few.sum(axis=0) + pseudo * share) / (of_few.sum() + pseudo)
        expected, whole = np.log1p(1e4 * mixed), np.log1p(1e4 * share)
    else:
        whole = values.mean(axis=0)
        of_few = values[planted.code == 0]
        expected = (of_few.sum(axis=0) + PSEUDO_CELLS * whole) / (len(of_few) + PSEUDO_CELLS)
    assert len(of_few) == 5
    np.testing.assert_allclose(found[3], whole, atol=0.01)
    np.testing.assert_allclose(found[0], expected, atol=0.01)
    assert np.abs(found[0] - whole).max() > 0.05


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("n_batches", [2, 3])
def test_what_batches_change_is_found_and_is_nothing_for_the_mean_batch(objective, n_batches):
    planted = Planted(objective, n_batches=n_batches)
    head, _ = planted.heads(n_batches=n_batches)
    offsets = head.batch.numpy()
    np.testing.assert_allclose(offsets.mean(axis=0), 0, atol=1e-5)
    found, expected = offsets, planted.effect
    if objective == "counts":  # the same factor for all genes changes no share
        found, expected = (each - each.mean(axis=1, keepdims=True) for each in (found, expected))
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.93
    np.testing.assert_allclose(found, expected, atol=0.35)
    torch.testing.assert_close(head(ONE_EACH), head.linear(ONE_EACH), atol=1e-5, rtol=0)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_batches_that_change_nothing_have_no_offsets(objective):
    planted = Planted(objective, n_batches=2)
    planted.batch = np.random.default_rng(7).permutation(planted.batch)  # of no effect any more
    offsets = planted.heads(n_batches=2)[0].batch.numpy()
    assert np.abs(offsets).max() < 0.15


@given(st.integers(0, 2**31), st.sampled_from(OBJECTIVES))
def test_a_batch_without_cells_and_cells_without_a_batch(seed, objective):
    """The one has the mean batch; the others count nowhere."""
    planted = Planted(objective, seed=seed, n_cells=200, n_batches=2)
    codes = np.where(planted.batch == 1, 2, 0)  # the second of three has no cells
    codes[:20] = -1
    weight = np.random.default_rng(seed).normal(0, 0.3, (N_CLUSTERS, N_GENES))
    memberships = np.eye(N_CLUSTERS, dtype=np.float32)[planted.code]
    mean = np.zeros(N_GENES)

    def offsets(rows):
        parts = memberships[rows], planted.expression[rows], codes[rows]
        return batch_offsets(*parts, weight, mean, objective, 3)

    found = offsets(np.arange(200))
    assert np.isfinite(found).all()
    assert not found[1].any()
    np.testing.assert_allclose(found[0], -found[2], atol=1e-9)
    np.testing.assert_allclose(offsets(np.arange(20, 200)), found, atol=1e-9)


def test_weights_are_float32():
    for objective in OBJECTIVES:
        config = ModelConfig(dim=N_CLUSTERS, objective=objective)
        planted = Planted(objective, n_cells=50)
        cells = np.eye(N_CLUSTERS, dtype=np.float32)[planted.code], planted.expression, None
        found = expression_weights(planted.statistics(), config, *cells, 0)
        assert all(tensor.dtype == torch.float32 for tensor in found.values())


def test_genes_that_no_cell_expresses_are_finite():
    for objective in ("counts", "binary"):
        planted = Planted(objective, n_cells=100)
        values = planted.expression.toarray()
        values[:, 3] = 0
        values[:, 4] = 1
        planted.expression = sp.csr_matrix(values)
        head, _ = planted.heads()
        found = head.predict(ONE_EACH)
        assert found.isfinite().all()
        assert (found[:, 3] < found[:, 4]).all()
        assert head.linear.weight.isfinite().all()


def test_shallow_cells_are_nearer_on_the_measured_scale_than_on_that_of_the_mean():
    """Of cells that were not learned from: also nearer than the mean of all cells."""
    options = {"n_types": 4, "median_counts": 100, "rng": 4}
    data = ep.datasets.simulate_multiome(700, 600, 60, **options)
    known, other = data[:600].copy(), data[600:].copy()
    model = ep.tl.pretrain(known)
    true = log_normalise(sp.csr_matrix(other["rna"].X)).toarray()
    base = log_normalise(sp.csr_matrix(known["rna"].X)).toarray().mean(axis=0)
    errors = {"base": np.square(base - true).mean()}
    for scale in ("mean", "measured"):
        found = ep.tl.predict_expression(other["atac"], model, scale=scale, copy=True)
        errors[scale] = np.square(found.obsm["epifoundation_expression"].to_numpy() - true).mean()
    assert errors["measured"] < 0.97 * errors["base"]
    assert errors["measured"] < 0.8 * errors["mean"]
