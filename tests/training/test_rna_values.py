"""Counts are recovered from values that were normalised, and from no others."""

import numpy as np
import pytest
import scipy.sparse as sp

from epifoundation.training.rna_values import as_counts, scale_of_values

RNG = np.random.default_rng(0)
COUNTS = sp.csr_matrix(RNG.poisson(0.5, (50, 200)).astype(np.float32))


def normalised(total):
    factors = total / np.asarray(COUNTS.sum(axis=1)).ravel()
    return sp.csr_matrix(sp.diags(factors) @ COUNTS).astype(np.float32)


@pytest.mark.parametrize("total", [1e4, 1e6, 500])
@pytest.mark.parametrize(
    ("scale", "change"),
    [
        ("normalised counts", lambda x: x),
        ("log1p of normalised counts", np.log1p),
        ("log2(x + 1) of normalised counts", lambda x: np.log2(x + 1)),
    ],
)
def test_counts_are_recovered(scale, change, total):
    values = normalised(total)
    values.data = change(values.data)
    assert scale_of_values(values) == scale
    assert (as_counts(values, scale) != COUNTS).nnz == 0


def test_counts_stay_as_they_are():
    assert scale_of_values(COUNTS.astype(np.int64)) == "counts"
    assert (as_counts(COUNTS, "counts") != COUNTS).nnz == 0


def test_stored_zeros_and_empty_cells():
    values = normalised(1e4).log1p()
    values.data[:5] = 0
    values = sp.vstack([values, sp.csr_matrix((1, 200))], format="csr").astype(np.float32)
    assert scale_of_values(values) == "log1p of normalised counts"
    assert as_counts(values, "log1p of normalised counts").shape == (51, 200)


@pytest.mark.parametrize(
    "values",
    [
        RNG.normal(size=(50, 200)),
        RNG.random((50, 200)),
        np.log1p(RNG.random((50, 200)) * 10),
        np.full((5, 5), np.nan),
        np.where(RNG.random((50, 200)) < 0.5, 1e300, 0.3),
    ],
    ids=["scaled", "smoothed", "logarithms", "missing", "huge"],
)
def test_other_values_are_not_counts(values):
    assert scale_of_values(sp.csr_matrix(values)) is None
