"""Coverage of groups: brute force, invariances, an independent reader, bad input."""

import gzip
import os
import random
import warnings

import numpy as np
import pandas as pd
import pybigtools
import pytest
from hypothesis import given
from hypothesis import strategies as st

import epifoundation as ep
from epifoundation.genome._chromosome_sizes import read_chromosome_sizes
from epifoundation.pp import _coverage_counter, _read_fragments
from epifoundation.pp._bigwig import NODE_SIZE, BigWigWriter

SIZES = {"chr1": 83, "chr2": 60, "chrX": 7}
GROUPS = {"A": "T", "B": "T", "C": "NK", "D": None}
LINES = [("chr1", 3, 40, "A"), ("chr1", 7, 8, "B"), ("chr2", 11, 31, "C"), ("chr1", 70, 83, "A")]


def write(path, lines):
    text = "".join("\t".join(map(str, line)) + "\t1\n" for line in lines).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def coverage(path, directory, groups=GROUPS, **options):
    options = {"genome": SIZES, "directory": directory, "overwrite": True} | options
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(.* barcodes|Groups without)")
        return ep.pp.group_coverage(path, groups, **options)


def values_of(path, sizes=SIZES):
    """The value of each base of each chromosome, read by another program."""
    if path.suffix == ".bw":
        with pybigtools.open(str(path)) as file:
            assert file.chroms() == sizes
            return {name: file.values(name, fillna=0.0) for name in sizes}
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    values = {name: np.zeros(length) for name, length in sizes.items()}
    for line in text.decode().splitlines():
        name, start, end, value = line.split("\t")
        assert not values[name][int(start) : int(end)].any()
        values[name][int(start) : int(end)] = float(value)
    return values


def brute_force(lines, cells, bin_size, counting, *, smooth=None, sizes=SIZES):
    """The coverage of each base, by a loop over fragments and bins."""
    result = {}
    for name, length in sizes.items():
        bins = np.zeros(-(-length // bin_size))
        for chrom, start, end, cell in lines:
            if chrom != name or cell not in cells:
                continue
            if counting == "fragment":
                for i in range(len(bins)):
                    bins[i] += start < (i + 1) * bin_size and end > i * bin_size
            else:
                for cut in (start, end - 1):
                    bins[min(cut, length - 1) // bin_size] += 1
        if smooth is not None:
            beside = smooth // (2 * bin_size)
            padded = np.pad(bins, beside)
            width = 2 * beside + 1
            bins = np.array([padded[i : i + width].mean() for i in range(len(bins))])
        result[name] = np.repeat(bins, bin_size)[:length]
    return result


FRAGMENTS = st.lists(
    st.tuples(
        st.sampled_from([*SIZES, "contig"]),
        st.integers(0, 90),
        st.integers(1, 50),
        st.sampled_from([*GROUPS, "unlisted"]),
    ).map(lambda f: (f[0], f[1] % SIZES.get(f[0], 99), f[1] % SIZES.get(f[0], 99) + f[2], f[3])),
    min_size=1,
    max_size=30,
)


@given(
    lines=FRAGMENTS,
    bin_size=st.sampled_from([1, 3, 10, 100]),
    counting=st.sampled_from(["insertion", "fragment"]),
    windows=st.none() | st.integers(1, 6),
    kind=st.sampled_from(["bigwig", "bedgraph", "bedgraph.gz"]),
    block=st.integers(1, 200),
    run=st.integers(1, 20),
    shuffle=st.randoms(use_true_random=False),
)
def test_agrees_with_brute_force(
    tmp_path_factory, lines, bin_size, counting, windows, kind, block, run, shuffle
):
    """In any order of lines, with any size of blocks, runs and merges, plain and gzip."""
    folder = tmp_path_factory.mktemp("coverage")
    smooth = None if windows is None else windows * bin_size
    options = {"bin_size": bin_size, "counting": counting, "smooth": smooth, "format": kind}
    with pytest.MonkeyPatch.context() as patch:
        path = write(folder / "f.tsv", lines)
        if not any(line[0] in SIZES and line[3] in "ABC" for line in lines):
            with pytest.raises(ValueError, match=r"None of the \d+ (barcodes|fragments)"):
                coverage(path, folder, **options)
            return
        patch.setattr(_read_fragments, "BLOCK_BYTES", block)
        patch.setattr(_coverage_counter, "RUN", run)
        patch.setattr(_coverage_counter, "MERGED", run)
        tracks = coverage(path, folder, **options, normalization=None)
        for name, cells in {"T": "AB", "NK": "C"}.items():
            expected = brute_force(lines, cells, bin_size, counting, smooth=smooth)
            has_any = any(line[0] in SIZES and line[3] in cells for line in lines)
            assert (name in tracks) == has_any
            found = values_of(tracks[name]) if has_any else {}
            for chrom in found:
                np.testing.assert_allclose(found[chrom], expected[chrom], rtol=1e-5)
    tracks = coverage(path, folder / "first", **options)
    shuffle.shuffle(lines)
    other = folder / "other"
    again = coverage(write(folder / "f.tsv.gz", lines), other, **options)
    assert [path.read_bytes() for path in again.values()] == [
        path.read_bytes() for path in tracks.values()
    ]
    assert sorted(each.name for each in other.iterdir()) == sorted(p.name for p in again.values())


def test_normalization_and_sum_over_groups(tmp_path):
    path = write(tmp_path / "f.tsv", LINES)
    raw = coverage(path, tmp_path / "raw", normalization=None, counting="fragment", bin_size=5)
    both = dict.fromkeys("ABC", "all")
    total = values_of(
        coverage(path, tmp_path, both, normalization=None, counting="fragment", bin_size=5)["all"]
    )
    parts = {name: values_of(track) for name, track in raw.items()}
    for chrom in SIZES:
        np.testing.assert_array_equal(total[chrom], sum(part[chrom] for part in parts.values()))
    # T has three fragments, in 8, 1 and 3 bins
    for normalization, scale in {"CPM": 1e6 / 3, "RPKM": 2e8 / 3, "BPM": 1e6 / 12}.items():
        options = {"normalization": normalization, "counting": "fragment", "bin_size": 5}
        scaled = values_of(coverage(path, tmp_path, **options)["T"])
        np.testing.assert_allclose(scaled["chr1"], parts["T"]["chr1"] * scale, rtol=1e-6)
    cuts = values_of(coverage(path, tmp_path, bin_size=1)["NK"])
    assert np.flatnonzero(cuts["chr2"]).tolist() == [11, 30]
    assert cuts["chr2"].max() == 500_000


def test_any_size_of_bins(tmp_path):
    path = write(tmp_path / "f.tsv", LINES)
    for bin_size in (7, 10**4, 10**8, 10**12):
        values = values_of(coverage(path, tmp_path, bin_size=bin_size, normalization=None)["T"])
        expected = brute_force(LINES, "AB", bin_size, "insertion") if bin_size < 10**5 else None
        assert values["chr1"][0] == (6 if expected is None else expected["chr1"][0])


@pytest.mark.parametrize("counting", ["insertion", "fragment"])
def test_blacklist(tmp_path, counting):
    path, regions = write(tmp_path / "f.tsv", LINES), tmp_path / "regions.bed"
    regions.write_text("chr1\t38\t41\nchr9\t0\t10\n")
    options = {"counting": counting, "bin_size": 1, "normalization": None}
    kept = [LINES[1], LINES[3]] if counting == "fragment" else LINES
    expected = brute_force(kept, "AB", 1, counting)["chr1"]
    expected[39] *= counting == "fragment"
    for blacklist in (regions, pd.read_csv(regions, sep="\t", names=["chrom", "start", "end"])):
        found = values_of(coverage(path, tmp_path, **options, blacklist=blacklist)["T"])
        np.testing.assert_array_equal(found["chr1"], expected)


def test_several_samples(tmp_path):
    paths = {name: write(tmp_path / f"{name}.tsv", LINES) for name in ("s1", "s2")}
    groups = pd.Series({"s1_A": "x", "s2_A": "y", "s2_C": "x"})
    tracks = coverage(paths, tmp_path, groups, normalization=None, bin_size=1)
    assert values_of(tracks["x"])["chr2"].sum() == 2
    assert values_of(tracks["x"])["chr1"].sum() == values_of(tracks["y"])["chr1"].sum() == 4
    with pytest.raises(ValueError, match="begin with no sample name, first 'A'"):
        coverage(paths, tmp_path, {"A": "x"})
    with pytest.raises(ValueError, match=r"None of the 1 barcodes is in the file: first 's2_Q'"):
        coverage(paths, tmp_path, {"s1_A": "x", "s2_Q": "x"})


@pytest.mark.parametrize(
    "make",
    [
        lambda _: pd.Series(["b", "a", "a"], index=["A", "B", "C"], dtype="category"),
        lambda _: pd.Series([2, 1, 1], index=["A", "B", "C"]),
        lambda _: {"A": "b", "B": "a", "C": "a"},
        lambda _: {"a": ["B", "C"], "b": np.array(["A"])},
        lambda path: write(path / "groups.tsv", [("barcode", "x"), ("A", 2), ("B", 1), ("C", 1)]),
    ],
)
def test_forms_of_groups(tmp_path, make):
    path = write(tmp_path / "f.tsv", LINES)
    tracks = coverage(path, tmp_path, make(tmp_path), normalization=None, counting="fragment")
    first, second = tracks.values()
    assert {*tracks} in ({"a", "b"}, {"1", "2"})
    assert values_of(first)["chr2"].max() == 1  # of C
    assert values_of(second)["chr1"].max() == 1  # of A
    assert values_of(second)["chr2"].max() == 0


def test_forms_of_chromosome_sizes(tmp_path):
    file = tmp_path / "x.chrom.sizes"
    file.write_text("X\t7\t1\nchr1\t83\n2\t60\n")
    assert read_chromosome_sizes(file) == read_chromosome_sizes(pd.Series(SIZES)) == SIZES
    assert list(read_chromosome_sizes({"2": 60, "chr1": 83})) == ["chr1", "chr2"]
    assert read_chromosome_sizes("GRCh38") == read_chromosome_sizes("hg38")
    file.write_text("chr1\tx\n")
    for wrong, match in {
        file: "must have chromosomes and their lengths",
        "dm6": "is neither a build",
        (): "must be the name of a build",
    }.items():
        with pytest.raises((ValueError, TypeError, OSError), match=match):
            read_chromosome_sizes(wrong)
    for length in (0, -5, 1.5, True, 2**33, "5"):
        with pytest.raises(ValueError, match="the length of 'chr1' must be an integer"):
            read_chromosome_sizes({"chr1": length})
    with pytest.raises(ValueError, match="two lengths for a chromosome"):
        read_chromosome_sizes({"1": 5, "chr1": 6})
    with pytest.raises(ValueError, match="has no chromosomes"):
        read_chromosome_sizes({})


def test_a_large_file_has_an_index_and_zooms_that_agree(tmp_path):
    """Index nodes of several levels, several contigs, parts that are added separately."""
    rng, sizes, n = np.random.default_rng(0), {"chr1": 4_000_000, "chr10": 3_000_123}, 300_000
    values = {name: np.zeros(length, np.float32) for name, length in sizes.items()}
    with BigWigWriter(tmp_path / "x.bw", sizes, 1) as writer:
        for i, (name, length) in enumerate(sizes.items()):
            start = np.sort(rng.choice(length // 5, n, replace=False)) * 5
            end = np.minimum(start + rng.integers(1, 6, n), length)
            value = rng.random(n).astype(np.float32)
            for part in np.array_split(np.arange(n), 7):
                writer.add(i, start[part], end[part], value[part])
            for s, e, v in zip(start, end, value, strict=True):
                values[name][s:e] = v
    assert n > 1024 * NODE_SIZE  # so that there are two levels
    with pybigtools.open(str(tmp_path / "x.bw")) as file:
        for name, length in sizes.items():
            np.testing.assert_array_equal(file.values(name, fillna=0.0), values[name])
            for start, end in np.sort(rng.integers(0, length, (20, 2)), axis=1) + np.array([0, 1]):
                found = file.values(name, int(start), int(end), fillna=0.0)
                np.testing.assert_array_equal(found, values[name][start:end])
            # From the zooms
            bins, filled = 8, {"uncovered": 0.0, "fillna": 0.0}
            found = file.values(name, 0, 2_621_440, bins=bins, summary="mean", **filled)
            expected = [part.mean() for part in np.split(values[name][:2_621_440], bins)]
            np.testing.assert_allclose(found, expected, rtol=0.01)
        summary = file.info()["summary"]
        whole = np.concatenate([*values.values()]).astype(float)
        assert summary["basesCovered"] == (whole > 0).sum()
        np.testing.assert_allclose(summary["sum"], whole.sum(), rtol=1e-6)
        np.testing.assert_allclose(summary["max"], whole.max())
        assert file.zooms()[:2] == [256, 1024]
        assert len(list(file.zoom_records(1024, "chr1"))) == -(-4_000_000 // 1024)


def test_names_of_files_are_safe_and_differ(tmp_path):
    groups = {"A": "CD4+ T/NK", "B": "cd4+ t NK", "C": "../up"}
    tracks = coverage(write(tmp_path / "f.tsv", LINES), tmp_path / "a" / "b", groups)
    assert {name: path.name for name, path in tracks.items()} == {
        "../up": "_up.bw",
        "CD4+ T/NK": "CD4+_T_NK.bw",
        "cd4+ t NK": "cd4+_t_NK_2.bw",
    }
    assert all(path.parent == tmp_path / "a" / "b" and path.is_file() for path in tracks.values())


def test_groups_and_cells_without_fragments(tmp_path):
    path = write(tmp_path / "f.tsv", LINES)
    with (
        pytest.warns(UserWarning, match="1 of 2 barcodes have no fragment, first 'Q'"),
        pytest.warns(UserWarning, match=r"Groups without a fragment have no file: \['empty'\]"),
    ):
        tracks = ep.pp.group_coverage(
            path, {"A": "x", "Q": "empty"}, genome=SIZES, directory=tmp_path / "out"
        )
    assert list(tracks) == ["x"]
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["x.bw"]


@pytest.mark.parametrize(
    ("groups", "match"),
    [
        (pd.Series(dtype=object), "`groups` names no cells: it is empty. Pass a column"),
        (pd.Series([np.nan, None], index=["A", "B"]), "none of its 2 cells has a group"),
        (pd.Series(["x", "y"], index=["A", "A"]), "Duplicate barcodes in `groups`"),
        ({}, "it is empty"),
        ({"A-1": "x"}, "None of the 1 barcodes is in the file: first 'A-1', and 'A' there"),
        ({"x": ["A"], "y": ["A"]}, "Duplicate barcodes in `groups`"),
        (pd.DataFrame({"x": [1]}), r"as in `groups=adata.obs\['cell_type'\]`, got DataFrame"),
        (3, r"as in `groups=adata.obs\['cell_type'\]`, a mapping"),
        ("nothing.tsv", "the file 'nothing.tsv' does not exist"),
    ],
)
def test_bad_groups(tmp_path, groups, match):
    path = write(tmp_path / "f.tsv", LINES)
    with pytest.raises((ValueError, TypeError, OSError), match=match) as caught:
        coverage(path, tmp_path / "out", groups)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"genome": {"chr1": 50, "chr2": 60}}, "on chr1 starts at 70, past its end at 50"),
        ({"genome": {"chrZ": 50}}, "None of the 4 fragments was counted; 4 are on contigs"),
        ({"bin_size": 0}, "`bin_size` must be an integer of at least 1"),
        ({"smooth": 5}, "`smooth` must be an integer of at least 10"),
        ({"smooth": 10**9}, "`smooth` must be at most 1,000 times `bin_size`, which is 10,000"),
        ({"counting": "cuts"}, "`counting` must be one of"),
        ({"normalization": "TPM"}, "`normalization` must be one of"),
        ({"format": "wig"}, "`format` must be one of"),
        ({"blacklist": "nothing.bed"}, "'nothing.bed' does not exist"),
        ({"genome": {str(i): 5 for i in range(70_000)}}, "has at most 65,535 contigs"),
    ],
)
def test_bad_options(tmp_path, options, match):
    path = write(tmp_path / "f.tsv", LINES)
    with pytest.raises((ValueError, TypeError, OSError), match=match) as caught:
        coverage(path, tmp_path / "new" / "out", **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_a_blacklist_of_all_fragments_is_named(tmp_path):
    path = write(tmp_path / "f.tsv", LINES)
    everything = pd.DataFrame({"chrom": list(SIZES), "start": 0, "end": 10**6})
    with pytest.raises(ValueError, match="are in the regions of `blacklist`") as caught:
        coverage(path, tmp_path / "out", blacklist=everything)
    assert "contigs" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_the_build_that_fits_is_named(tmp_path):
    lines = [(f"chr{i}", 100, 200, "A") for i in range(1, 20)] + [
        ("chr1", 195_500_000, 195_500_100, "A")
    ]
    path = write(tmp_path / "f.tsv", lines)
    with pytest.raises(ValueError, match="past its end .* in `genome`. Pass the build .* hg38"):
        coverage(path, tmp_path / "out", genome="mm10")


def test_existing_files_are_kept_and_nothing_is_left_after_an_error(tmp_path, monkeypatch):
    path, out = write(tmp_path / "f.tsv", LINES), tmp_path / "out"
    before = {name: track.read_bytes() for name, track in coverage(path, out).items()}
    with pytest.raises(FileExistsError, match=r"NK.bw' exists \(2 of 2 files\): pass `overwrite"):
        coverage(path, out, overwrite=False)
    damaged = write(tmp_path / "g.tsv", [*LINES, ("chr1", 9, 5, "A")])
    with pytest.raises(ValueError, match="line 5: the end does not come after the start"):
        coverage(damaged, out)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(BigWigWriter, "_write_zoom", fail)
    with pytest.raises(OSError, match="No space left"):
        coverage(path, out, bin_size=1)
    with pytest.raises(OSError, match="No space left"):
        coverage(path, tmp_path / "other" / "place")
    assert {each.stem: each.read_bytes() for each in out.iterdir()} == before
    assert not (tmp_path / "other").exists()


def test_folders_that_cannot_be_written_to(tmp_path, monkeypatch):
    path = write(tmp_path / "f.tsv", LINES)
    with pytest.raises(FileExistsError, match="is a file; pass a folder"):
        coverage(path, path)
    with pytest.raises(OSError, match="cannot be made"):
        coverage(path, path / "below")
    (tmp_path / "T.bw").mkdir()
    with pytest.raises(FileExistsError, match="T.bw' is a folder: pass another `directory`"):
        coverage(path, tmp_path)
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(PermissionError, match="cannot be written to; pass another folder"):
        coverage(path, tmp_path / "out")


def test_real_fragments(shared_data, tmp_path):
    """All cuts of a locus, against a table of pandas."""
    path = shared_data / "pbmc10k_51loci_fragments.tsv.gz"
    obs = ep.datasets.pbmc_multiome()["atac"].obs
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* barcodes have no fragment")
        tracks = ep.pp.group_coverage(
            path, obs["cell_type"], genome="hg38", directory=tmp_path, normalization=None
        )
    table = pd.read_csv(path, sep="\t", names=["chrom", "start", "end", "cell", "n"])
    table["group"] = table["cell"].map(obs["cell_type"].astype(str))
    random.seed(0)
    for name in random.sample(sorted(tracks), 3):
        with pybigtools.open(str(tracks[name])) as file:
            for chrom, part in table[table["group"] == name].groupby("chrom"):
                cuts = np.concatenate([part["start"], part["end"] - 1]) // 10
                bins, counts = np.unique(cuts, return_counts=True)
                found = [(start, end, value) for start, end, value in file.records(chrom)]
                start, end, value = map(np.array, zip(*found, strict=True))
                n = -(-(end - start) // 10)
                first = np.repeat(start // 10, n.astype(int))
                within = np.arange(len(first)) - np.repeat(np.cumsum(n) - n, n.astype(int))
                np.testing.assert_array_equal(first + within, bins)
                np.testing.assert_array_equal(np.repeat(value, n.astype(int)), counts)
