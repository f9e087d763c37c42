"""Directions that are taken out of an embedding."""

import pytest
import torch

from epifoundation import ModelConfig
from epifoundation.nn import Network, Sizes


@pytest.mark.parametrize("encoder", ["set", "transformer"])
def test_embeddings_do_not_move_along_what_was_taken_out_on_either_path(encoder):
    torch.manual_seed(0)
    network = Network(ModelConfig(encoder=encoder, dim=16, n_heads=2, n_layers=1), Sizes(50, n_removed=3)).eval()
    network.requires_grad_(False)
    norm = network.encoder.norm
    norm.removed.copy_(torch.linalg.qr(torch.randn(16, 3))[0].T)
    norm.shift.copy_(torch.randn(3) @ norm.removed)
    ids, offsets = torch.randint(50, (80,)), torch.arange(0, 81, 8)
    z = network.encode(ids, offsets)
    torch.testing.assert_close(z @ norm.removed.T, (norm.shift @ norm.removed.T).expand(10, -1), atol=1e-5, rtol=0)
    assert torch.linalg.matrix_rank(z - z.mean(0)) == 9  # of ten cells: what else there is stays
    torch.testing.assert_close(network.folded().encode(ids, offsets), z, atol=1e-5, rtol=1e-5)
