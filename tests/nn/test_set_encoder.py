"""The encoder against sums written out cell by cell, and its invariances."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from epifoundation.nn import ModelConfig, Network, Sizes
from epifoundation.nn.set_encoder import STD

N_PEAKS = 50


def make(n_seeds=1, n_heads=4, n_layers=2, sharp=1.0):
    torch.manual_seed(0)
    network = Network(ModelConfig(dim=16, n_heads=n_heads, n_seeds=n_seeds, n_layers=n_layers), Sizes(N_PEAKS)).eval()
    with torch.no_grad():
        network.encoder.peak.weight.normal_(std=STD)
        network.encoder.share.uniform_(0, 0.2)
        if n_heads:
            network.encoder.prior.normal_(std=0.5)
            network.encoder.scale.mul_(sharp)
    return network


def pack(cells):
    ids = torch.tensor([i for cell in cells for i in cell], dtype=torch.int64)
    return ids, torch.tensor([0, *np.cumsum([len(cell) for cell in cells])])


def by_hand(encoder, cell, own=None):
    """A weighted sum over one cell's peaks in units of its standard error; `own` is taken out of means over cells that hold it."""
    heads, seeds = encoder.n_heads, encoder.n_seeds
    x = encoder.peak.weight[cell]
    if own is not None:  # of a mean over n + 1 cells, the one of them is taken out: share is 1 / n
        n = 1 / encoder.share[cell, None]
        x = (x * (n + 1) - own) / n
    x = x / STD
    if not encoder.attends:
        pooled = x.sum(0)[None] / len(cell) ** 0.5
    else:
        k = F.normalize(encoder.key(x).view(len(cell), heads, -1), dim=-1)
        v = encoder.value(x).view(len(cell), heads, -1)
        q = F.normalize(encoder.query, dim=-1)
        pooled = torch.empty(seeds, heads, v.shape[-1])
        for m in range(seeds):
            for h in range(heads):
                weight = (encoder.scale[h] * (k[:, h] @ q[m, h]) + encoder.prior[cell]).softmax(0)
                pooled[m, h] = weight @ v[:, h] / weight.square().sum().sqrt()
        pooled = pooled.flatten(1)
    hidden = encoder.seed + encoder.output(pooled)
    return encoder.norm(encoder.mix(hidden[None])[0].mean(0))


cells = st.lists(st.lists(st.integers(0, N_PEAKS - 1), min_size=1, max_size=30, unique=True), min_size=1, max_size=6)


SHAPES = st.sampled_from([(1, 0, 2), (1, 0, 0), (1, 4, 2), (1, 1, 0), (3, 4, 1), (2, 2, 0)])


@given(cells, SHAPES)
def test_packed_and_folded_are_sums_by_hand(cells, shape):
    network = make(*shape)
    expected = torch.stack([by_hand(network.encoder, cell) for cell in cells])
    torch.testing.assert_close(network.encode(*pack(cells)), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(network.folded().encode(*pack(cells)), expected, atol=1e-5, rtol=1e-5)


@given(cells, SHAPES, st.integers(0, 2**31))
def test_a_cell_is_taken_out_of_the_vectors_of_its_peaks(cells, shape, seed):
    network = make(*shape)
    own = torch.randn(len(cells), 16, generator=torch.Generator().manual_seed(seed)) * STD
    own[::2] = torch.nan  # of these cells, nothing is in the vectors
    expected = [by_hand(network.encoder, cell, None if i % 2 == 0 else own[i]) for i, cell in enumerate(cells)]
    found = network.encode(*pack(cells), own)
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-4, rtol=1e-4)


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


@pytest.mark.parametrize(("n_seeds", "n_heads"), [(1, 0), (1, 4), (3, 4)])
def test_every_parameter_learns(n_seeds, n_heads):
    network = make(n_seeds, n_heads).train()
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
