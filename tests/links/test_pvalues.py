"""P-values of effects: uniform without effects, small with, with one error rate for all genes."""

import numpy as np
import pandas as pd

from epifoundation.links.pvalues import bonferroni_min, embedding_pvalues, measured_pvalues
from epifoundation.links.qvalues import weighted_qvalues


def test_pvalues_are_uniform_without_effects_and_small_with():
    rng = np.random.default_rng(1)
    effect, n_open = rng.normal(size=6000), rng.integers(1, 500, 6000)
    effect *= 1 / np.sqrt(n_open)  # as noise is: more in few cells
    is_control = np.arange(6000) >= 1000
    pvalue = measured_pvalues(effect, np.arange(6000) % 7, n_open, is_control, 1)[:1000]
    assert abs(np.mean(pvalue < 0.1) - 0.1) < 0.03
    effect[:20] = 5
    assert measured_pvalues(effect, np.arange(6000) % 7, n_open, is_control, 1)[:20].max() < 0.002
    n_open[5] = 4
    assert np.isnan(measured_pvalues(effect, np.arange(6000) % 7, n_open, is_control, 5)[5])

    peaks = pd.DataFrame({"chrom": "chr1", "start": np.arange(2000) * 1000})
    sites = pd.DataFrame(
        {"chrom": ["chr1"] * 5, "start": [200_000, 500_000, 900_000, 1_200_000, 1_800_000]}
    )
    moved, directions = rng.normal(size=(2000, 8)), rng.normal(size=(5, 8))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    gene = np.repeat(np.arange(5), 60)
    peak = np.concatenate([at // 1000 + np.arange(-30, 30) for at in sites["start"]])
    moved[peak[7]] = directions[0]
    pvalue = embedding_pvalues(
        moved,
        directions,
        (gene, peak),
        sites,
        peaks,
        np.ones(2000, bool),
        np.full(2000, 50),
        30_000,
        1,
        rng,
    )
    assert pvalue[7] < 0.001
    assert abs(np.mean(np.delete(pvalue, 7) < 0.2) - 0.2) < 0.08


def test_bonferroni_min():
    first, second = np.array([0.01, np.nan, 0.9]), np.array([0.5, 0.2, 0.8])
    np.testing.assert_allclose(bonferroni_min(first, second), [0.02, 0.4, 1])
    assert bonferroni_min(first, None) is first


def test_genes_that_differ_in_noise_and_in_peaks_share_one_error_rate():
    """Noise alone: one gene with many peaks and large effects, many with few and small ones."""
    gene = np.concatenate(
        [np.zeros(100, int), np.repeat(np.arange(1, 40), 5), np.repeat(np.arange(40), 500)]
    )
    is_control = np.arange(len(gene)) >= 100 + 195
    n_found = 0
    for seed in range(5):
        effect = np.random.default_rng(seed).normal(size=len(gene)) * np.where(gene == 0, 1.0, 0.01)
        pvalue = measured_pvalues(effect, gene, np.full(len(gene), 30), is_control, 10)
        tested = ~is_control
        n_found += (weighted_qvalues(pvalue[tested], np.zeros(295), gene[tested]) < 0.1).sum()
    assert n_found <= 3
