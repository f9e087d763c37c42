"""Directions that are projected out of the columns of an encoder."""

import pytest
import torch

from epifoundation import ModelConfig
from epifoundation.nn import Network, Sizes
from epifoundation.nn.output_norm import OutputNorm, Projection

CONFIGS = {
    "set": ModelConfig(dim=16),
    "set-1": ModelConfig(encoder="set-1", dim=16, n_layers=1),
    "transformer": ModelConfig(encoder="transformer", dim=16, n_layers=1),
}
IDS, OFFSETS = torch.randint(50, (80,)), torch.arange(0, 81, 8)


@pytest.mark.parametrize("encoder", CONFIGS)
def test_columns_do_not_move_along_what_was_projected_out_on_either_path(encoder):
    torch.manual_seed(0)
    sizes = Sizes(50, n_removed=3, n_encoder_landmarks=4)
    network = Network(CONFIGS[encoder], sizes).eval().requires_grad_(False)
    norm = network.encoder.projection if encoder == "set" else network.encoder.norm
    norm.read.copy_(torch.randn(3, 16))
    norm.along.copy_(torch.linalg.pinv(norm.read).T)
    norm.shift.copy_(torch.randn(3) @ norm.along)
    for name, tensor in network.encoder.state_dict().items():
        if name.startswith(("vectors.weight", "readout.", "peak.")):
            tensor.copy_(torch.rand_like(tensor))
    z = network.encoder(IDS, OFFSETS)
    expected = (norm.shift @ norm.read.T).expand(10, -1)
    torch.testing.assert_close(z @ norm.read.T, expected, atol=1e-4, rtol=0)
    assert torch.linalg.matrix_rank(z - z.mean(0)) == 9  # of ten cells: what else there is stays
    embedding = network.encode(IDS, OFFSETS)
    torch.testing.assert_close(embedding, network.encoder.embed(z))
    folded = network.folded().encode(IDS, OFFSETS)
    torch.testing.assert_close(folded, embedding, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", [Projection, OutputNorm])
@pytest.mark.parametrize("n_removed", [0, 3])
def test_two_projections_are_one(kind, n_removed):
    torch.manual_seed(0)
    x = torch.randn(20, 16)
    first, second = kind(16, n_removed), kind(16, n_removed + 2)
    read, along, shift = torch.randn(2, 16), torch.randn(2, 16), torch.randn(16)
    for buffer in first.buffers():
        buffer.normal_()
    second.load_state_dict(first.state_dict() | first.followed_by(read, along, shift))
    expected = first(x) - (first(x) @ read.T) @ along + shift
    torch.testing.assert_close(second(x), expected, atol=1e-3, rtol=1e-4)


def test_without_directions_nothing_changes_and_nothing_is_kept():
    x = torch.randn(4, 16)
    assert not Projection(16).state_dict()
    torch.testing.assert_close(Projection(16)(x), x)
    torch.testing.assert_close(OutputNorm(16)(x), torch.nn.functional.layer_norm(x, (16,)))
