"""The transformer: training path, folded path, and what a cell's result depends on."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from epifoundation import ModelConfig
from epifoundation.nn import Network, Sizes
from epifoundation.nn.packed import take
from epifoundation.nn.transformer_encoder import CLS, EPS, limit

N_PEAKS = 200
CELLS = torch.tensor([0, 30, 31, 31, 90, 130])  # one of a single peak, one of none


def make(max_peaks=None, n_chromosomes=3, dim=32, n_heads=4):
    config = ModelConfig(
        encoder="transformer", dim=dim, n_heads=n_heads, feedforward=48, max_peaks=max_peaks
    )
    torch.manual_seed(0)
    network = (
        Network(config, Sizes(N_PEAKS, n_chromosomes=n_chromosomes)).eval().requires_grad_(False)
    )
    tokens = network.encoder.tokens
    if n_chromosomes:
        tokens.chromosome_of[:-1] = 2 + torch.arange(N_PEAKS) % n_chromosomes
    for parameter in (
        tokens.batch_norm.weight,
        tokens.batch_norm.bias,
        tokens.norm.weight,
        tokens.norm.bias,
    ):
        parameter.normal_(0.5)
    tokens.batch_norm.running_mean.normal_()
    tokens.batch_norm.running_var.uniform_(0.5, 2)
    return network


def cells(seed=1, offsets=CELLS):
    generator = torch.Generator().manual_seed(seed)
    lengths = offsets.diff().tolist()
    return torch.cat(
        [torch.randperm(N_PEAKS, generator=generator)[:n].sort().values for n in lengths]
    ), offsets


@pytest.mark.parametrize("n_chromosomes", [0, 3])
def test_folded_and_training_path_agree(n_chromosomes):
    network = make(n_chromosomes=n_chromosomes)
    ids, offsets = cells()
    trained, folded = network.encode(ids, offsets), network.folded().encode(ids, offsets)
    torch.testing.assert_close(folded, trained, atol=1e-5, rtol=0, equal_nan=True)
    assert trained[2].isnan().all()
    assert trained[[0, 1, 3, 4]].isfinite().all()


@pytest.mark.parametrize("n_chromosomes", [0, 3])
def test_folded_tokens_are_the_tokens(n_chromosomes):
    tokens = make(n_chromosomes=n_chromosomes).encoder.tokens
    ids = torch.arange(N_PEAKS + 1)
    torch.testing.assert_close(tokens.fold()(ids), tokens(ids), atol=1e-5, rtol=1e-5)
    assert tokens.batch_norm.eps == EPS
    if n_chromosomes:
        assert tokens.chromosome_of[-1] == CLS


@given(st.permutations(range(4)), st.integers(1, 4))
def test_a_cell_depends_on_itself_alone(order, at_a_time):
    folded = NETWORK.folded()
    ids, offsets = cells(offsets=torch.tensor([0, 30, 31, 90, 130]))
    expected = folded.encode(ids, offsets)
    parts = [
        folded.encode(*take(ids, offsets, some)) for some in torch.tensor(order).split(at_a_time)
    ]
    torch.testing.assert_close(torch.cat(parts), expected[torch.tensor(order)], atol=1e-5, rtol=0)


NETWORK = make()


def test_the_order_of_a_cells_peaks_does_not_matter():
    ids, offsets = cells(offsets=torch.tensor([0, 50]))
    shuffled = ids[torch.randperm(50)]
    folded = NETWORK.folded()
    torch.testing.assert_close(
        folded.encode(shuffled, offsets), folded.encode(ids, offsets), atol=1e-5, rtol=0
    )


def test_bfloat16_points_the_same_way_and_gives_float32():
    ids, offsets = cells(offsets=torch.tensor([0, 30, 31, 90, 130]))
    exact, rough = (
        NETWORK.folded().encode(ids, offsets),
        NETWORK.folded(torch.bfloat16).encode(ids, offsets),
    )
    assert rough.dtype == torch.float32
    assert torch.cosine_similarity(exact, rough).min() > 0.999
    assert NETWORK.encoder.blocks[0].qkv.weight.dtype == torch.float32


@pytest.mark.parametrize("kind", [torch.int32, torch.int64])
def test_positions_of_either_width_will_do(kind):
    ids, offsets = cells()
    folded = NETWORK.folded()
    expected = folded.encode(ids, offsets)
    torch.testing.assert_close(
        folded.encode(ids.to(kind), offsets.to(kind)), expected, equal_nan=True
    )
    assert (
        folded.encode(ids[:0], offsets[:1]).shape
        == NETWORK.encode(ids[:0], offsets[:1]).shape
        == (0, 32)
    )


def test_every_parameter_learns_but_those_of_peaks_that_are_not_there():
    network = make().requires_grad_(True).train()
    ids, offsets = cells(offsets=torch.tensor([0, 30, 90]))
    network.encode(ids, offsets).square().sum().backward()
    for name, parameter in network.encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    rows = network.encoder.tokens.embedding.weight.grad.abs().sum(1) > 0
    assert set(rows.nonzero().flatten().tolist()) == {*ids.tolist(), N_PEAKS}


many = st.lists(st.sets(st.integers(0, 5000), max_size=60), min_size=1, max_size=6)


def pack(sets):
    lengths = torch.tensor([len(cell) for cell in sets])
    ids = torch.tensor([peak for cell in sets for peak in sorted(cell)], dtype=torch.long)
    return ids, torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])


def unpack(ids, offsets):
    return [ids[a:b].tolist() for a, b in itertools.pairwise(offsets)]


@given(many, st.integers(1, 30))
def test_a_limited_cell_keeps_a_fixed_choice_of_its_peaks(sets, most):
    kept = unpack(*limit(*pack(sets), most))
    for cell, own in zip(sets, kept, strict=True):
        assert own == sorted(set(own) & cell)
        assert len(own) == min(len(cell), most)
        assert unpack(*limit(*pack([cell]), most)) == [own]  # whatever the other cells
        if (
            len(cell) > most
        ):  # a peak that was not chosen makes no difference, one that was makes room for one
            left_out = sorted(cell - set(own))
            assert unpack(*limit(*pack([cell - {left_out[0]}]), most)) == [own]
            without = unpack(*limit(*pack([cell - {own[0]}]), most))[0]
            assert len(set(own) - set(without)) == 1


def test_the_choice_is_spread_over_the_vocabulary():
    ids, offsets = limit(torch.arange(100_000), torch.tensor([0, 100_000]), 1_000)
    assert offsets.tolist() == [0, 1_000]
    assert torch.histc(ids.float(), 10, 0, 100_000).min() >= 90


def test_a_limit_that_no_cell_reaches_changes_nothing():
    limited = make(max_peaks=60)
    ids, offsets = cells()
    expected = make().folded().encode(ids, offsets)
    torch.testing.assert_close(limited.folded().encode(ids, offsets), expected, equal_nan=True)
    tight = make(max_peaks=20)
    torch.testing.assert_close(
        tight.encode(ids, offsets),
        tight.folded().encode(ids, offsets),
        atol=1e-5,
        rtol=0,
        equal_nan=True,
    )
    torch.testing.assert_close(
        tight.encode(ids, offsets)[0], make().encode(*limit(ids[:30], offsets[:2], 20))[0]
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_the_numbers_of_the_cpu():
    network = make(dim=64)
    ids, offsets = cells()
    expected = network.folded().encode(ids, offsets)
    network.cuda()
    on_gpu = network.folded().encode(ids.cuda(), offsets.cuda()).cpu()
    torch.testing.assert_close(on_gpu, expected, atol=1e-3, rtol=1e-3, equal_nan=True)
    rough = network.folded(torch.bfloat16).encode(ids.cuda(), offsets.cuda()).cpu()
    known = ~expected[:, 0].isnan()
    assert torch.cosine_similarity(rough[known], expected[known]).min() > 0.999
