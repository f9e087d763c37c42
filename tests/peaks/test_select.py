"""Peaks selected by name or region, compared with brute force."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epifoundation.peaks.select import select_peaks

spans = st.tuples(st.sampled_from(["chr1", "chr2"]), st.integers(0, 60), st.integers(1, 15))


def text(chrom, start, width):
    return f"{chrom}:{start}-{start + width}"


@given(
    st.lists(spans, min_size=1, max_size=10, unique=True), st.lists(spans, max_size=3), st.data()
)
def test_names_and_regions_are_those_of_brute_force(peaks, regions, data):
    names = [text(*peak) for peak in peaks]
    chosen = data.draw(st.lists(st.sampled_from(names), max_size=3))
    regions = [region for region in regions if text(*region) not in names]
    expected = np.isin(names, chosen)
    n_empty = 0
    for chrom, start, width in regions:
        hits = [c == chrom and s < start + width and start < s + w for c, s, w in peaks]
        n_empty += not any(hits)
        expected |= hits
    asked = data.draw(st.permutations([*chosen, *(text(*region) for region in regions)]))
    var = pd.DataFrame(index=names)
    if not asked or n_empty:
        with pytest.raises(ValueError, match="`peaks` is empty" if not asked else "No peak"):
            select_peaks(var, asked)
        return
    assert select_peaks(var, asked).tolist() == expected.tolist()
    if len(asked) == 1:
        assert select_peaks(var, asked[0]).tolist() == expected.tolist()


def test_a_peak_is_named_by_its_name_and_regions_by_the_columns():
    var = pd.DataFrame(
        {"chrom": "chr1", "start": [100, 300], "end": [200, 400]}, index=["first", "chr1:100-200"]
    )
    assert select_peaks(var, "first").tolist() == [True, False]
    assert select_peaks(var, "chr1:100-200").tolist() == [False, True]  # the name, not the place
    assert select_peaks(var, "chr1:150-160").tolist() == [True, False]
    assert select_peaks(var, ["first", "chr1:399-900"]).tolist() == [True, True]


@pytest.mark.parametrize(
    ("peaks", "message"),
    [
        ("nonsense", r"neither a peak of the data nor a region: \['nonsense'\].*like 'chr1:10-20'"),
        (["chr1:10-20", "x", "y"], r"neither a peak of the data nor a region: \['x', 'y'\]"),
        (
            "chr1:1-5",
            (
                r"No peak of the data overlaps 'chr1:1-5' \(1 such regions\); "
                "the nearest, chr1:10-20, is 5 bases away"
            ),
        ),
        ("chr1:31-1000", "the nearest, chr1:10-20, is 11 bases away"),
        ("chr21:1-500", r"the data have no peak on chr21; available: \['chr1', 'chr2'\]"),
        ([], "`peaks` is empty: name at least one"),
    ],
)
def test_errors_name_the_region_and_the_nearest_peak(peaks, message):
    var = pd.DataFrame(index=["chr1:10-20", "chr2:10-20"])
    with pytest.raises(ValueError, match=message):
        select_peaks(var, peaks)
