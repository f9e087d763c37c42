"""Vectors that are stored with 8 bits."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from epifoundation.nn import CodedVectors
from epifoundation.nn.coded_vectors import AT_ONCE


def table(n_peaks, width, seed):
    rng = np.random.default_rng(seed)
    vectors = CodedVectors(n_peaks, width)
    codes = rng.integers(0, 256, (width, n_peaks), dtype=np.uint8)
    scale, shift = rng.uniform(0.1, 2, width), rng.normal(size=width)
    arrays = {"codes": codes, "scale": scale.astype("f4"), "shift": shift.astype("f4")}
    vectors.load_state_dict({name: torch.from_numpy(each) for name, each in arrays.items()})
    return vectors, (codes.T.astype(float) - 128) * scale + shift


@given(st.integers(1, 40), st.integers(1, 7), st.integers(0, 100))
def test_codes_are_decoded_and_summed(n_peaks, width, seed):
    vectors, expected = table(n_peaks, width, seed)
    np.testing.assert_allclose(vectors.weight.numpy(), expected, rtol=1e-5, atol=1e-4)
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, 5, 4)
    ids, offsets = rng.integers(0, n_peaks, sizes.sum()), np.cumsum([0, *sizes])
    sums = vectors.sums(torch.from_numpy(ids), torch.from_numpy(offsets)).numpy()
    for i, n in enumerate(sizes):
        of_cell = expected[ids[offsets[i] : offsets[i + 1]]].sum(axis=0)
        np.testing.assert_allclose(sums[i], of_cell, rtol=1e-4, atol=1e-3)
        assert n or not sums[i].any()


def test_rows_are_those_of_the_table_also_beyond_one_part():
    vectors, expected = table(AT_ONCE + 10, 3, 0)
    ids = torch.tensor([0, 5, AT_ONCE - 1, AT_ONCE, AT_ONCE + 9])
    torch.testing.assert_close(vectors.rows(ids), vectors.weight[ids])
    np.testing.assert_allclose(vectors.rows(ids).numpy(), expected[ids], rtol=1e-5, atol=1e-4)


def test_decoded_vectors_follow_the_codes():
    vectors, _ = table(20, 2, 0)
    first = vectors.weight
    assert vectors.weight is first  # decoded once
    vectors.to(torch.float32)
    assert "_decoded" not in vectors.state_dict()
    vectors.scale.mul_(2)
    vectors.to("cpu")
    torch.testing.assert_close(vectors.weight - vectors.shift, 2 * (first - vectors.shift))
