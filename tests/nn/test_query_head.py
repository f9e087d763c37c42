"""The query decoder against a plain one, its batches, and the balanced loss."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles.original import Decoder

from epifoundation.nn import ExpressionHead, QueryHead, balance

DIM, N_GENES = 16, 12
CELLS = torch.randn(5, DIM, generator=torch.Generator().manual_seed(0))
BATCH = torch.tensor([0, 2, 1, 1, 0])


def make(objective="binary", n_batches=0, seed=0, **options):
    torch.manual_seed(seed)
    head = QueryHead(DIM, N_GENES, n_batches, objective, n_chromosomes=3, **options)
    head.genes.chromosome_of.copy_(torch.arange(N_GENES) % 5)
    for tensor in head.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(0.3 * torch.rand_like(tensor))
    return head.eval().requires_grad_(False)


@pytest.mark.parametrize("n_batches", [0, 3])
@pytest.mark.parametrize("n_bins", [2, 4])
def test_it_is_the_concatenation_taken_apart(n_batches, n_bins):
    head = make(n_batches=n_batches, n_bins=n_bins)
    plain, own = Decoder(DIM, DIM * (2 if n_batches else 1), n_bins), head.decoder
    parts = [own.cell.weight, *([own.batch.weight] if n_batches else []), own.query.weight]
    plain.load_state_dict(
        {
            "gene2query.weight": own.gene.weight,
            "gene2query.bias": own.gene.bias,
            "fc1.weight": torch.cat(parts, dim=1),
            "fc1.bias": own.cell.bias,
            "hidden_activation.weight": own.activation.weight,
            "fc2.weight": own.output.weight,
            "fc2.bias": own.output.bias,
        }
    )
    batch = BATCH if n_batches else None
    asked = torch.cat([CELLS, head.batch_vectors(batch)], dim=1) if n_batches else CELLS
    expected = plain(asked, head.genes(torch.arange(N_GENES))[None])
    torch.testing.assert_close(head.outputs(CELLS, batch), expected, atol=1e-5, rtol=1e-5)
    probability = 1 - expected.softmax(-1)[..., 0]
    torch.testing.assert_close(head.predict(CELLS, batch=batch), probability, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("objective", ["counts", "binary", "gaussian"])
@pytest.mark.parametrize("values", [False, True])
def test_some_genes_are_columns_of_all_genes(objective, values):
    head, genes = make(objective, values=values), torch.tensor([4, 0])
    everything = head.predict(CELLS)
    torch.testing.assert_close(head.predictor(genes)(CELLS, None), everything[:, genes])
    if objective == "counts" and not values:
        torch.testing.assert_close(
            everything.expm1().sum(1), torch.full((5,), 1e4), rtol=1e-4, atol=0
        )


def test_binary_loss_is_the_cross_entropy_of_two_logits():
    head, target = make(), (torch.rand(5, N_GENES) < 0.4).float()
    expected = torch.nn.functional.cross_entropy(head.outputs(CELLS).transpose(1, 2), target.long())
    torch.testing.assert_close(head.loss(CELLS, target), expected)


def test_without_a_batch_the_mean_batch_is_meant_and_values_have_their_own_decoder():
    head = make(n_batches=3, values=True)
    alike = make(n_batches=3, values=True)
    alike.batch.weight.copy_(head.batch.weight[:1].expand(3, -1))
    torch.testing.assert_close(alike(CELLS), alike(CELLS, BATCH), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(head(CELLS), head(CELLS, BATCH), atol=1e-3)
    torch.testing.assert_close(
        head.predict(CELLS, batch=BATCH), head.predicted_values(CELLS, BATCH)
    )
    with pytest.raises(ValueError, match="no decoder for values"):
        make().predicted_values(CELLS)


@pytest.mark.parametrize("n_batches", [0, 2])
def test_going_on_keeps_what_is_predicted_for_the_mean_batch(n_batches):
    theirs, ours = make(n_batches=3), make(n_batches=n_batches, seed=7)
    ours.start_from(theirs)
    torch.testing.assert_close(ours(CELLS), theirs(CELLS), atol=1e-5, rtol=1e-5)
    linear, other = (
        ExpressionHead(DIM, N_GENES, n_batches, "counts"),
        ExpressionHead(DIM, N_GENES, 3, "counts"),
    )
    torch.nn.init.normal_(other.batch)
    linear.start_from(other)
    torch.testing.assert_close(linear(CELLS), other(CELLS))


def test_inference_in_parts_is_inference_at_once(monkeypatch):
    from epifoundation.nn import query_head

    head = make()
    with torch.enable_grad():
        at_once = head(CELLS)
    monkeypatch.setattr(query_head, "BLOCK", 2 * N_GENES * query_head.WIDTH)
    with torch.inference_mode():
        torch.testing.assert_close(
            head(CELLS), at_once, atol=1e-6, rtol=1e-5
        )  # sums in another order


@given(st.integers(0, 1000), st.floats(0.05, 0.95), st.integers(2, 60))
def test_as_many_silent_as_expressed_genes_enter_the_loss(seed, rate, most):
    torch.manual_seed(seed)
    target = (torch.rand(6, 40) < rate).float()
    drawn, expected = balance(target, most, draw=True), balance(target, most, draw=False)
    assert set(drawn.unique().tolist()) <= {0.0, 1.0}
    n_expressed, n_silent = target.sum(1), 40 - target.sum(1)
    wanted = torch.minimum(n_expressed, n_silent).clamp(max=most // 2)
    for weight in (drawn, expected):
        torch.testing.assert_close((weight * target).sum(1), wanted)
        torch.testing.assert_close((weight * (1 - target)).sum(1), wanted)


def test_the_weights_without_a_draw_are_the_mean_of_draws():
    target = torch.tensor([[1.0] * 3 + [0.0] * 9])
    draws = torch.stack([balance(target, 12, draw=True) for _ in range(3000)]).mean(0)
    torch.testing.assert_close(draws, balance(target, 12, draw=False), atol=0.05, rtol=0)


def test_weights_count_in_the_loss():
    head, target = make(), (torch.rand(5, N_GENES) < 0.4).float()
    weight = torch.zeros(5, N_GENES)
    weight[:, :3] = 1
    torch.testing.assert_close(
        head.loss(CELLS, target, weight=weight),
        head.loss(CELLS, target[:, :3], genes=torch.arange(3)),
    )
