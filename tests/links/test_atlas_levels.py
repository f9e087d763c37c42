"""Levels of elements in an atlas, and their co-accessibility."""

import numpy as np
import pandas as pd
import pytest
import small_atlas
import torch

from epifoundation.links.atlas_levels import AtlasLevels


@pytest.fixture(scope="module")
def atlas():
    model, _ = small_atlas.make()
    model.training["profiles"] = [*small_atlas.SORTED, "liver 1", "liver 2", "K1"]
    return model


def test_levels_are_those_of_the_samples_without_the_sorted_populations(atlas):
    found = AtlasLevels(atlas)
    assert list(found.samples) == ["liver 1", "liver 2", "K1"]
    ids = np.array([5, 3, 700])

    expected = atlas.network.encoder.levels(torch.from_numpy(ids))[:, 3:].numpy()
    np.testing.assert_array_equal(found.of(ids), expected)
    one = found.in_samples(["K1"])
    assert one.shape == (small_atlas.N_PEAKS,)
    np.testing.assert_allclose(one[ids], expected[:, 2])


def test_the_overlapping_element_with_the_highest_mean_is_taken(atlas):
    found = AtlasLevels(atlas)
    both = found.elements.iloc[[10, 11]]
    around = pd.DataFrame(
        {
            "chrom": [both["chrom"].iloc[0], "chrZ"],
            "start": [both["start"].min(), 0],
            "end": [both["end"].max(), 100],
        }
    )
    at = found.at(around)
    here = found.elements
    inside = np.flatnonzero(
        (here["chrom"] == around["chrom"][0])
        & (here["end"] > around["start"][0])
        & (here["start"] < around["end"][0])
    )
    assert at.tolist() == [inside[np.argmax(found.mean[inside])], -1]


def test_coaccessibility_is_the_correlation_over_samples(atlas):
    found = AtlasLevels(atlas)
    elements, genes = np.array([1, -1, 40, 600]), np.array([1, 7, -1])
    pair = np.array([(i, j) for i in range(4) for j in range(3)])
    features = found.features(elements, genes, pair)
    for k, (i, j) in enumerate(pair):
        if elements[i] < 0 or genes[j] < 0:
            assert features["coaccessibility"][k] == 0
            continue
        a, b = found.of(elements[[i]])[0], found.of(genes[[j]])[0]
        expected = np.corrcoef(a, b)[0, 1] if a.std() > 1e-3 and b.std() > 1e-3 else None
        if expected is not None:
            assert features["coaccessibility"][k] == pytest.approx(expected, abs=1e-4)
    assert features["usual_activity"][0] == found.mean[1]
    assert features["usual_activity"][3] == 0
    assert features["usual_promoter"][1] == found.mean[7]
