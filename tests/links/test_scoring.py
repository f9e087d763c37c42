"""Scores of peaks and genes in groups of real cells."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest

import epifoundation as ep
from epifoundation.links.pairs import Pairs, near_sites
from epifoundation.links.scoring import make_scorer

GENES = pd.DataFrame(
    [
        ("chr19", 41877278, 41881372, "+"),
        ("chr11", 60455808, 60470752, "+"),
        ("chr9", 36833274, 37034182, "-"),
        ("chr2", 112829750, 112836816, "-"),
    ],
    index=["CD79A", "MS4A1", "PAX5", "IL1B"],
    columns=["chrom", "start", "end", "strand"],
)


class World(NamedTuple):
    """Cells, and what a scorer of their peaks needs."""

    cells: object
    peaks: pd.DataFrame
    genes: pd.DataFrame
    pairs: Pairs
    model: object

    def scorer(self, peaks=None, genes=None, build="hg38", **report):
        peaks, genes = (
            mine if given is None else given
            for mine, given in ((self.peaks, peaks), (self.genes, genes))
        )
        report = {"data_genome": build, **report}
        return make_scorer(self.model, genes, genes, peaks, self.pairs, report)

    def n_open(self, *types):
        rows = self.cells.obs["cell_type"].isin(types).to_numpy()
        return np.asarray((self.cells.X[rows] > 0).sum(axis=0)).ravel()

    def score(self, *types, **changed):
        none = np.full(len(self.pairs.gene), np.nan)
        return self.scorer(**changed).score("one", self.n_open(*types), none)

    def table(self, score):
        gene = GENES.index.to_numpy()[self.pairs.gene]
        return pd.DataFrame({"gene": gene, "peak": self.pairs.peak, "score": score})


@pytest.fixture(scope="module")
def world():
    cells = ep.datasets.pbmc_multiome()["atac"]
    genes = ep.genome.read_genes(GENES)
    peaks = ep.genome.read_intervals(cells.var)
    sites = pd.DataFrame({"chrom": genes["chrom"].to_numpy()})
    sites["start"] = ep.genome.transcription_start(genes)
    near = near_sites(sites, peaks, 100_000)
    none = np.zeros(len(near), bool)
    pairs = Pairs(*(near[name].to_numpy() for name in ("site", "peak", "site", "distance")), none)
    return World(cells, peaks, genes, pairs, ep.models.from_pretrained("pbmc-51loci"))


def test_scores_are_high_in_the_cells_that_express_a_gene(world):
    b, monocytes = (
        world.table(world.score(*types)).groupby("gene")["score"].agg(["max", "sum"])
        for types in (("naive B", "memory B"), ("CD14+ Monocytes",))
    )
    assert (b.loc[["CD79A", "MS4A1", "PAX5"], "max"] > 0.7).all()
    assert monocytes.loc["IL1B", "max"] > 0.7
    assert monocytes.loc["IL1B", "sum"] > 1.5 * b.loc["IL1B", "sum"]
    assert b.loc["PAX5", "sum"] > 1.5 * monocytes.loc["PAX5", "sum"]


def test_the_most_similar_sample_is_of_the_same_lineage(world):
    scorer = world.scorer()
    none = np.full(len(world.pairs.gene), np.nan)
    for name in ("naive B", "CD14+ Monocytes"):
        scorer.score(name, world.n_open(name), none)
    assert scorer.report["groups"] == ["naive B", "CD14+ Monocytes"]
    b, monocyte = scorer.report["samples"]
    assert b.lower().startswith(("gm", "cd20", "e032"))
    assert "onocyte" in monocyte or monocyte in ("E029", "E124")
    assert "coaccessibility" in scorer.report["features"]


def test_closed_peaks_have_no_score(world):
    score = world.score("CD14+ Monocytes")
    never = world.n_open("CD14+ Monocytes")[world.pairs.peak] == 0
    assert never.any()
    assert score[never].max() < 0.3
    assert score[never].mean() < 0.2 * score[~never].mean()


def test_scores_do_not_depend_on_the_depth_of_the_group(world):
    none = np.full(len(world.pairs.gene), np.nan)
    n_open = world.n_open("naive B")
    once, thrice = (world.scorer().score("B", times * n_open, none) for times in (1, 3))
    np.testing.assert_allclose(once, thrice)


def test_without_an_atlas_distance_and_activity_remain(world):
    scorer = world.scorer(build="mm10")  # an atlas of human peaks is not asked
    none = np.full(len(world.pairs.gene), np.nan)
    score = scorer.score("B", world.n_open("naive B"), none)
    assert scorer.report["samples"] == []
    assert "coaccessibility" not in scorer.report["features"]
    assert np.isfinite(score).all()
    with_atlas = world.score("naive B")
    assert np.corrcoef(score, with_atlas)[0, 1] > 0.4


def test_a_gene_without_a_peak_at_its_start_has_scores(world):
    """There, without an atlas, it is not known whether the promoter is open."""
    at = ep.genome.transcription_start(world.genes)
    sites = pd.DataFrame({"chrom": world.genes["chrom"].to_numpy(), "start": at})
    moved = world.peaks.copy()
    for chrom, start in sites.to_numpy():
        here = (
            (moved["chrom"] == chrom)
            & (moved["end"] > start - 500)
            & (moved["start"] < start + 500)
        )
        moved.loc[here, ["start", "end"]] += 3000
    score = world.score("naive B", peaks=moved, build="mm10")
    assert (world.table(score).groupby("gene")["score"].max() > 0.05).all()


def test_pvalues_change_scores_only_where_they_inform(world):
    n_open, n = world.n_open("naive B"), len(world.pairs.gene)
    prior = world.score("naive B")
    rng = np.random.default_rng(0)
    uniform = world.scorer().score("B", n_open, rng.uniform(size=n))
    assert np.abs(uniform - prior).mean() < 0.02
    chosen = np.argsort(-prior)[::3][:60]
    pvalue = rng.uniform(size=n)
    pvalue[chosen] = 1e-4
    informed = world.scorer().score("B", n_open, pvalue)
    assert (informed[chosen] >= prior[chosen]).all()
    assert informed[chosen].mean() > prior[chosen].mean() + 0.1


def test_lifted_peaks_have_the_scores_of_their_places(world, shared_data):
    """Peaks and genes on hg19, by way of the chain, against the same on hg38."""
    chain = shared_data.parent / "annotation" / "hg19ToHg38.over.chain.gz"
    peaks, genes, shifts = world.peaks.copy(), world.genes.copy(), []
    place = peaks["start"].to_numpy() + 10**9 * pd.factorize(peaks["chrom"])[0]
    order = np.argsort(place)
    ends = np.flatnonzero(np.diff(place[order]) > 500_000) + 1
    for rows in np.split(peaks.index[order], ends):
        # The builds differ in a locus by a shift: found by lifting a grid of positions
        chrom, start = peaks.loc[rows[0], ["chrom", "start"]]
        grid = np.arange(max(start - 3_000_000, 0), start + 3_000_000, 10_000)
        grid = pd.DataFrame({"chrom": chrom, "start": grid, "end": grid + 500})
        lifted = ep.genome.lift_over(grid, chain)[0]["start"]
        nearest = (lifted - start).abs().idxmin()
        shifts.append(int(lifted[nearest] - grid["start"][nearest]))
        here = (genes["chrom"] == chrom) & ((genes["start"] - start).abs() < 500_000)
        peaks.loc[rows, ["start", "end"]] -= shifts[-1]
        genes.loc[here, ["start", "end"]] -= shifts[-1]
    assert np.mean(np.array(shifts) != 0) > 0.9
    score = world.score(
        "naive B", peaks=peaks, genes=genes, build="hg19", options={"liftover": str(chain)}
    )
    expected = world.score("naive B")
    # A few peaks do not lift over, or to a neighbour, which changes the ranks a little
    assert np.abs(score - expected).mean() < 0.01
    assert np.corrcoef(score, expected)[0, 1] > 0.99
