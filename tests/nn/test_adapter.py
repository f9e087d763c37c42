"""Low-rank updates: no change at first, few parameters, and merged exactly."""

import copy

import pytest
import torch
from torch import nn

from epifoundation import ModelConfig
from epifoundation.nn import Network, Sizes, adapt, blend, merge

N_PEAKS = 3000
OF_PAPER = {"decoder": "query", "objective": "binary"}
CONFIGS = {
    "linear": ModelConfig(encoder="transformer", dim=32, n_heads=2, n_layers=1),
    "paper": ModelConfig(encoder="transformer", dim=32, n_heads=2, n_layers=2, **OF_PAPER),
}
IDS, OFFSETS = torch.arange(60) * 37 % N_PEAKS, torch.tensor([0, 10, 25, 60])


@pytest.fixture(params=CONFIGS, ids=str)
def network(request):
    torch.manual_seed(0)
    return Network(CONFIGS[request.param], Sizes(N_PEAKS, 40, n_batches=2, n_chromosomes=3)).eval()


def answers(network):
    z = network.encode(IDS, OFFSETS)
    return [z, network.expression(z, torch.tensor([0, 1, 1]))]


def learn(network):
    """Move all that may learn."""
    torch.manual_seed(1)
    for parameter in network.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.1)


def test_an_update_changes_nothing_at_first(network):
    before = answers(network)
    adapt(network, 4)
    torch.testing.assert_close(answers(network), before)


def test_what_learns_is_small_and_none_of_it_has_a_column_a_peak(network):
    adapt(network, 4)
    learned = [p for p in network.parameters() if p.requires_grad]
    per_peak = [p for p in learned if p.shape[0] >= N_PEAKS]
    assert [p.shape[1] for p in per_peak] == [4]
    if network.peaks is not None:
        assert not any(p.requires_grad for p in network.peaks.linear.parameters())
    assert sum(p.numel() for p in learned) < sum(p.numel() for p in network.parameters()) / 2


def test_merged_is_what_was_adapted(network):
    plain = copy.deepcopy(network)
    names = set(network.state_dict())
    adapt(network, 4)
    learn(network)
    factors = merge(copy.deepcopy(network))  # rounds its factors
    merged = copy.deepcopy(network)
    assert merge(merged).keys() == factors.keys()
    assert set(merged.state_dict()) == names
    torch.testing.assert_close(answers(merged), answers(network), atol=2e-3, rtol=2e-3)
    state, start = merged.state_dict(), plain.state_dict()
    for name, (left, right) in factors.items():
        torch.testing.assert_close(state[name], start[name] + left @ right)
        torch.testing.assert_close(left, left.half().float(), rtol=0, atol=0)


def test_large_matrices_are_updated_by_factors_and_small_ones_in_full():
    network = Network(
        ModelConfig(encoder="transformer", dim=256, n_heads=2, n_layers=1), Sizes(N_PEAKS)
    )
    adapt(network, 2)
    learn(network)
    names = set(merge(network))
    assert "encoder.tokens.embedding.weight" in names
    assert "encoder.blocks.0.qkv.weight" in names  # 768 x 256
    assert "peaks.linear.weight" not in names


def test_a_blend_goes_from_one_network_to_the_other(network):
    other = copy.deepcopy(network)
    learn(other)
    torch.testing.assert_close(answers(blend(network, other, 0.0)), answers(network))
    torch.testing.assert_close(answers(blend(network, other, 1.0)), answers(other))
    half = blend(network, other, 0.5)
    table = f"encoder.{network.encoder.table}.weight"
    ends = network.state_dict()[table], other.state_dict()[table]
    torch.testing.assert_close(half.state_dict()[table], (ends[0] + ends[1]) / 2)
