"""Levels of profiles, and the head that is fitted to simulated cells, against plain formulas."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from epifoundation.nn import BulkHead
from epifoundation.training.bulk_labels import fit_bulk_head, simulate_cells
from epifoundation.training.bulk_profiles import BulkProfiles, levels_of


@pytest.fixture
def profiles(rng):
    """Three types, each with 500 peaks of 6000 to itself."""
    levels = rng.integers(0, 2, (6000, 3)).astype(np.float32)
    for i in range(3):
        levels[i * 500 : i * 500 + 500] = 2 * (np.arange(3) == i)
    return BulkProfiles(["a", "b", "c"], np.arange(6000) * 3 + 1, levels)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_levels_are_of_the_highest_tenth_and_fifth(rng):
    values = np.stack([rng.permutation(100), rng.permutation(100) < 5], axis=1).astype(float)
    levels = levels_of(values)
    assert (levels[:, 0] == np.where(values[:, 0] >= 90, 2, values[:, 0] >= 80)).all()
    assert (levels[:, 1] == 2 * values[:, 1]).all()  # closed peaks are never among them
    np.testing.assert_array_equal(levels, levels_of(np.expm1(values / 50)))


def test_scores_are_sums_of_log_ratios_over_the_root_of_their_number(profiles, rng):
    head = fit_bulk_head(profiles, rng)
    cells = rng.random((5, 19_000)) < 0.01
    cells[3] = False
    tokens = sp.csr_matrix(cells)
    found = head.scores(torch.from_numpy(tokens.indices), torch.from_numpy(tokens.indptr)).numpy()
    rates = (profiles.levels + 1.0) / (profiles.levels + 1.0).sum(axis=0)
    ratio = np.log(rates / rates.mean(axis=1, keepdims=True))
    ratio -= ratio.mean(axis=1, keepdims=True)
    mean = rates.mean(axis=1)
    ratio /= np.sqrt(((mean @ ratio**2) - (mean @ ratio) ** 2).mean())
    for row, cell in zip(found, cells[:, profiles.peaks], strict=True):
        if not cell.any():
            assert np.isnan(row).all()
        else:
            np.testing.assert_allclose(
                row, ratio[cell].sum(axis=0) / np.sqrt(cell.sum()), rtol=1e-4
            )


def test_probabilities_are_calibrated_on_new_simulated_cells(profiles, rng):
    head = fit_bulk_head(profiles, rng)
    rates = (profiles.levels + 1.0) / (profiles.levels + 1.0).sum(axis=0)
    cells, types = simulate_cells(rates, np.random.default_rng(1))
    ids = torch.from_numpy(profiles.peaks[cells.indices])
    scores = head.scores(ids, torch.from_numpy(cells.indptr))
    likely = head(scores).numpy()
    right = likely.argmax(axis=1) == types
    assert abs(likely.max(axis=1).mean() - right.mean()) < 0.03
    assert right.mean() > 0.6
    energy = head.score_novelty(scores)
    assert abs(float(energy.mean())) < 0.1
    assert abs(float(energy.std()) - 1) < 0.1


def test_simulated_cells_are_of_their_type(profiles):
    rates = (profiles.levels + 0.0) / profiles.levels.sum(axis=0)
    cells, types = simulate_cells(rates, np.random.default_rng(2))
    of_type = np.stack([cells[:, i * 500 : i * 500 + 500].sum(axis=1).A1 for i in range(3)], axis=1)
    means = np.array([np.asarray(of_type)[types == i].mean(axis=0) for i in range(3)])
    assert (means.argmax(axis=1) == np.arange(3)).all()
    assert (np.bincount(types) >= 600).all()
    assert (cells.data == 1).all()
    again, _ = simulate_cells(rates, np.random.default_rng(2))
    assert (again != cells).nnz == 0


def test_more_evidence_is_less_novel():
    head = BulkHead(3, 2, 1)
    none, some = head.score_novelty(torch.tensor([[0.0, 0.0], [3.0, -3.0]]))
    assert none > some
