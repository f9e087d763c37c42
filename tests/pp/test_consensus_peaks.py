"""Consensus peaks: brute force, bioframe, order of sources, all kinds of files, bad input."""

import gzip
import shutil

import anndata
import bioframe
import h5py
import mudata
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

import epifoundation as ep
from epifoundation.genome import COLUMNS
from epifoundation.peaks.bed import read_bed

# stores of the older format are written, to be read
pytestmark = pytest.mark.filterwarnings("ignore:(?s).*will be removed in 0.14:DeprecationWarning")

CHROMS = ["chr1", "chr2", "chr10", "GL000194.1"]
PEAKS = st.lists(
    st.tuples(
        st.sampled_from(CHROMS),
        st.integers(0, 70),
        st.integers(1, 25),
        st.integers(0, 4),
        st.integers(-1, 30),
    ),
    min_size=1,
    max_size=9,
)
SOURCES = st.lists(PEAKS, min_size=1, max_size=5)
WIDTHS = st.integers(1, 30)


def tables_of(sources):
    """Tables of peaks with duplicates, tied scores, and summits that are missing or outside."""
    frames = (
        pd.DataFrame(rows, columns=["chrom", "start", "end", "score", "relSummit"])
        for rows in sources
    )
    return [frame.assign(end=frame["start"] + frame["end"]) for frame in frames]


def rows(vocabulary):
    return list(vocabulary.intervals.itertuples(index=False, name=None))


def meet(a, b):
    return a[0] == b[0] and a[1] < b[2] and b[1] < a[2]


def intervals_of(table):
    return list(table[COLUMNS].itertuples(index=False, name=None))


def n_sources(peak, tables):
    return sum(any(meet(peak, other) for other in intervals_of(table)) for table in tables)


def union_by_brute_force(tables, min_sources):
    """Merge any two overlapping peaks until none overlap."""
    left = [peak for table in tables for peak in intervals_of(table)]
    done = []
    while left:
        peak = left.pop()
        other = next((one for one in left if meet(one, peak)), None)
        if other is None:
            done.append(peak)
        else:
            left.remove(other)
            left.append((peak[0], min(peak[1], other[1]), max(peak[2], other[2])))
    return {peak for peak in done if n_sources(peak, tables) >= min_sources}


def windows_by_brute_force(tables, width, score):
    """Windows sorted by rank, the best first."""
    ranks = {}
    for table in tables:
        scores = np.zeros(len(table)) if score is None else rankdata(table[score]) / len(table)
        for (chrom, start, end), summit, value in zip(
            intervals_of(table), table["relSummit"], scores, strict=True
        ):
            centre = start + summit if 0 <= summit < end - start else (start + end) // 2
            first = max(centre - width // 2, 0)
            window = (chrom, first, first + width)
            ranks[window] = max(value, ranks.get(window, 0))
    covered = [
        {(c, at) for c, s, e in intervals_of(table) for at in range(s, e)} for table in tables
    ]
    shared = {
        window: sum(
            len(bases & {(window[0], at) for at in range(*window[1:])}) for bases in covered
        )
        for window in ranks
    }
    return sorted(
        ranks, key=lambda one: (-ranks[one], -n_sources(one, tables), -shared[one], one[1])
    )


def best_by_brute_force(tables, width, score, min_sources):
    kept = []
    for window in windows_by_brute_force(tables, width, score):
        if n_sources(window, tables) >= min_sources and not any(
            meet(window, other) for other in kept
        ):
            kept.append(window)
    return set(kept)


def consensus(tables, **options):
    """The consensus, or None if no peak is left."""
    try:
        return ep.pp.consensus_peaks(tables, **options)
    except ValueError as error:
        assert "No consensus peak overlaps peaks of" in str(error)  # noqa: PT017 # or it is raised
        return None


@given(SOURCES, st.data())
@settings(max_examples=30)
def test_unions_are_those_of_brute_force(sources, data):
    tables = tables_of(sources)
    least = data.draw(st.integers(1, len(tables)))
    found = consensus(tables, min_sources=least)
    assert (set() if found is None else set(rows(found))) == union_by_brute_force(tables, least)


@given(SOURCES, WIDTHS, st.sampled_from([None, "score"]), st.data())
@settings(max_examples=30)
def test_peaks_of_fixed_width_are_those_of_brute_force(sources, width, score, data):
    tables = tables_of(sources)
    least = data.draw(st.integers(1, len(tables)))
    found = consensus(tables, width=width, score=score, min_sources=least)
    assert (set() if found is None else set(rows(found))) == best_by_brute_force(
        tables, width, score, least
    )


@given(SOURCES)
def test_unions_are_disjoint_and_hold_every_base(sources):
    tables = tables_of(sources)
    found = ep.pp.consensus_peaks(tables)
    pairs = ep.genome.overlaps(found.intervals, found.intervals)
    assert (pairs[:, 0] == pairs[:, 1]).all()
    for table in tables:
        projection = found.projection(ep.genome.read_intervals(table))
        assert (projection.getnnz(axis=1) == 1).all()  # each peak has one place
        inside = found.intervals.iloc[projection.indices]
        assert (inside["start"].to_numpy() <= table["start"]).all()
        assert (inside["end"].to_numpy() >= table["end"]).all()


@given(SOURCES, WIDTHS, st.sampled_from([None, "score"]))
def test_peaks_of_fixed_width_are_disjoint_and_dropped_ones_overlap_a_better(sources, width, score):
    tables = tables_of(sources)
    kept = rows(ep.pp.consensus_peaks(tables, width=width, score=score))
    assert {end - start for _, start, end in kept} == {width}
    order = windows_by_brute_force(tables, width, score)
    for i, window in enumerate(order):
        better = [other for other in order[:i] if other in kept and meet(window, other)]
        # windows that were shifted away from their peaks overlap no source
        assert (window in kept) == (not better and n_sources(window, tables) > 0)


@given(SOURCES, st.none() | WIDTHS, st.booleans(), st.randoms(use_true_random=False))
def test_neither_the_order_of_sources_nor_of_peaks_matters(sources, width, scored, random):
    options = {"width": width, "score": "score" if scored and width else None}
    expected = ep.pp.consensus_peaks(tables_of(sources), **options)
    shuffled = [
        random.sample(source, len(source)) for source in random.sample(sources, len(sources))
    ]
    assert rows(ep.pp.consensus_peaks(tables_of(shuffled), **options)) == rows(expected)


@given(SOURCES, st.none() | WIDTHS)
def test_the_consensus_of_a_consensus_is_the_same(sources, width):
    once = ep.pp.consensus_peaks(tables_of(sources), width=width)
    assert rows(ep.pp.consensus_peaks(once, width=width)) == rows(once)
    assert rows(ep.pp.consensus_peaks([once, once], width=width, min_sources=2)) == rows(once)


def test_unions_are_those_of_bioframe():
    rng = np.random.default_rng(0)
    tables = []
    for _ in range(20):
        table = pd.DataFrame(
            {"chrom": rng.choice(CHROMS, 2000), "start": rng.integers(0, 10**7, 2000)}
        )
        tables.append(table.assign(end=table["start"] + rng.integers(1, 2000, 2000)))
    pooled = pd.concat(tables, ignore_index=True)
    expected = bioframe.merge(pooled, min_dist=None)[COLUMNS]
    found = ep.pp.consensus_peaks(tables)
    assert 0 < len(found) < len(pooled)
    assert set(rows(found)) == set(expected.itertuples(index=False, name=None))
    fixed = ep.pp.consensus_peaks(tables, width=501).intervals
    assert (bioframe.count_overlaps(fixed, fixed)["count"] == 1).all()
    middle = pooled.assign(start=(pooled["start"] + pooled["end"]) // 2 - 250)
    middle = middle.assign(
        start=middle["start"].clip(lower=0), end=middle["start"].clip(lower=0) + 501
    )
    assert (bioframe.count_overlaps(middle, fixed)["count"] > 0).all()  # none can be added


def names(found):
    return found.names.tolist()


def vocabulary(*peaks, genome="unknown"):
    return ep.PeakVocabulary.from_names(peaks, genome=genome)


def test_peaks_that_merely_touch_stay_apart():
    assert names(ep.pp.consensus_peaks([vocabulary("chr1:0-10"), vocabulary("chr1:10-20")])) == [
        "chr1:0-10",
        "chr1:10-20",
    ]
    tiles = [vocabulary("chr1:0-10", "chr1:10-20"), vocabulary("chr1:20-30")]
    assert len(ep.pp.consensus_peaks(tiles, width=10)) == 3
    # The one in both sources
    assert names(ep.pp.consensus_peaks(tiles, width=11)) == ["chr1:10-21"]


def test_chromosomes_come_in_natural_order():
    peaks = [
        f"{chrom}:5-9" for chrom in ("chrX", "chr10", "chr2", "chr1", "chr1_KI270706v1_random")
    ]
    found = ep.pp.consensus_peaks([vocabulary(*peaks)])
    assert found.intervals["chrom"].tolist() == [
        "chr1",
        "chr1_KI270706v1_random",
        "chr2",
        "chr10",
        "chrX",
    ]


def test_a_long_chain_drops_every_second_tile():
    """A chain of equal tiles: vectorised removal would need as many rounds as there are tiles."""
    start = np.arange(0, 200_000 * 500, 500)
    tiles = pd.DataFrame({"chrom": "chr1", "start": start, "end": start + 500})
    found = ep.pp.consensus_peaks([tiles, tiles], width=501)
    np.testing.assert_array_equal(found.intervals["start"], start[::2])


def test_the_peak_of_most_sources_is_kept_and_of_these_the_most_central():
    sources = [vocabulary(f"chr1:{start}-{start + 100}") for start in (100, 120, 140)]
    assert names(ep.pp.consensus_peaks(sources, width=100)) == ["chr1:120-220"]
    sources += [vocabulary("chr1:215-315"), vocabulary("chr1:216-316")]
    # Like 120-220, it overlaps all
    assert names(ep.pp.consensus_peaks(sources, width=100)) == ["chr1:140-240"]
    sources += [vocabulary("chr1:230-330")]
    assert names(ep.pp.consensus_peaks(sources, width=100)) == ["chr1:140-240"]  # 120-220 does not


def scored(peaks):
    return pd.DataFrame({"score": peaks.values()}, index=list(peaks), dtype=float)


def test_scores_are_compared_within_their_source():
    one = scored({"chr1:100-200": 9000, "chr2:100-200": 1000})
    two = scored({"chr1:150-250": 1, "chr2:150-250": 3})
    for tables in ([one, two], [one**2, two], [two, one / 1e6]):
        assert names(ep.pp.consensus_peaks(tables, width=100, score="score")) == [
            "chr1:100-200",
            "chr2:150-250",
        ]


def test_peaks_of_too_few_sources_drop_no_others():
    tables = [
        scored({"chr1:100-200": 1, "chr1:260-300": 2}),
        scored({"chr1:100-200": 1, "chr2:100-200": 2}),
    ]
    options = {"width": 150, "score": "score"}
    assert names(ep.pp.consensus_peaks(tables, **options)) == ["chr1:205-355", "chr2:75-225"]
    assert names(ep.pp.consensus_peaks(tables, min_sources=2, **options)) == ["chr1:75-225"]


def test_peaks_at_the_ends_of_a_chromosome_are_moved_inside():
    end = 248_956_422  # of chr1 in hg38
    peaks = [f"chr1:{end - 100}-{end}", "chr1:0-50", "contig:10-20"]
    found = ep.pp.consensus_peaks([vocabulary(*peaks)], width=501, genome="GRCh38")
    assert names(found) == ["chr1:0-501", f"chr1:{end - 501}-{end}", "contig:0-501"]
    assert not ep.genome.misplaced(found.intervals, found.genome).any()
    elsewhere = ep.pp.consensus_peaks([vocabulary(*peaks)], width=501, genome="rn7")
    assert names(elsewhere)[1] == f"chr1:{end - 300}-{end + 201}"


@pytest.fixture
def peaks():
    """Cells x peaks with positions in the names, and other columns."""
    atac = ep.datasets.pbmc_multiome()["atac"][:5, :300].copy()
    return anndata.AnnData(
        atac.X, var=pd.DataFrame({"score": np.arange(300.0), "kind": "peak"}, index=atac.var_names)
    )


def write(atac, kind, folder):
    """A file of this kind with these peaks."""
    mdata = mudata.MuData(
        {"rna": anndata.AnnData(np.ones((atac.n_obs, 2), dtype=np.float32)), "atac": atac}
    )
    if kind == "h5ad":
        atac.write_h5ad(folder / "peaks.h5ad")
        return folder / "peaks.h5ad"
    if kind in ("zarr", "zarr v3"):
        with anndata.settings.override(zarr_write_format=2 if kind == "zarr" else 3):
            atac.write_zarr(folder / "peaks.zarr")
        return folder / "peaks.zarr"
    if kind in ("h5mu", "zarr of a MuData"):
        path = folder / ("peaks.h5mu" if kind == "h5mu" else "mdata.zarr")
        (mdata.write_h5mu if kind == "h5mu" else mdata.write_zarr)(path)
        return path
    bed = ep.genome.read_intervals(atac.var).assign(name=".", score=atac.var["score"].to_numpy())
    text = "track name=peaks\n" + bed.to_csv(sep="\t", header=False, index=False)
    path = folder / f"peaks.{kind}"
    path.write_bytes(gzip.compress(text.encode()) if kind == "bed.gz" else text.encode())
    return path


quiet = pytest.mark.filterwarnings(  # warnings of anndata and zarr
    "ignore:Writing zarr v2", "ignore:zarr v3 autosharding", "ignore:Consolidated metadata"
)
KINDS = ["h5ad", "h5mu", "zarr", "zarr v3", "zarr of a MuData", "bed", "bed.gz"]


@quiet
@pytest.mark.parametrize("options", [{}, {"width": 301}, {"width": 2001, "score": "score"}])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_the_same(peaks, tmp_path, kind, options):
    expected = rows(ep.pp.consensus_peaks(peaks, **options))
    assert 0 < len(expected) <= 300
    path = write(peaks, kind, tmp_path)
    for source in (path, str(path), [path], {"mine": path}, (path for _ in range(1))):
        assert rows(ep.pp.consensus_peaks(source, **options)) == expected


def test_objects_of_every_kind_give_the_same(peaks):
    mdata = mudata.MuData({"peaks": peaks})
    expected = rows(ep.pp.consensus_peaks(ep.PeakVocabulary.from_var(peaks.var)))
    for source in (peaks, peaks.var, peaks[:0], mdata):
        assert (
            rows(ep.pp.consensus_peaks([source, source], min_sources=2, modality="peaks"))
            == expected
        )


@quiet
def test_only_the_peaks_of_a_file_are_read(peaks, tmp_path):
    """A matrix of 40 TB and damage elsewhere do not matter."""
    expected = rows(ep.pp.consensus_peaks(peaks))
    file, store = (write(peaks, kind, tmp_path) for kind in ("h5ad", "zarr"))
    with h5py.File(file, "r+") as opened:
        del opened["X"], opened["obs"]
        opened.create_dataset("X", shape=(10**7, 10**6), dtype="f4", chunks=(1000, 1000))
        opened["obs"] = b"no table"
    shutil.rmtree(store / "X")
    shutil.rmtree(store / "obs")
    with pytest.raises(Exception):  # noqa: B017 # of any type: the file cannot be read
        anndata.read_h5ad(file, backed="r")
    assert rows(ep.pp.consensus_peaks([file, store], min_sources=2)) == expected


NARROW = ["chr1", "100", "300", "peak1", "77", ".", "5.5", "9.5", "8.5", "20"]


def test_summits_and_columns_of_a_narrow_peak(tmp_path):
    path = tmp_path / "ENCFF000.bed.gz"
    lines = [NARROW, ["chr1", "1000", "1300", *NARROW[3:9], "-1"]]
    path.write_bytes(gzip.compress("\n".join(map("\t".join, lines)).encode()))
    found = ep.pp.consensus_peaks(path, width=11, score="-log10q")
    assert names(found) == ["chr1:115-126", "chr1:1145-1156"]  # summit 120, no summit
    table = bioframe.read_table(path, schema="narrowPeak")
    assert names(ep.pp.consensus_peaks(table, width=11)) == names(found)


@pytest.mark.parametrize(
    ("n_columns", "known"), [(3, 3), (4, 4), (6, 6), (9, 6), (10, 10), (12, 6)]
)
def test_columns_of_a_bed_file_are_named_if_known(tmp_path, n_columns, known):
    """A BED9 has colours where a broadPeak has scores."""
    (tmp_path / "peaks.bed").write_text("\t".join([*NARROW, "x", "y"][:n_columns]) + "\n")
    var = read_bed(tmp_path / "peaks.bed")
    assert var.columns.tolist() == bioframe.SCHEMAS["narrowPeak"][:known]
    assert var.iloc[0].tolist() == NARROW[:known]


HG38 = "chr1:248956000-248956400"  # past the end of chr1 in all builds except hg19
HG19 = "chr1:249250000-249250500"
MM10 = "chr19:61431000-61431500"  # in hs1 too


def test_the_build_is_common_to_all_sources():
    assert ep.pp.consensus_peaks(vocabulary("chr1:1-2")).genome == "unknown"
    assert ep.genome.detect_build(vocabulary(HG19).intervals) == ["hg19"]
    assert ep.pp.consensus_peaks([vocabulary(HG19), vocabulary("chr1:1-2")]).genome == "hg19"
    assert (
        ep.pp.consensus_peaks(
            [vocabulary("chr1:1-2"), vocabulary("chr1:1-2", genome="GRCh38")]
        ).genome
        == "hg38"
    )
    assert ep.pp.consensus_peaks(vocabulary("chr1:1-2"), genome="GRCm38").genome == "mm10"
    both = [
        set(ep.genome.detect_build(vocabulary(one).intervals))
        for one in (HG38, "chr19:59000000-59100000")
    ]
    assert len(both[0]) > 1
    assert len(both[1]) > 1
    assert len(both[0] & both[1]) == 1
    assert {
        ep.pp.consensus_peaks([vocabulary(HG38), vocabulary("chr19:59000000-59100000")]).genome
    } == both[0] & both[1]


def test_the_build_of_an_unknown_organism_is_not_checked():
    foreign = vocabulary("chr25:1-1000", "chr24:5-10")
    assert ep.genome.detect_build(foreign.intervals) == []
    assert ep.pp.consensus_peaks([foreign, foreign]).genome == "unknown"
    found = ep.pp.consensus_peaks([foreign, vocabulary(HG19)], genome="danRer11")
    assert found.genome == "danRer11"
    for source in (foreign, vocabulary("chr1:1-2")):  # of an unknown build, of any build
        assert (
            ep.pp.consensus_peaks([source, vocabulary("chr4:1-2", genome="danRer11")]).genome
            == "danRer11"
        )


@pytest.mark.parametrize(
    ("sources", "options", "message"),
    [
        (
            {
                "mine": vocabulary("chr1:1-2"),
                "first": vocabulary(HG19),
                "other": vocabulary("chr1:5-9", genome="GRCh38"),
            },
            {},
            (
                r"differ: hg19 for 'first', hg38 for 'other'\. Lift one over, "
                r"`ep\.genome\.lift_over\(.*\)\[0\]`, and pass"
            ),
        ),
        (
            [vocabulary(HG19), vocabulary(MM10)],
            {},
            r"hg19 for source 0 \(PeakVocabulary\), hs1 or mm10 for source 1",
        ),
        ([vocabulary(HG19)], {"genome": "GRCh38"}, r"hg38 for `genome`, hg19 for source 0"),
        (
            [vocabulary("chr1:1-2", genome="rn7")],
            {"genome": "rn6"},
            "rn6 for `genome`, rn7 for source 0",
        ),
    ],
)
def test_the_error_for_different_builds_names_the_sources(sources, options, message):
    with pytest.raises(ValueError, match=message):
        ep.pp.consensus_peaks(sources, **options)


TABLE = pd.DataFrame({"score": [1.0, 2.0]}, index=["chr1:1-20", "chr1:50-70"])


@pytest.mark.parametrize(
    ("sources", "options", "error", "message"),
    [
        ([], {}, ValueError, "`sources` is empty"),
        ({}, {}, ValueError, "`sources` is empty"),
        (
            [TABLE],
            {"min_sources": 2},
            ValueError,
            "`min_sources` is 2, but the number of sources is 1",
        ),
        (
            [TABLE],
            {"min_sources": 0},
            ValueError,
            "`min_sources` must be an integer of at least 1, got 0",
        ),
        ([TABLE], {"width": 0}, ValueError, "`width` must be an integer of at least 1, got 0"),
        (
            [TABLE],
            {"width": 50.5},
            ValueError,
            "`width` must be an integer of at least 1, got 50.5",
        ),
        ([TABLE], {"score": "score"}, ValueError, "ranks peaks of fixed width only: give `width=`"),
        (
            {"one": TABLE, "two": vocabulary("chr1:1-2")},
            {"score": "score", "width": 9},
            ValueError,
            (
                r"`score='score'` is not a column of the peaks of 'two'; "
                r"available: \['chrom', 'start', 'end'\]"
            ),
        ),
        (
            [TABLE.assign(score=["high", "3"])],
            {"score": "score", "width": 9},
            ValueError,
            (
                r"Column 'score' of source 0 \(DataFrame\): 1 of 2 scores are not numbers, "
                "first 'high'"
            ),
        ),
        (
            [TABLE, TABLE.set_axis(["CD3D", "chr1:5-9"])],
            {},
            ValueError,
            r"source 1 \(DataFrame\): 1 of 2 peak names are not .* 'CD3D'",
        ),
        ([TABLE, TABLE[:0]], {}, ValueError, r"source 1 \(DataFrame\) has no peaks"),
        (
            [TABLE, vocabulary("chr2:1-2")],
            {"min_sources": 2},
            ValueError,
            "overlaps peaks of 2 of the 2 sources: lower `min_sources`",
        ),
        (
            [TABLE, 5],
            {},
            TypeError,
            r"source 1 \(int\) must be an AnnData, MuData, table of peaks, .* got int",
        ),
        (None, {}, TypeError, r"source 0 \(NoneType\) must be an AnnData"),
        ("peaks.bed", {}, FileNotFoundError, "The file 'peaks.bed' does not exist"),
    ],
)
def test_bad_input_is_refused(sources, options, error, message):
    with pytest.raises(error, match=message):
        ep.pp.consensus_peaks(sources, **options)


@quiet
@pytest.mark.parametrize("kind", ["h5mu", "zarr of a MuData"])
def test_a_missing_modality_is_named(peaks, tmp_path, kind):
    path = write(peaks, kind, tmp_path)
    with pytest.raises(
        ValueError,
        match=r"No modality 'ATAC' in '.*'; it has \[.*'atac'.*\]. Name one with `modality=",
    ):
        ep.pp.consensus_peaks(path, modality="ATAC")
    with pytest.raises(ValueError, match="No modality 'ATAC' in the MuData"):
        ep.pp.consensus_peaks(mudata.MuData({"atac": peaks}), modality="ATAC")


def test_damaged_files_are_refused(peaks, tmp_path):
    whole = write(peaks, "h5ad", tmp_path).read_bytes()
    for content, message in (
        (whole[: len(whole) // 2], "cannot be opened as .* Is it truncated"),
        (b"", "is an empty file"),
        (b"no HDF5", "is a text file"),
    ):
        (tmp_path / "cut.h5ad").write_bytes(content)
        with pytest.raises(ValueError, match=f"cut.h5ad' {message}"):
            ep.pp.consensus_peaks(tmp_path / "cut.h5ad")
    (tmp_path / "cut.bed.gz").write_bytes(gzip.compress(b"chr1\t1\t2\n" * 1000)[:-20])
    with pytest.raises(ValueError, match=r"cut.bed.gz' is not text, or is truncated"):
        ep.pp.consensus_peaks(tmp_path / "cut.bed.gz")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match=r"folder' is an empty folder"):
        ep.pp.consensus_peaks(tmp_path / "folder")
    (tmp_path / "empty.bed").write_text("# nothing\n")
    with pytest.raises(ValueError, match=r"empty.bed' has no peaks"):
        ep.pp.consensus_peaks(tmp_path / "empty.bed")
    with h5py.File(tmp_path / "10x.h5", "w") as file:
        file.create_group("matrix")
    with pytest.raises(ValueError, match=r"10x.h5' is an HDF5 file with \['matrix'\]"):
        ep.pp.consensus_peaks(tmp_path / "10x.h5")


def test_progress_is_shown_if_it_is_set(monkeypatch, capsys):
    ep.pp.consensus_peaks([TABLE, TABLE])
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(ep.settings, "progress", True)
    ep.pp.consensus_peaks([TABLE, TABLE])
    assert "2/2" in capsys.readouterr().err


def test_cells_are_counted_on_a_consensus(simulated, tmp_path):
    """The consensus of two halves of the peaks with shifted borders."""
    atac = simulated["atac"]
    var = atac.var[COLUMNS]
    wider = var[250:].assign(start=var["start"][250:] - 20, end=var["end"][250:] + 30)
    peaks = ep.pp.consensus_peaks([var[:350], wider])
    assert len(peaks) == atac.n_vars
    path = ep.datasets.simulate_fragments(atac, tmp_path / "fragments.tsv.gz", background=0)
    counted = ep.pp.count_fragments(path, peaks, barcodes=atac.obs_names)
    mapped = atac.X @ peaks.projection(ep.genome.read_intervals(var))
    assert ((counted.X > 0) != (mapped > 0)).nnz == 0
