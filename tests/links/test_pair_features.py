"""Features of pairs, compared with brute force."""

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from epifoundation.links.pair_features import (
    ACTIVE_ELEMENT,
    ACTIVE_PROMOTER,
    DECAY,
    PROMOTER,
    REACH,
    SHORTEST,
    Landscape,
    promoters,
    strongest,
)

chroms = st.sampled_from(["chr1", "chr2"])
elements = st.lists(
    st.tuples(chroms, st.integers(0, 3_000_000), st.floats(0, 3)), min_size=1, max_size=12
)
genes = st.lists(st.tuples(chroms, st.integers(0, 3_000_000)), min_size=1, max_size=8)


def tables(placed, sites):
    table = pd.DataFrame(placed, columns=["chrom", "start", "level"])
    table["end"] = table["start"] + 500
    return table, pd.DataFrame(sites, columns=["chrom", "start"])


@given(elements, genes)
def test_features_are_those_of_brute_force(placed, sites):
    table, sites = tables(placed, sites)
    level = table["level"].to_numpy()
    pair = np.array(
        [
            (i, j)
            for i, element in enumerate(table["chrom"])
            for j, gene in enumerate(sites["chrom"])
            if element == gene
        ],
        dtype=np.int64,
    ).reshape(-1, 2)
    found = Landscape(table, level, sites).features(table, level, sites, pair)
    active = set()
    for _, site in sites.iterrows():
        here = table[table["chrom"] == site["chrom"]]
        near = (here["end"] > max(site["start"] - PROMOTER, 0)) & (
            here["start"] < site["start"] + PROMOTER
        )
        if here.loc[near, "level"].max() > ACTIVE_PROMOTER:
            active.add((site["chrom"], site["start"]))
    for k, (i, j) in enumerate(pair):
        chrom, middle, at = table["chrom"][i], table["start"][i] + 250, sites["start"][j]
        distance = abs(middle - at)
        assert found["distance"][k] == np.log(distance + SHORTEST)
        assert found["activity"][k] == level[i]
        low, high = min(middle, at) + PROMOTER, max(middle, at) - PROMOTER
        starts = [start for other, start in active if other == chrom]
        between = sum(low < start < high for start in starts)
        np.testing.assert_allclose(found["genes_between"][k], np.log1p(between))
        within = max(distance - PROMOTER, 0)
        nearer = sum(middle - within < start < middle + within for start in starts)
        np.testing.assert_allclose(found["nearer_genes"][k], np.log1p(nearer))
        total = 0.0
        for other, start, strength, _ in table[["chrom", "start", "level", "end"]].to_numpy():
            gap = abs(start + 250 - at)
            if other == chrom and gap < REACH and strength > ACTIVE_ELEMENT:
                total += strength / max(gap, SHORTEST) ** DECAY
        np.testing.assert_allclose(found["competition"][k], np.log(total + 1e-6), rtol=1e-6)


@given(elements, genes, st.integers(-1000, 5_000_000))
def test_features_do_not_depend_on_where_a_chromosome_begins_or_on_the_order(placed, sites, shift):
    table, sites = tables(placed, sites)
    level = table["level"].to_numpy()
    sites = sites[sites["chrom"].isin(set(table["chrom"]))].reset_index(drop=True)
    pair = np.argwhere(table["chrom"].to_numpy()[:, None] == sites["chrom"].to_numpy()[None])
    moved, moved_sites = table.copy(), sites.copy()
    for each in (moved, moved_sites):
        for name in ("start", "end"):
            if name in each:
                each[name] += 2_000_000 + shift
    order = np.random.default_rng(0).permutation(len(table))
    rank = np.argsort(order)
    moved, there = moved.iloc[order].reset_index(drop=True), pair.copy()
    there[:, 0] = rank[pair[:, 0]]
    before = Landscape(table.assign(start=table["start"] + 2000, end=table["end"] + 2000), level,
                       sites.assign(start=sites["start"] + 2000))  # fmt: skip
    first = before.features(
        table.assign(start=table["start"] + 2000, end=table["end"] + 2000),
        level,
        sites.assign(start=sites["start"] + 2000),
        pair,
    )
    after = Landscape(moved, level[order], moved_sites)
    second = after.features(moved, level[order], moved_sites, there)
    for name, values in first.items():
        np.testing.assert_allclose(values, second[name], rtol=1e-9, err_msg=name)


def test_promoters_do_not_begin_before_the_chromosome_and_without_elements_are_closed():
    sites = pd.DataFrame({"chrom": ["chr1", "chr9"], "start": [10, 70_000]})
    intervals = promoters(sites)
    assert intervals["start"].tolist() == [0, 69_500]
    table = pd.DataFrame({"chrom": ["chr1", "chr1"], "start": [0, 400], "end": [100, 600]})
    assert strongest(intervals, table, np.array([1.0, 2.0])).tolist() == [2.0, 0.0]
