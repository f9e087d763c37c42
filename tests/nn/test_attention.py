"""Every kernel against plain softmax attention, sequence by sequence."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from epifoundation.nn import attention
from epifoundation.nn.attention import PackedAttention, blocked


def make(lengths, heads=2, width=8, seed=0, scale=1.0):
    torch.manual_seed(seed)
    offsets = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()])
    return offsets, [scale * torch.randn(int(offsets[-1]), heads, width) for _ in range(3)]


def plainly(q, k, v):
    """One sequence, (n, heads, width)."""
    logits = torch.einsum("qhw,khw->hqk", q, k) / q.shape[-1] ** 0.5
    return torch.einsum("hqk,khw->qhw", logits.softmax(-1), v)


def by_sequence(offsets, q, k, v, *, one=False):
    parts = []
    for i, (start, stop) in enumerate(itertools.pairwise(offsets)):
        own = slice(int(start), int(stop))
        parts.append(plainly(q[i : i + 1] if one else q[own], k[own], v[own]))
    return torch.cat(parts)


lengths = st.lists(st.integers(1, 40), min_size=1, max_size=12)


@given(lengths, st.integers(0, 100))
def test_packed_sequences_do_not_see_each_other(lengths, seed):
    offsets, (q, k, v) = make(lengths, seed=seed)
    attend = PackedAttention(offsets)
    torch.testing.assert_close(attend(q, k, v), by_sequence(offsets, q, k, v), atol=2e-6, rtol=1e-5)
    first = q[offsets[:-1]]
    torch.testing.assert_close(
        attend(first, k, v), by_sequence(offsets, first, k, v, one=True), atol=2e-6, rtol=1e-5
    )


@given(lengths)
def test_buckets_hold_each_sequence_once_and_little_padding(lengths):
    offsets, _ = make(lengths)
    buckets = PackedAttention(offsets).buckets
    assert sorted(torch.cat(buckets).tolist()) == list(range(len(lengths)))
    for bucket in buckets:
        own = torch.tensor(lengths)[bucket]
        assert own.max() <= 1.125 * own.min() + 4


def test_gradients_are_those_of_plain_attention():
    offsets, tensors = make([5, 6, 30, 5])
    for tensor in tensors:
        tensor.requires_grad_(True)
    weight = torch.randn(46, 2, 8)
    ours = torch.autograd.grad((PackedAttention(offsets)(*tensors) * weight).sum(), tensors)
    theirs = torch.autograd.grad((by_sequence(offsets, *tensors) * weight).sum(), tensors)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 30.0])
@pytest.mark.parametrize("heads", [1, 2, 3])
def test_blocks_of_queries_are_exact_with_small_and_with_large_logits(scale, heads):
    q, k, v = (tensor.double() for tensor in make([700], heads=heads, scale=scale)[1])
    with torch.inference_mode():
        torch.testing.assert_close(blocked(q, k, v), plainly(q, k, v))


def test_blocks_are_taken_for_long_sequences_in_bfloat16(monkeypatch):
    offsets, tensors = make([600, 20, 900, 610])
    tensors = [tensor.bfloat16() for tensor in tensors]
    calls = []
    monkeypatch.setattr(attention, "blocked", lambda *args: calls.append(1) or blocked(*args))
    with torch.inference_mode():
        ours = PackedAttention(offsets)(*tensors)
    assert len(calls) == 3  # the short one has no part in it
    for i, (start, stop) in enumerate(itertools.pairwise(offsets)):  # alone or among others
        with torch.inference_mode():
            alone = PackedAttention(torch.tensor([0, stop - start]))(
                *(tensor[start:stop] for tensor in tensors)
            )
        torch.testing.assert_close(
            alone, ours[start:stop], atol=1e-3 if i != 1 else 0.02, rtol=0.02
        )
    expected = by_sequence(offsets, *(tensor.float() for tensor in tensors))
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours.float(), expected, atol=0.02, rtol=0.02)


def test_the_kernel_for_packed_sequences_gets_shapes_and_bounds_that_it_takes(monkeypatch):
    """The path of CUDA with its kernel replaced by a reference that is as strict."""

    def reference(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k):
        for tensor in (cu_seq_q, cu_seq_k):
            assert tensor.dtype == torch.int32
            assert tensor.is_contiguous()
        assert query.ndim == key.ndim == value.ndim == 3
        assert query.stride(-1) == key.stride(-1) == value.stride(-1) == 1
        assert cu_seq_q[-1] == len(query)
        assert cu_seq_k[-1] == len(key) == len(value)
        assert int(cu_seq_q.diff().max()) == max_q
        assert int(cu_seq_k.diff().max()) == max_k
        parts = [
            plainly(query[a:b], key[c:d], value[c:d])
            for a, b, c, d in zip(
                cu_seq_q[:-1], cu_seq_q[1:], cu_seq_k[:-1], cu_seq_k[1:], strict=True
            )
        ]
        return torch.cat(parts)

    varlen = pytest.importorskip(
        "torch.nn.attention.varlen", reason="torch before 2.10 has no such kernel"
    )
    offsets, (q, k, v) = make([3, 1, 17, 5])
    plain, first = (
        PackedAttention(offsets)(q, k, v),
        PackedAttention(offsets)(q[offsets[:-1]], k, v),
    )
    monkeypatch.setattr(attention, "has_varlen", lambda tensor: True)
    monkeypatch.setattr(varlen, "varlen_attn", reference)
    torch.testing.assert_close(PackedAttention(offsets)(q, k, v), plain, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(
        PackedAttention(offsets)(q[offsets[:-1]], k, v), first, atol=2e-6, rtol=1e-5
    )


def test_that_kernel_is_not_for_the_cpu_nor_for_full_precision():
    assert not attention.has_varlen(torch.zeros(2, 2, 8, dtype=torch.bfloat16))
    assert not attention.has_varlen(torch.zeros(2, 2, 8))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cuda_kernels_against_plain_attention(dtype):
    offsets, tensors = make([3, 1, 500, 480, 2000], heads=4, width=64)
    expected = by_sequence(offsets, *tensors)
    packed = PackedAttention(offsets.cuda())
    tensors = [tensor.cuda().to(dtype) for tensor in tensors]
    tolerance = 1e-4 if dtype == torch.float32 else 0.02
    torch.testing.assert_close(
        packed(*tensors).float().cpu(), expected, atol=tolerance, rtol=tolerance
    )
    first = tensors[0][offsets[:-1].cuda()]
    torch.testing.assert_close(
        packed(first, *tensors[1:]).float().cpu(),
        expected[offsets[:-1]],
        atol=tolerance,
        rtol=tolerance,
    )
