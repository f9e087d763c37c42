"""The regression behind a label head: what a cell weighs, calibration, and what is refused."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from thread_counts import in_one_and_two_threads

import epifoundation as ep
from epifoundation.nn import conformal_scores
from epifoundation.training.label_head import (
    BALANCE,
    MAX_KEPT_CELLS,
    STRENGTHS,
    balanced_weights,
    check_labels,
    fit_label_head,
    spread,
)


@given(st.lists(st.integers(1, 500), min_size=2, max_size=6), st.floats(0, 1))
def test_power_one_makes_labels_equal_zero_makes_cells_equal(counts, power):
    counts = np.array(counts)
    weights = balanced_weights(counts, power)
    np.testing.assert_allclose((weights * counts).sum(), counts.sum())
    np.testing.assert_allclose(balanced_weights(counts, 0), 1)
    np.testing.assert_allclose(
        np.ptp(balanced_weights(counts, 1) * counts), 0, atol=1e-9 * counts.sum()
    )
    assert (np.diff(weights[np.argsort(counts)]) <= 1e-12).all()


def cells(n, seed=0, shift=1.5):
    """Embedding of cells of three labels, one of them rare, and their codes."""
    rng = np.random.default_rng(seed)
    codes = rng.choice(3, n, p=[0.8, 0.15, 0.05])
    embedding = np.eye(3, 8)[codes] * shift + rng.standard_normal((n, 8))
    return embedding.astype(np.float32), codes


def part(both, rows):
    return tuple(each[rows] for each in both)


def test_rare_labels_are_found_more_often_than_by_a_regression_that_counts_cells():
    both = embedding, codes = cells(2000)
    head, loss = fit_label_head(part(both, slice(1000)), part(both, slice(1000, 1500)))
    logits = head.logits(torch.from_numpy(embedding[1500:])).numpy()
    of_cells = LogisticRegression(C=0.03).fit(embedding[:1000], codes[:1000])
    true, found = codes[1500:], logits.argmax(axis=1)
    assert (found == 2).sum() > (of_cells.predict(embedding[1500:]) == 2).sum()
    expected = ep.metrics.macro_f1(true, of_cells.predict(embedding[1500:]))
    assert ep.metrics.macro_f1(true, found) > expected
    assert 0 < loss < np.log(3)


def test_the_penalty_is_that_of_the_least_loss_on_validation_cells():
    """Against regressions of each strength, fitted by themselves."""
    both = cells(1500)
    learned, held = part(both, slice(1000)), part(both, slice(1000, 1500))
    head, loss = fit_label_head(learned, held)
    (embedding, codes), (others, true) = learned, held
    mean, scale = embedding.mean(axis=0), embedding.std(axis=0)
    weights = balanced_weights(np.bincount(codes), BALANCE)[codes]
    losses, logits = [], []
    for strength in STRENGTHS:
        fitted = LogisticRegression(C=strength, max_iter=1000)
        fitted.fit((embedding - mean) / scale, codes, weights)
        logits.append(fitted.decision_function((others - mean) / scale))
        tried = []
        for temperature in np.exp(np.linspace(-3, 3, 301)):
            heated = torch.from_numpy(logits[-1] / temperature).log_softmax(dim=1).numpy()
            tried.append(-heated[np.arange(len(true)), true].mean())
        losses.append(min(tried))
    assert loss == pytest.approx(min(losses), abs=1e-3)
    found = head.logits(torch.from_numpy(others)).numpy()
    np.testing.assert_allclose(found, logits[int(np.argmin(losses))], atol=0.02)


def test_the_temperature_makes_probabilities_frequencies():
    both = embedding, codes = cells(6000)
    head, _ = fit_label_head(part(both, slice(1000)), part(both, slice(1000, 3000)))
    probability = head(torch.from_numpy(embedding[3000:])).max(dim=1)
    right = probability.indices.numpy() == codes[3000:]
    assert abs(right.mean() - float(probability.values.mean())) < 0.03


def test_the_head_keeps_the_scores_of_validation_cells():
    both = cells(1500)
    learned, held = part(both, slice(1000)), part(both, slice(1000, 1500))
    head, _ = fit_label_head(learned, held)
    others = torch.from_numpy(held[0])
    scores = conformal_scores(head(others))[torch.arange(500), torch.from_numpy(held[1])]
    torch.testing.assert_close(head.conformal, scores.sort().values)
    torch.testing.assert_close(head.novelty, head.score_novelty(others).sort().values)
    scores = head.ood_scores(others)
    standard = (scores - head.moments[0]) / head.moments[1]
    torch.testing.assert_close(standard.mean(dim=0), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(standard.std(dim=0, correction=0), torch.ones(2), atol=1e-4, rtol=0)
    reference = head.reference / head.scaling
    torch.testing.assert_close(reference, torch.from_numpy(learned[0]), atol=1e-4, rtol=1e-4)
    far = head.score_novelty(others + 20)
    assert (far > head.novelty[-1]).all()


def test_it_is_fitted_once_more_on_all_cells():
    """With the penalty and the calibration that it has."""
    both = cells(1500)
    learned, held = part(both, slice(1000)), part(both, slice(1000, 1500))
    first, loss = fit_label_head(learned, held)
    final, same = fit_label_head(learned, held, both)
    assert loss == same
    for name in ("temperature", "conformal", "novelty", "moments"):
        assert torch.equal(getattr(first, name), getattr(final, name)), name
    assert not torch.equal(first.linear.weight, final.linear.weight)
    others = torch.from_numpy(cells(500, seed=1)[0])
    torch.testing.assert_close(first(others), final(others), atol=0.2, rtol=0)
    assert final.reference.shape == first.reference.shape == (1000, 8)
    inside = torch.cdist(final.reference / final.scaling, torch.from_numpy(both[0])).min(dim=1)
    assert inside.values.max() < 0.01
    assert (inside.indices >= 1000).sum() > 200  # of validation cells, too


def test_two_labels_have_a_logit_each():
    embedding, codes = cells(600)
    both = embedding, np.minimum(codes, 1)
    head, _ = fit_label_head(part(both, slice(400)), part(both, slice(400, 600)))
    logits = head.logits(torch.from_numpy(embedding))
    assert logits.shape == (600, 2)
    torch.testing.assert_close(logits.sum(dim=1), torch.zeros(600), atol=1e-3, rtol=0)
    assert (logits.argmax(dim=1).numpy() == both[1]).mean() > 0.75


def test_the_same_bits_whatever_the_number_of_threads_and_the_random_state():
    both = cells(800)

    def fit():
        torch.rand(3)
        before = torch.get_rng_state()
        head, _ = fit_label_head(part(both, slice(600)), part(both, slice(600, 800)), both)
        assert torch.equal(torch.get_rng_state(), before)
        return head

    one, two = in_one_and_two_threads(fit)
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, two.state_dict()[name]), name
    assert not any(parameter.requires_grad for parameter in one.parameters())


@given(st.integers(0, 300), st.integers(1, 300))
def test_rows_are_spread_evenly_and_the_last_is_among_them(n, most):
    found = spread(np.arange(n) * 2, most)
    assert len(found) == min(n, most)
    if n:
        assert found[-1] == 2 * (n - 1)
        gaps = np.diff(found, prepend=-2) / 2
        assert gaps.max() - gaps.min() <= 1


def test_a_head_keeps_a_bounded_number_of_cells():
    both = cells(2 * MAX_KEPT_CELLS + 700, shift=3)
    n = MAX_KEPT_CELLS + 500
    head, _ = fit_label_head(part(both, slice(n)), part(both, slice(n, None)))
    assert len(head.reference) == len(head.conformal) == len(head.novelty) == MAX_KEPT_CELLS
    assert (head.conformal.diff() >= 0).all()


def test_codes_of_labels():
    labels = pd.Series(["b", None, "a", "c", "b", np.nan, "a"])
    train, held = np.array([0, 1, 2, 4]), np.array([3, 5, 6])
    names, codes = check_labels(labels, train, held)
    assert names == ["a", "b"]  # "c" is no label of a training cell
    assert codes.tolist() == [1, -1, 0, -1, 1, -1, 0]
    numbers = check_labels(pd.Series([10, 2, 10, 2]), np.array([0, 1]), np.array([2, 3]))
    assert numbers[0] == ["10", "2"]


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["a", "a", "a", "b"], r"found labels \['a'\] and 1 such cells"),
        (["a", "b", None, None], r"found labels \['a', 'b'\] and 0 such cells"),
        ([None, None, None, "a"], r"found labels \[\] and 0 such cells"),
    ],
)
def test_too_few_labels(labels, said):
    with pytest.raises(ValueError, match=f"needs two labels or more among the training.*{said}"):
        check_labels(pd.Series(labels, dtype=object), np.array([0, 1]), np.array([2, 3]))
