"""The regression behind a label head: what a cell counts, and that rare labels are told."""

import numpy as np
import pandas as pd
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

import epifoundation as ep
from epifoundation.batches import balanced_weights
from epifoundation.nn import ModelConfig, Network, Sizes
from epifoundation.tl._label_head import head_on
from epifoundation.vocabulary import PeakVocabulary


@given(st.lists(st.integers(1, 500), min_size=2, max_size=6), st.floats(0, 1))
def test_power_one_makes_labels_equal_zero_makes_cells_equal(counts, power):
    counts = np.array(counts)
    weights = balanced_weights(counts, power)
    np.testing.assert_allclose((weights * counts).sum(), counts.sum())
    np.testing.assert_allclose(balanced_weights(counts, 0), 1)
    np.testing.assert_allclose(np.ptp(balanced_weights(counts, 1) * counts), 0, atol=1e-9 * counts.sum())
    assert (np.diff(weights[np.argsort(counts)]) <= 1e-12).all()


def test_rare_labels_are_told_more_often_than_by_a_regression_that_counts_cells():
    rng = np.random.default_rng(0)
    codes = rng.choice(3, 2000, p=[0.8, 0.15, 0.05])
    embedding = (np.eye(3, 8)[codes] * 1.5 + rng.standard_normal((2000, 8))).astype(np.float32)
    labels = pd.Series(np.array(["a", "b", "c"])[codes])
    peaks = PeakVocabulary(pd.DataFrame({"chrom": ["chr1"], "start": [0], "end": [10]}))
    model = ep.EpiFoundation(Network(ModelConfig(dim=8), Sizes(1)), peaks, [])
    fitted, loss = head_on(model, embedding, labels, np.arange(1000), np.arange(1000, 1500))
    logits = fitted.network.label.logits(torch.from_numpy(embedding[1500:])).detach().numpy()
    of_cells = LogisticRegression(C=0.03).fit(embedding[:1000], codes[:1000])
    true, found = codes[1500:], logits.argmax(axis=1)
    assert (found == 2).sum() > (of_cells.predict(embedding[1500:]) == 2).sum()
    assert ep.metrics.macro_f1(true, found) > ep.metrics.macro_f1(true, of_cells.predict(embedding[1500:]))
    assert 0 < loss < np.log(3)
