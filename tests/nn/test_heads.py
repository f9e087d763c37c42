"""Likelihoods against torch.distributions and plain formulas."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Bernoulli, Multinomial

from epifoundation.nn import (
    ExpressionHead,
    LabelHead,
    MeasuredPeakHead,
    PeakHead,
    PeakVectors,
    conformal_scores,
)

EMBEDDING = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))


def head(objective, n_batches=0):
    torch.manual_seed(1)
    made = ExpressionHead(8, 6, n_batches, objective)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_()
    return made.requires_grad_(False)


def test_counts_loss_is_multinomial_up_to_its_constant():
    target = torch.tensor([[3.0, 0, 1, 2, 0, 0], [0, 0, 0, 0, 4, 1.0]])
    made = head("counts")
    log_likelihood = sum(
        Multinomial(int(t.sum()), logits=made(e[None])[0]).log_prob(t)
        - (torch.lgamma(t.sum() + 1) - torch.lgamma(t + 1).sum())
        for e, t in zip(EMBEDDING[:2], target, strict=True)
    )
    torch.testing.assert_close(made.loss(EMBEDDING[:2], target), -log_likelihood / target.sum())


def test_binary_loss_is_bernoulli_of_being_expressed():
    target = torch.tensor([[3.0, 0, 1, 2, 0, 0]])
    made = head("binary")
    expected = -Bernoulli(logits=made(EMBEDDING[:1])).log_prob((target > 0).float()).mean()
    torch.testing.assert_close(made.loss(EMBEDDING[:1], (target > 0).float()), expected)


def test_predictions_are_on_the_scale_that_is_named():
    counts = head("counts").predict(EMBEDDING)
    torch.testing.assert_close(counts.expm1().sum(1), torch.full((5,), 1e4))
    probability = head("binary").predict(EMBEDDING)
    assert ((probability > 0) & (probability < 1)).all()
    torch.testing.assert_close(head("gaussian").predict(EMBEDDING), head("gaussian")(EMBEDDING))


def test_gaussian_loss_is_of_standardised_genes_and_predictions_of_measured_ones():
    made, target = head("gaussian"), torch.randn(5, 6) * 3 + 2
    made.mean, made.deviation = target.mean(0), target.std(0)
    predicted = made.predict(EMBEDDING)
    expected = (((predicted - target) / target.std(0)) ** 2).mean()
    torch.testing.assert_close(made.loss(EMBEDDING, target), expected)


@pytest.mark.parametrize("objective", ["counts", "binary", "gaussian"])
def test_some_genes_are_columns_of_all_genes(objective):
    made, genes = head(objective), torch.tensor([4, 0])
    torch.testing.assert_close(made.predict(EMBEDDING, genes), made.predict(EMBEDDING)[:, genes])


def test_prediction_takes_the_mean_batch_and_training_its_own():
    made = head("gaussian", n_batches=3)
    codes = torch.tensor([0, 1, 2, 0, 1])
    torch.testing.assert_close(made(EMBEDDING, codes) - made.linear(EMBEDDING), made.batch[codes])
    torch.testing.assert_close(
        made(EMBEDDING) - made.linear(EMBEDDING), made.batch.mean(0).expand(5, -1)
    )


def test_peak_loss_is_the_mean_over_held_out_peaks():
    made = PeakHead(8, 20).requires_grad_(False)
    ids, rows = torch.tensor([3, 19, 3]), torch.tensor([0, 0, 4])
    expected = -made(EMBEDDING).log_softmax(-1)[rows, ids].mean()
    torch.testing.assert_close(made.loss(EMBEDDING, ids, rows), expected)
    assert made.loss(EMBEDDING, ids[:0], rows[:0]) == 0


def test_columns_for_labels_are_not_read():
    with_labels = torch.cat([EMBEDDING, torch.full((5, 3), 9.0)], dim=1)
    for made in (head("counts"), PeakHead(8, 20, 2).requires_grad_(False)):
        torch.testing.assert_close(made(with_labels), made(EMBEDDING))


def clusters_of(seed, n_cells=400, n_peaks=30, n_clusters=4):
    """Peaks that are open by cluster, and their vectors measured on these, without shrinkage."""
    generator = torch.Generator().manual_seed(seed)
    code = torch.randint(n_clusters, (n_cells,), generator=generator)
    rate = torch.rand(n_clusters, n_peaks, generator=generator) * 0.8 + 0.1
    is_open = torch.rand(n_cells, n_peaks, generator=generator) < rate[code]
    known = torch.eye(n_clusters)[code]
    vectors = PeakVectors(n_peaks, n_clusters)
    vectors.base.copy_(known.mean(dim=0))
    vectors.count.copy_(is_open.sum(dim=0))
    summed = is_open.float().T @ (known - vectors.base)
    vectors.weight.copy_(summed / vectors.count[:, None])
    return vectors, is_open, code


def test_a_cell_has_the_rates_of_peaks_in_its_clusters_by_its_memberships():
    """Where means are not shrunken, logits are those of a mixture of the rates in the clusters."""
    vectors, is_open, code = clusters_of(0)
    made = MeasuredPeakHead(vectors)
    assert not made.state_dict()  # no weights: the vectors are those of the encoder
    rates = torch.stack([is_open[code == cluster].float().mean(dim=0) for cluster in range(4)])
    mixed = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.2, 0.3, 0.1, 0.4]])
    for memberships in (torch.eye(4), mixed):
        expected = memberships @ rates
        with_labels = torch.cat([memberships, torch.full((len(memberships), 3), 9.0)], dim=1)
        found = made(with_labels).softmax(dim=1)
        expected = expected / expected.sum(dim=1, keepdim=True)
        torch.testing.assert_close(found, expected, atol=0, rtol=0.02)
    base = made(vectors.base[None]).softmax(dim=1)[0]
    often = is_open.sum(dim=0) + 1
    torch.testing.assert_close(base, often / often.sum(), atol=1e-5, rtol=1e-4)


def test_a_peak_that_was_never_open_in_a_cluster_may_be_open_in_a_cell_of_it():
    vectors, _, _ = clusters_of(0)
    vectors.weight[3] = -vectors.base  # of all clusters none has it
    found = MeasuredPeakHead(vectors)(torch.eye(4))
    assert found.isfinite().all()
    expected = torch.log(0.02 * (vectors.count[3] + 1)).expand(4)
    torch.testing.assert_close(found[:, 3], expected)


def test_temperature_softens_and_keeps_the_order():
    made = LabelHead(8, 4).requires_grad_(False)
    sharp = made(EMBEDDING)
    made.temperature.fill_(5.0)
    soft = made(EMBEDDING)
    assert (soft.max(1).values < sharp.max(1).values).all()
    assert torch.equal(soft.argmax(1), sharp.argmax(1))
    torch.testing.assert_close(soft.sum(1), torch.ones(5))


@given(st.integers(2, 8), st.integers(0, 2**31))
def test_conformal_scores_are_the_mass_before_and_half_of_the_own(n_labels, seed):
    torch.manual_seed(seed)
    probabilities = torch.rand(4, n_labels, dtype=torch.float64).softmax(dim=-1)
    found = conformal_scores(probabilities)
    for i, row in enumerate(probabilities.tolist()):
        for j, own in enumerate(row):
            assert abs(found[i, j].item() - sum(p for p in row if p > own) - own / 2) < 1e-9


def test_sets_cover_what_is_drawn_from_the_probabilities():
    """Labels drawn from the probabilities: 90 % of the sets contain them."""
    torch.manual_seed(0)
    probabilities = (2 * torch.randn(20_000, 6)).softmax(dim=-1)
    drawn = torch.multinomial(probabilities, 1)[:, 0]
    scores = conformal_scores(probabilities)
    own = scores[torch.arange(len(drawn)), drawn]
    at = own[:10_000].quantile(0.9)
    assert abs((own[10_000:] <= at).float().mean() - 0.9) < 0.015


def test_novelty_by_hand():
    head = LabelHead(2, 3, 0, n_calibration=4, n_reference=2).requires_grad_(False)
    head.reference.copy_(torch.tensor([[0.0, 0.0], [2.0, 0.0]]))
    head.scaling.copy_(torch.tensor([2.0, 1.0]))
    cell = torch.tensor([[1.0, 3.0]])
    energy = -torch.log(torch.exp(cell @ head.linear.weight.T + head.linear.bias).sum())
    distance = (13**0.5 + 3) / 2  # to (0, 0) and (2, 0), of (2, 3)
    for moments, expected in (
        ([[1.0, 2.0], [0.5, 4.0]], max((energy - 1) / 0.5, (distance - 2) / 4 - 1)),
        ([[9.0, 2.0], [0.5, 0.1]], (distance - 2) / 0.1 - 1),
    ):
        head.moments.copy_(torch.tensor(moments))
        assert abs(head.score_novelty(cell).item() - float(expected)) < 1e-4
