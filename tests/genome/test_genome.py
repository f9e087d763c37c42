"""Interval names in all styles against the columns they encode; overlaps against brute force."""

import gzip

import bioframe
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epifoundation.genome import (
    BUILDS,
    Axis,
    detect_build,
    lift_over,
    misplaced,
    overlaps,
    parse_intervals,
    read_intervals,
)
from epifoundation.genome._chromosome_lengths import chromosome_lengths

chroms = st.sampled_from(["chr1", "chr22", "chrX", "chrM", "chr1_KI270706v1_random", "GL000194.1"])
intervals = st.lists(
    st.tuples(chroms, st.integers(0, 10**9), st.integers(1, 10**4)), min_size=1, max_size=20
)


def frame(rows):
    return pd.DataFrame(rows, columns=["chrom", "start", "end"]).astype({"chrom": object})


@given(intervals, st.sampled_from(["{}:{}-{}", "{}-{}-{}", "{}_{}_{}", "{}:{:,}-{:,}"]))
def test_names_of_every_style_are_read(rows, style):
    rows = [(chrom, start, start + width) for chrom, start, width in rows]
    pd.testing.assert_frame_equal(
        parse_intervals([style.format(*row) for row in rows]), frame(rows)
    )


def test_bare_chromosomes_get_their_prefix():
    assert parse_intervals(["1:5-9", "X:5-9", "MT:5-9", "GL1.1:5-9"])["chrom"].tolist() == [
        "chr1",
        "chrX",
        "chrM",
        "GL1.1",
    ]


@pytest.mark.parametrize("column", ["interval", None])
def test_columns_come_before_names(column):
    var = pd.DataFrame({"interval": ["chr1:1-2"]}, index=["chr2:3-4"])
    if column is None:
        var = var.assign(chrom="chr9", start=7, end=8)
    assert read_intervals(var).iloc[0].tolist() == (["chr1", 1, 2] if column else ["chr9", 7, 8])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["chr1:1-2", "ENSG00000132465"],
            "1 of 2 peak names are not genomic intervals, first 'ENSG00000132465'",
        ),
        (["chr1:9-3"], "first chr1:9-3"),
        (["chr1:3-3"], "0 <= start < end"),
    ],
)
def test_names_that_are_not_intervals_are_named(names, message):
    with pytest.raises(ValueError, match=message):
        parse_intervals(names)


@pytest.mark.parametrize(
    ("column", "value"),
    [("start", np.nan), ("start", "here"), ("chrom", None), ("end", -4), ("end", 10**18)],
)
def test_columns_that_are_not_intervals_are_named(column, value):
    var = pd.DataFrame({"chrom": ["chr1", "chr2"], "start": [1, 3], "end": [2, 4]}, dtype=object)
    var.loc[1, column] = value
    with pytest.raises(ValueError, match=r"1 of 2 intervals.*Expected 0 <= start < end"):
        read_intervals(var)


spans = st.lists(
    st.tuples(st.sampled_from(["chr1", "chr2"]), st.integers(0, 60), st.integers(1, 30)),
    max_size=12,
)


@given(spans, spans, st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_overlaps_against_brute_force(a, b, min_fraction):
    a, b = ([(c, s, s + w) for c, s, w in rows] for rows in (a, b))
    expected = [
        [i, j]
        for i, (chrom, start, end) in enumerate(a)
        for j, (other, first, last) in enumerate(b)
        if chrom == other
        and (shared := min(end, last) - max(start, first)) > 0
        and shared >= min_fraction * min(end - start, last - first)
    ]
    assert overlaps(frame(a), frame(b), min_fraction=min_fraction).tolist() == expected
    assert overlaps(frame(a), frame(b)).dtype == np.int64


def test_positions_past_two_to_the_31_are_kept_apart():
    """Concatenated contigs are longer than 32 bits can hold."""
    names = ["a", "b", "c"]
    size = 2**31 - 2
    axis = Axis(
        pd.DataFrame(
            {"chrom": names * 2, "start": [0] * 3 + [size] * 3, "end": [10] * 3 + [size + 10] * 3}
        )
    )
    assert axis.start.max() > 2**32
    assert axis.start.dtype == axis.end.dtype == np.int64
    start = np.array([5, 5, 5, size, size, size, size + 10, 2**40], dtype=np.int64)
    contig = np.array([0, 1, 2, 0, 1, 2, 0, 1])
    hit, peak = axis.overlaps(contig, start, start + 1)
    assert dict(zip(hit.tolist(), peak.tolist(), strict=True)) == {i: i for i in range(6)}


def test_bare_names_of_chromosomes_are_known_everywhere(tmp_path):
    peaks = frame([("1", 249_200_000, 249_200_500), ("2", 5, 10)])
    assert misplaced(peaks, "GRCh38").tolist() == [True, False]
    assert "hg38" not in detect_build(peaks)
    chain = (
        "chain 1 1 300000000 + 249000000 249500000 1 300000000 + 248000000 248500000 1\n500000\n\n"
    )
    (tmp_path / "ensembl.chain").write_text(chain)
    for chroms in (["1", "2"], ["chr1", "chr2"]):
        lifted, status = lift_over(peaks.assign(chrom=chroms), tmp_path / "ensembl.chain")
        assert lifted.to_numpy().tolist() == [["chr1", 248_200_000, 248_200_500]]
        assert status.tolist() == ["lifted", "lost"]


@given(
    st.lists(st.tuples(chroms, st.integers(-50, 60), st.integers(1, 30)), min_size=1, max_size=10),
    st.lists(st.tuples(chroms, st.integers(0, 60), st.integers(1, 30)), min_size=1, max_size=10),
)
@settings(max_examples=300)
def test_intervals_before_their_contig_overlap_no_other_contig(query, target):
    """Shifted or padded peaks may start before their contig."""
    query, target = (frame([(c, s, s + w) for c, s, w in rows]) for rows in (query, target))
    expected = [
        [i, j]
        for i, (a, s, e) in enumerate(query.itertuples(index=False))
        for j, (b, t, f) in enumerate(target.itertuples(index=False))
        if a == b and s < f and t < e
    ]
    assert overlaps(query, target).tolist() == expected


CHAIN = "chain 1 chr1 248956422 + 0 5000 chr1 249250621 + 1000 6000 1\n5000\n\n"


@pytest.mark.parametrize("end", ["\n", "\r\n", " \n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_chain_files_of_any_editor(tmp_path, end, encoding):
    path = tmp_path / "a.chain.gz"
    path.write_bytes(gzip.compress(CHAIN.replace("\n", end).encode(encoding)))
    lifted, _ = lift_over(frame([("chr1", 100, 200)]), path)
    assert lifted.to_numpy().tolist() == [["chr1", 1100, 1200]]


def test_a_chain_file_in_utf_16_is_refused_by_name(tmp_path):
    path = tmp_path / "a.chain"
    path.write_text(CHAIN, encoding="utf-16")
    with pytest.raises(ValueError, match=r"a\.chain' is binary, or text in UTF-16"):
        lift_over(frame([("chr1", 100, 200)]), path)


@pytest.mark.parametrize("build", BUILDS)
def test_chromosome_lengths_are_those_of_bioframe(build):
    assert chromosome_lengths(build) == bioframe.assembly_info(build).chromsizes.to_dict()
