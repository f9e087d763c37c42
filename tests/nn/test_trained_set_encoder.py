"""The set encoder of format 1 against its function: a sum, a linear map and residual layers."""

import pytest
import torch
import torch.nn.functional as F

from epifoundation.nn import ModelConfig, Network, Sizes
from epifoundation.nn.trained_set_encoder import STD

N_PEAKS = 50


def make(n_layers=2, n_removed=0):
    torch.manual_seed(0)
    config = ModelConfig(encoder="set-1", dim=16, n_layers=n_layers)
    network = Network(config, Sizes(N_PEAKS, n_removed=n_removed)).eval().requires_grad_(False)
    network.encoder.peak.weight.normal_(std=STD)
    for name in ("share", "seed", "norm.weight", "norm.bias"):
        network.encoder.state_dict()[name].normal_()
    return network


def by_hand(encoder, cell):
    state = encoder.state_dict()
    summed = sum(state["peak.weight"][peak] / 0.02 for peak in cell) / len(cell) ** 0.5
    x = state["seed"][0] + state["output.weight"] @ summed + state["output.bias"]
    for layer in range(len(encoder.mix)):
        names = [f"mix.{layer}.layers.{at}" for at in (0, 1, 4)]
        norm, first, second = ([state[f"{at}.weight"], state[f"{at}.bias"]] for at in names)
        hidden = F.gelu(first[0] @ F.layer_norm(x, (16,), *norm) + first[1])
        x = x + second[0] @ hidden + second[1]
    return F.layer_norm(x, (16,), state["norm.weight"], state["norm.bias"])


@pytest.mark.parametrize("n_layers", [0, 2])
def test_it_is_the_function_of_format_1(pack, some_cells, n_layers):
    network = make(n_layers)
    expected = torch.stack([by_hand(network.encoder, cell) for cell in some_cells])
    for encode in (network.encode, network.folded().encode):
        torch.testing.assert_close(encode(*pack(some_cells)), expected, atol=1e-5, rtol=1e-5)


def test_the_names_of_its_weights_are_those_of_files_of_format_1():
    names = set(make(1, n_removed=2).encoder.state_dict())
    layers = {f"mix.0.layers.{at}.{part}" for at in (0, 1, 4) for part in ("weight", "bias")}
    norm = {f"norm.{name}" for name in ("weight", "bias", "read", "along", "shift")}
    others = {"peak.weight", "share", "output.weight", "output.bias", "seed"}
    assert names == layers | norm | others


def test_cells_cannot_be_left_out_of_it(pack, some_cells):
    network = make()
    known = {"encoder": torch.rand(6, 16)}
    expected = network.encode(*pack(some_cells))
    assert torch.equal(network.encode(*pack(some_cells), known), expected)
    torch.testing.assert_close(network.folded().encode(*pack(some_cells), known), expected)


def test_a_cell_without_peaks_is_nan_and_changes_no_other(pack):
    folded = make().folded()
    some = folded.encode(*pack([[1, 2], [], [3]]))
    assert some[1].isnan().all()
    torch.testing.assert_close(some[[0, 2]], folded.encode(*pack([[1, 2], [3]])))


def test_columns_for_labels_may_be_beside_it(pack, some_cells, filled):
    config = ModelConfig(encoder="set-1", dim=16, n_layers=1)
    network = filled(Network(config, Sizes(N_PEAKS, n_labels=3, n_label_landmarks=4)))
    known = {"labels": torch.full((6, 3), torch.nan)}
    known["labels"][0] = torch.tensor([1.0, 0.0, 0.0])
    z = network.encode(*pack(some_cells), known)
    plain = network.encode(*pack(some_cells))
    assert z.shape == (6, network.dim) == (6, 19)
    assert torch.equal(z[1:], plain[1:])
    assert torch.equal(z[0, :16], plain[0, :16])
    assert (z[0, 16:] - plain[0, 16:]).abs().max() > 1e-3
    torch.testing.assert_close(network.folded().encode(*pack(some_cells), known), z)
