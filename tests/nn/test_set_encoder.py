"""The encoder against attention written out cell by cell, and its invariances."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from epifoundation.nn import ModelConfig, Network, Sizes

N_PEAKS = 50


def make(n_seeds=1, n_heads=4, n_layers=2, sharp=1.0):
    torch.manual_seed(0)
    network = Network(ModelConfig(dim=16, n_heads=n_heads, n_seeds=n_seeds, n_layers=n_layers), Sizes(N_PEAKS)).eval()
    with torch.no_grad():
        network.encoder.prior.normal_(std=0.5)
        network.encoder.peak.weight.normal_()
        network.encoder.scale.mul_(sharp)
    return network


def pack(cells):
    ids = torch.tensor([i for cell in cells for i in cell], dtype=torch.int64)
    return ids, torch.tensor([0, *np.cumsum([len(cell) for cell in cells])])


def by_hand(encoder, cell):
    """Softmax attention over one cell's peaks, as DESIGN 2a writes it."""
    heads, seeds = encoder.n_heads, encoder.n_seeds
    x = encoder.peak_norm(encoder.peak.weight[cell])
    k = F.normalize(encoder.key(x).view(len(cell), heads, -1), dim=-1)
    v = encoder.value(x).view(len(cell), heads, -1)
    q = F.normalize(encoder.query, dim=-1)
    pooled = torch.empty(seeds, heads, v.shape[-1])
    for m in range(seeds):
        for h in range(heads):
            logits = encoder.scale[h] * (k[:, h] @ q[m, h]) + encoder.prior[cell]
            pooled[m, h] = logits.softmax(0) @ v[:, h]
    hidden = encoder.seed + encoder.output(pooled.flatten(1))
    return encoder.norm(encoder.mix(hidden[None])[0].mean(0))


cells = st.lists(st.lists(st.integers(0, N_PEAKS - 1), min_size=1, max_size=30, unique=True), min_size=1, max_size=6)


@given(cells, st.sampled_from([(1, 4, 2), (1, 1, 0), (3, 4, 1), (2, 2, 0)]))
def test_packed_and_folded_are_softmax_attention(cells, shape):
    network = make(*shape)
    expected = torch.stack([by_hand(network.encoder, cell) for cell in cells])
    torch.testing.assert_close(network.encode(*pack(cells)), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(network.folded().encode(*pack(cells)), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("sharp", [0.0, 1.0, 3.0, 100.0])
def test_folded_equals_training_path_however_sharp(sharp):
    network = make(sharp=sharp)
    generator = np.random.default_rng(0)
    some = [generator.permutation(N_PEAKS)[:n].tolist() for n in (1, 2, 49, 50)]
    folded = network.folded().encode(*pack(some))
    assert torch.isfinite(folded).all()
    torch.testing.assert_close(folded, network.encode(*pack(some)), atol=1e-5, rtol=0)


@given(cells, st.randoms())
def test_the_order_of_peaks_does_not_matter(cells, random):
    folded = make().folded()
    shuffled = [random.sample(cell, len(cell)) for cell in cells]
    torch.testing.assert_close(folded.encode(*pack(cells)), folded.encode(*pack(shuffled)), atol=1e-5, rtol=1e-5)


def test_a_cell_without_peaks_is_nan_and_harms_no_other():
    folded = make().folded()
    some = folded.encode(*pack([[1, 2], [], [3]]))
    assert some[1].isnan().all()
    torch.testing.assert_close(some[[0, 2]], folded.encode(*pack([[1, 2], [3]])))


def test_int32_tokens_are_the_same_tokens():
    folded = make().folded()
    ids, offsets = pack([[1, 2], [3]])
    assert torch.equal(folded.encode(ids, offsets), folded.encode(ids.int(), offsets.int()))


@pytest.mark.parametrize("n_seeds", [1, 3])
def test_every_parameter_learns(n_seeds):
    network = make(n_seeds=n_seeds).train()
    out = network.encode(*pack([[1, 2, 7], [3, 4]]))
    (out * torch.randn_like(out)).sum().backward()
    silent = [name for name, p in network.encoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees_with_the_cpu():
    network = make()
    generator = np.random.default_rng(0)
    some = [generator.permutation(N_PEAKS)[:n].tolist() for n in (1, 20, 50)]
    expected = network.folded().encode(*pack(some))
    network.to("cuda")
    found = network.folded().encode(*(tensor.cuda() for tensor in pack(some))).cpu()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
