"""Directions that are taken out of an embedding."""

import pytest
import torch

from epifoundation import ModelConfig
from epifoundation.nn import Network, Sizes
from epifoundation.nn.output_norm import OutputNorm


@pytest.mark.parametrize("encoder", ["set", "transformer"])
def test_embeddings_do_not_move_along_what_was_taken_out_on_either_path(encoder):
    torch.manual_seed(0)
    network = Network(ModelConfig(encoder=encoder, dim=16, n_heads=2, n_layers=1), Sizes(50, n_removed=3)).eval()
    network.requires_grad_(False)
    norm = network.encoder.norm
    norm.read.copy_(torch.randn(3, 16))
    norm.along.copy_(torch.linalg.pinv(norm.read).T)
    norm.shift.copy_(torch.randn(3) @ norm.along)
    ids, offsets = torch.randint(50, (80,)), torch.arange(0, 81, 8)
    z = network.encode(ids, offsets)
    torch.testing.assert_close(z @ norm.read.T, (norm.shift @ norm.read.T).expand(10, -1), atol=1e-4, rtol=0)
    assert torch.linalg.matrix_rank(z - z.mean(0)) == 9  # of ten cells: what else there is stays
    torch.testing.assert_close(network.folded().encode(ids, offsets), z, atol=1e-5, rtol=1e-5)


def test_two_projections_are_one():
    torch.manual_seed(0)
    x = torch.randn(20, 16)
    first, second = OutputNorm(16, 3), OutputNorm(16, 5)
    read, along, shift = torch.randn(2, 16), torch.randn(2, 16), torch.randn(16)
    for name in ("read", "along", "shift"):
        getattr(first, name).normal_()
    second.load_state_dict(first.state_dict() | first.followed_by(read, along, shift))
    expected = first(x) - (first(x) @ read.T) @ along + shift
    torch.testing.assert_close(second(x), expected, atol=1e-3, rtol=1e-4)
