"""Labels that are refined on the cells of the data."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from small_atlas import draw, make

import epifoundation as ep
from epifoundation.inference import refinement
from epifoundation.inference.refinement import Refinement


def start(seed, n_cells=12, n_peaks=30, n_labels=3):
    rng = np.random.default_rng(seed)
    tokens = sp.csr_matrix((rng.random((n_cells, n_peaks)) < 0.3).astype(float))
    tokens = tokens[tokens.getnnz(axis=1) > 0]
    probabilities = rng.dirichlet(np.ones(n_labels), tokens.shape[0])
    ratios = rng.uniform(0.5, 2, (len(np.unique(tokens.indices)), n_labels))
    hashes = rng.integers(0, 2**63, tokens.shape[0]).astype(np.uint64)
    return tokens, probabilities, ratios, hashes


@given(st.integers(0, 500))
def test_a_counted_cell_is_left_out_and_any_other_is_not(seed):
    tokens, probabilities, ratios, hashes = start(seed)
    found = Refinement.fit(tokens, probabilities, ratios, hashes)
    for cell in (0, tokens.shape[0] - 1):
        ids, offsets = tokens[cell].indices, np.array([0, tokens[cell].nnz])
        row = np.searchsorted(found.hashes, hashes[cell])
        for is_counted in (True, False):
            own = found.responsibilities[row] if is_counted else 0 * found.responsibilities[row]
            place = np.searchsorted(found.peaks, ids)
            left = found.opened.copy()
            left[place] -= own
            log = np.log(left[place] / left.sum(axis=0) / found.base[place, None]).sum(axis=0)
            odds = np.log(probabilities[cell]) + np.log(found.share + 1e-6)
            odds += refinement.WEIGHT / np.sqrt(len(ids)) * log
            expected = np.exp(refinement.SHARPNESS * (odds - odds.max()))
            key = hashes[cell : cell + 1] if is_counted else np.array([1], np.uint64)
            got = found.apply(ids, offsets, probabilities[cell : cell + 1], key)[0]
            np.testing.assert_allclose(got, expected / expected.sum(), rtol=1e-6, atol=1e-9)


@given(st.integers(0, 500))
def test_the_order_of_cells_does_not_matter(seed):
    tokens, probabilities, ratios, hashes = start(seed)
    order = np.random.default_rng(seed).permutation(tokens.shape[0])
    a = Refinement.fit(tokens, probabilities, ratios, hashes)
    b = Refinement.fit(tokens[order], probabilities[order], ratios, hashes[order])
    for name in ("opened", "share", "responsibilities"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-6, atol=1e-9)


def test_rare_labels_keep_their_probability_and_peaks_that_were_closed_say_nothing():
    tokens, probabilities, ratios, hashes = start(0)
    probabilities = np.column_stack([probabilities * 0.999, np.full(len(probabilities), 0.001)])
    ratios = np.column_stack([ratios, np.ones(len(ratios))])
    found = Refinement.fit(tokens, probabilities, ratios, hashes)
    assert found.kept.tolist() == [0, 1, 2]
    new = np.array([99, 105]), np.array([0, 2]), probabilities[:1], np.array([1], np.uint64)
    got = found.apply(*new)
    assert got[0, 3] == pytest.approx(0.001)
    odds = np.log(probabilities[0, :3]) + np.log(found.share + 1e-6)
    expected = np.exp(refinement.SHARPNESS * odds)
    np.testing.assert_allclose(got[0, :3], 0.999 * expected / expected.sum(), rtol=1e-6)


@pytest.fixture(scope="module")
def distorted():
    """An atlas, and shallow cells whose populations differ from it in most of their peaks."""
    model, table = make()
    rng = np.random.default_rng(5)
    cells_of = table[:, [0, 2]].copy()
    for column in range(2):
        own = np.flatnonzero(cells_of[:, column] == 2)
        lost = rng.permutation(own)[: len(own) * 3 // 4]
        cells_of[lost, column] = 0
        new = rng.permutation(np.flatnonzero((table == 0).all(axis=1) | (table[:, 3] == 2)))
        cells_of[new[60 * column : 60 * column + 60], column] = 2
    truth = np.repeat([0, 1], [300, 100])
    return model, draw(cells_of, truth, 25, rng, background=0.3), truth


def test_refined_labels_are_more_accurate_and_say_so(distorted):
    model, atac, truth = distorted
    right = {}
    for refine in (False, True):
        found = ep.tl.annotate(atac, model, refine=refine, unknown=0, copy=True)
        labels = found.obs["epifoundation_cell_type"].astype(str).to_numpy()
        right[refine] = (labels == np.array(["A", "B"])[truth]).mean()
        assert found.uns["epifoundation_annotation"].get("refined", False) == refine
    assert right[True] > right[False] + 0.02
    assert found.uns["epifoundation_annotation"]["refined_on_cells"] == 400


def test_files_blocks_and_batches_give_the_same_refined_labels(distorted, tmp_path):
    model, atac, _ = distorted
    expected = ep.get.probabilities(ep.tl.annotate(atac, model, refine=True, copy=True))
    paths = [tmp_path / "a.h5ad", tmp_path / "b.h5ad"]
    for path, part in zip(paths, (atac[:150], atac[150:]), strict=True):
        part.copy().write_h5ad(path)
    out = ep.tl.annotate(paths, model, refine=True, output=tmp_path / "out.h5ad")
    np.testing.assert_allclose(ep.get.probabilities(out).to_numpy(), expected, atol=1e-6)


def test_only_an_atlas_without_a_reference_is_refined(distorted, model, simulated):
    atlas, atac, _ = distorted
    with pytest.raises(ValueError, match="needs the labels of an atlas"):
        ep.tl.annotate(simulated["atac"].copy(), model, refine=True)
    before = atac.copy()
    with pytest.raises(ValueError, match="leave out `reference=` or `refine`"):
        ep.tl.annotate(atac, atlas, refine=True, reference=atac, label_key="profile")
    empty = before[:3].copy()
    empty.X = empty.X * 0
    empty.X.eliminate_zeros()
    with pytest.raises(ValueError, match="has nothing to learn"):
        ep.tl.annotate(empty, atlas, refine=True)
