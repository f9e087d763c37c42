"""Pairs of genes and peaks, and controls, compared with brute force."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import epifoundation as ep
from epifoundation.links.pairs import find_pairs, near_sites


@pytest.fixture(scope="module")
def data():
    return ep.datasets.simulate_multiome(20, 1500, 60, rng=5)


def test_controls_are_near_other_genes_and_far_from_their_own(data):
    sites, peaks = ep.genome.read_genes(data["rna"].var), ep.genome.read_intervals(data["atac"].var)
    pairs, n_elsewhere = find_pairs(
        sites, sites, peaks, np.ones(len(peaks), bool), 20_000, np.random.default_rng(0)
    )
    assert n_elsewhere > 0  # chromosomes of 400 kb are short
    at, chrom = sites["start"].to_numpy(), sites["chrom"].to_numpy()
    same = peaks["chrom"].to_numpy()[pairs.peak] == chrom[pairs.gene]
    gap = np.abs(peaks["start"].to_numpy()[pairs.peak] - at[pairs.gene])
    assert (same & (gap <= 20_500))[~pairs.is_control].all()
    assert (~same | (gap > 19_000))[pairs.is_control].all()
    assert (np.bincount(pairs.locus, pairs.is_control) % np.bincount(pairs.locus) == 0).all()
    assert len(near_sites(sites.iloc[:0], peaks, 100)) == 0


places = st.lists(st.tuples(st.sampled_from(["chr1", "chr2"]), st.integers(0, 300)), max_size=8)


@given(places, places, st.integers(1, 80), st.integers(1, 150))
def test_near_sites_are_those_of_brute_force(sites, peaks, width, max_distance):
    at = pd.DataFrame(sites, columns=["chrom", "start"])
    intervals = pd.DataFrame(peaks, columns=["chrom", "start"])
    intervals["end"] = intervals["start"] + width
    expected = [
        (i, j, max(start - site, site - (start + width - 1), 0))
        for i, (chrom, site) in enumerate(sites)
        for j, (other, start) in enumerate(peaks)
        if chrom == other and max(start - site, site - (start + width - 1)) <= max_distance
    ]
    found = near_sites(at.astype({"chrom": object}), intervals, max_distance)
    assert sorted(map(tuple, found[["site", "peak", "distance"]].to_numpy())) == expected


def test_peaks_that_the_model_does_not_know_are_neither_candidates_nor_controls(data):
    genes = ep.genome.read_genes(data["rna"].var)
    peaks = ep.genome.read_intervals(data["atac"].var)
    known = np.random.default_rng(0).random(len(peaks)) < 0.5
    pairs, _ = find_pairs(genes[:5], genes, peaks, known, 20_000, np.random.default_rng(0))
    assert known[pairs.peak].all()
    site = ep.genome.transcription_start(genes[:5])
    near = [
        (gene, peak)
        for gene in range(5)
        for peak in np.flatnonzero(known & (peaks["chrom"] == genes["chrom"].iloc[gene]))
        if peaks["start"][peak] - 20_000 <= site[gene] <= peaks["end"][peak] - 1 + 20_000
    ]
    tested = ~pairs.is_control
    assert sorted(zip(pairs.gene[tested], pairs.peak[tested], strict=True)) == near
