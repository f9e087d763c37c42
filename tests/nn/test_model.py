"""Networks with other sizes: what stays, what is replaced, and what an embedding consists of."""

from dataclasses import replace

import pytest
import torch

from epifoundation.nn import LabelHead, MeasuredPeakHead, ModelConfig, Network, PeakHead, Sizes


def test_columns_for_labels_come_behind_those_of_the_encoder(measured):
    assert measured(labels=False).dim == 8
    network = measured()
    assert network.dim == 8 + 3
    assert network.label.linear.in_features == 11


def test_heads_are_those_that_the_sizes_ask_for(measured):
    network = measured(labels=False)
    assert network.label is network.label_columns is None
    assert isinstance(network.peaks, MeasuredPeakHead)
    config = ModelConfig(encoder="transformer", dim=8)
    trained = Network(config, Sizes(20))
    assert isinstance(trained.peaks, PeakHead)
    assert trained.expression is trained.measured is None
    assert Network(replace(config, decoder="query"), Sizes(20, 5)).peaks is None


def test_other_sizes_keep_all_that_is_not_replaced(measured, pack, some_cells):
    network = measured()
    sizes = replace(network.sizes, n_batches=2)
    offsets = torch.randn(2, 6)
    state = torch.get_rng_state()
    wider = network.with_sizes(sizes, {"expression.batch": offsets})
    assert torch.equal(torch.get_rng_state(), state)
    assert wider.sizes == sizes
    assert not any(parameter.requires_grad for parameter in wider.parameters())
    before = network.state_dict()
    for name, tensor in wider.state_dict().items():
        assert torch.equal(tensor, offsets if name == "expression.batch" else before[name]), name
    z = network.encode(*pack(some_cells))
    assert torch.equal(wider.encode(*pack(some_cells)), z)
    batch = torch.tensor([0, 1, 1, 0, 1, 0])
    expected = network.expression(z) + offsets[batch]
    torch.testing.assert_close(wider.expression(z, batch), expected)


def test_sizes_without_their_tensors_are_an_error(measured):
    network = measured()
    with pytest.raises(KeyError, match=r"expression\.batch"):
        network.with_sizes(replace(network.sizes, n_batches=2), {})


def test_a_head_is_replaced_by_one_of_the_same_size_only(measured):
    network = measured()

    def replaced(head, sizes):
        tensors = {f"label.{name}": tensor for name, tensor in head.state_dict().items()}
        return network.with_sizes(sizes, tensors)

    head = LabelHead(11, 3)
    for name, tensor in replaced(head, network.sizes).state_dict().items():
        expected = head.state_dict().get(name.removeprefix("label."))
        kept = network.state_dict()[name]
        assert torch.equal(tensor, expected if name.startswith("label.") else kept), name
    assert not torch.equal(head.linear.weight, network.label.linear.weight)
    with pytest.raises(RuntimeError, match="size mismatch"):  # columns are for three labels
        replaced(LabelHead(12, 4), replace(network.sizes, n_labels=4))
