"""Counting fragments: brute force, real counts, file formats, several samples, bad input."""

import gzip
import tracemalloc
import warnings

import anndata
import mudata
import numpy as np
import pandas as pd
import pytest
from fragment_files import bgzip, brute_force
from hypothesis import given
from hypothesis import strategies as st

import epifoundation as ep
from epifoundation._files import BGZIP_END
from epifoundation.pp import _read_fragments
from epifoundation.pp._fragment_counter import FragmentCounter
from epifoundation.pp._read_fragments import read_fragments

LINES = [
    ("chr1", 100, 200, "AA-1"),
    ("chr1", 150, 420, "CC-1"),
    ("chr2", 10, 90, "AA-1"),
    ("chrUn_KI1", 5, 50, "AA-1"),
]
PEAKS = ["chr1:90-160", "chr1:190-250", "chr1:300-350", "chr2:0-50", "chr2:60-70"]


def text_of(lines, n_fields=5, end="\n"):
    return "".join("\t".join([*map(str, line), "1"][:n_fields]) + end for line in lines)


@pytest.fixture
def file(tmp_path):
    """A function that writes lines or text to a fragments file."""

    def write(content=LINES, name="fragments.tsv", compress=lambda text: text):
        text = content if isinstance(content, str) else text_of(content)
        (tmp_path / name).write_bytes(compress(text.encode()))
        return tmp_path / name

    return write


def count(path, peaks=PEAKS, **options):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* barcodes have no fragment")
        return ep.pp.count_fragments(path, ep.PeakVocabulary.from_names(peaks), **options)


@pytest.mark.parametrize(
    ("counting", "expected"),
    [
        ("insertion", [[1, 1, 0, 1, 0], [1, 0, 0, 0, 0]]),
        ("fragment", [[1, 1, 0, 1, 1], [1, 1, 1, 0, 0]]),
    ],
)
def test_by_hand(file, counting, expected):
    counted = count(file(), barcodes=["AA-1", "CC-1"], counting=counting)
    assert counted.X.toarray().tolist() == expected
    assert counted.X.dtype == np.float32
    assert counted.obs["n_fragments"].tolist() == [3, 1]
    np.testing.assert_allclose(counted.obs["fraction_in_peaks"], [2 / 3, 1])
    assert counted.var_names.tolist() == PEAKS
    assert counted.var["start"].tolist() == [90, 190, 300, 0, 60]
    report = counted.uns["epifoundation_fragments"]
    assert (
        report["n_fragments"],
        report["in_cells"],
        report["in_peaks"],
        report["unknown_contigs"],
    ) == (4, 4, 3, 1)


FRAGMENTS = st.lists(
    st.tuples(
        st.sampled_from(["chr1", "chr2", "chr3", "contig"]),
        st.integers(0, 50),
        st.integers(1, 30),
        st.sampled_from(["A", "B", "C"]),
    ).map(lambda f: (f[0], f[1], f[1] + f[2], f[3])),
    min_size=1,
    max_size=30,
)
INTERVALS = st.lists(
    st.tuples(
        st.sampled_from(["chr1", "chr2", "chr9"]), st.integers(0, 60), st.integers(1, 40)
    ).map(lambda p: f"{p[0]}:{p[1]}-{p[1] + p[2]}"),
    min_size=1,
    max_size=12,
    unique=True,
)


@given(FRAGMENTS, INTERVALS, st.sampled_from(["insertion", "fragment"]), st.integers(1, 100))
def test_counts_agree_with_brute_force(tmp_path_factory, lines, peaks, counting, block):
    """Overlapping and nested peaks, unsorted lines, unknown contigs, blocks that end anywhere."""
    path = tmp_path_factory.mktemp("fragments") / "f.tsv"
    path.write_text(text_of(lines))
    cells = ["C", "A"]
    expected = brute_force(lines, peaks, cells, counting)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_read_fragments, "BLOCK_BYTES", block)
        if not any(line[3] in cells for line in lines):
            with pytest.raises(ValueError, match="None of the 2 barcodes is in the file"):
                count(path, peaks, barcodes=cells)
        elif not expected.any():
            with pytest.raises(ValueError, match="falls into a peak"):
                count(path, peaks, barcodes=cells, counting=counting)
        else:
            np.testing.assert_array_equal(
                count(path, peaks, barcodes=cells, counting=counting).X.toarray(), expected
            )


def test_real_fragments_give_the_published_counts(shared_data):
    atac = mudata.read_h5mu(shared_data / "pbmc10k_51loci_hg38.h5mu")["atac"]
    path = shared_data / "pbmc10k_51loci_fragments.tsv.gz"
    with pytest.warns(
        UserWarning, match="30 of 7,764 barcodes have no fragment, first 'AAACAGCCACACTAAT-1'"
    ):
        counted = ep.pp.count_fragments(path, atac.var, barcodes=atac.obs_names)
    assert (counted.X != atac.X).nnz == 0
    for cells in (counted, atac):
        with pytest.warns(UserWarning, match="32 of 7,764 cells have no open peak"):
            ep.tl.embed(cells, "pbmc-51loci")
    np.testing.assert_array_equal(counted.obsm["X_epifoundation"], atac.obsm["X_epifoundation"])
    assert counted.uns["epifoundation_fragments"]["in_cells"] == counted.obs["n_fragments"].sum()


@pytest.mark.parametrize("counting", ["insertion", "fragment"])
def test_real_fragments_by_an_independent_count(shared_data, counting):
    """All fragments of some cells against called peaks of another experiment, by bioframe."""
    import bioframe

    peaks = ep.PeakVocabulary.read_bed(
        shared_data.parent / "annotation" / "pbmc_unsorted_10k_peaks_hg38.bed.gz"
    )
    path = shared_data / "pbmc10k_51loci_fragments.tsv.gz"
    table = pd.read_csv(
        path, sep="\t", header=None, names=["chrom", "start", "end", "barcode", "n"]
    )
    cells = table["barcode"].value_counts().index[:300]
    table = table[table["barcode"].isin(cells)].reset_index(drop=True)
    if counting == "insertion":
        last = table.assign(start=table["end"] - 1)
        table = pd.concat([table.assign(end=table["start"] + 1), last], ignore_index=True)
    pairs = bioframe.overlap(table, peaks.intervals, how="inner", return_index=True)
    expected = np.zeros((len(cells), len(peaks)))
    np.add.at(expected, (cells.get_indexer(pairs["barcode"]), pairs["index_"].to_numpy(int)), 1)
    counted = ep.pp.count_fragments(path, peaks, barcodes=cells, counting=counting)
    np.testing.assert_array_equal(counted.X.toarray(), expected)


@pytest.mark.parametrize("counting", ["insertion", "fragment"])
def test_simulated_fragments_give_the_simulated_counts(simulated, tmp_path, counting):
    atac = simulated["atac"]
    path = ep.datasets.simulate_fragments(
        simulated, tmp_path / "f.tsv.gz", background=0.5, n_empty=30
    )
    counted = ep.pp.count_fragments(path, atac.var, barcodes=atac.obs_names, counting=counting)
    expected = np.ceil(atac.X.toarray() / 2) * (2 if counting == "insertion" else 1)
    np.testing.assert_array_equal(counted.X.toarray(), expected)
    assert 0.6 < counted.obs["fraction_in_peaks"].mean() < 0.9
    found = ep.pp.count_fragments(path, atac.var, min_fragments=30, counting=counting)
    assert set(found.obs_names) <= set(atac.obs_names)
    assert found.obs_names.is_monotonic_increasing
    assert found.obs["n_fragments"].min() >= 30
    np.testing.assert_array_equal(found.X.toarray(), counted[found.obs_names].X.toarray())


FORMATS = {
    "plain": ("f.tsv", lambda text: text),
    "gzip": ("f.tsv.gz", gzip.compress),
    "bgzip": ("f.tsv.gz", bgzip),
    "members": ("f.tsv.gz", lambda text: gzip.compress(text[:50]) + gzip.compress(text[50:])),
    "gzip by another name": ("f.bed", gzip.compress),
    "plain by another name": ("f.tsv.gz", lambda text: text),
    "windows": ("f.tsv", lambda text: text.replace(b"\n", b"\r\n")),
    "no last newline": ("f.tsv", lambda text: text[:-1]),
    "byte order mark": ("f.tsv", lambda text: b"\xef\xbb\xbf" + text),
    "comments": ("f.tsv", lambda text: b"# id=x\n# primary_contig=chr1\n" + text + b"# end\n"),
    "blank lines": ("f.tsv", lambda text: b"\n" + text.replace(b"\n", b"\n\n")),
    "four fields": ("f.tsv", lambda text: text.replace(b"\t1\n", b"\n")),
    "as R writes it": ("f.tsv", lambda text: text.replace(b"\t100\t200\t", b"\t1e+02\t200.0\t")),
    "seven fields": ("f.tsv", lambda text: text.replace(b"\t1\n", b"\t1\t+\tx\n")),
    "without chr": ("f.tsv", lambda text: text.replace(b"chr1", b"1").replace(b"chr2", b"2")),
}


@pytest.mark.parametrize("block", [1 << 25, 37])
@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_the_same(file, monkeypatch, kind, block):
    expected = count(file(), barcodes=["CC-1", "AA-1"])
    monkeypatch.setattr(_read_fragments, "BLOCK_BYTES", block)
    name, change = FORMATS[kind]
    counted = count(file(name=name, compress=change), barcodes=["CC-1", "AA-1"])
    assert (counted.X != expected.X).nnz == 0
    pd.testing.assert_frame_equal(counted.obs, expected.obs)


def test_the_order_of_the_lines_does_not_matter(file):
    expected = count(file(), min_fragments=1)
    assert expected.obs_names.tolist() == ["AA-1", "CC-1"]
    counted = count(file(LINES[::-1]), min_fragments=1)
    assert (counted.X != expected.X).nnz == 0
    pd.testing.assert_frame_equal(counted.obs, expected.obs)


def test_barcodes_may_hold_a_hash(file):
    counted = count(file([("chr1", 100, 200, "s1#AA-1"), ("#chr1", 1, 2, "no")]), min_fragments=1)
    assert counted.obs_names.tolist() == ["s1#AA-1"]


def test_several_samples(file):
    files = {"a": file(name="a.tsv"), "b": file(LINES[:2], name="b.tsv")}
    counted = count(files, min_fragments=1)
    assert counted.obs_names.tolist() == ["a_AA-1", "a_CC-1", "b_AA-1", "b_CC-1"]
    assert counted.obs["sample"].tolist() == ["a", "a", "b", "b"]
    assert counted.obs["barcode"].tolist() == ["AA-1", "CC-1"] * 2
    assert counted.obs["n_fragments"].tolist() == [3, 1, 1, 1]
    assert counted.uns["epifoundation_fragments"]["n_fragments"] == 6
    assert "files" not in counted.uns
    for sample, path in files.items():
        alone = count(path, min_fragments=1)
        assert (counted[counted.obs["sample"] == sample].X != alone.X).nnz == 0
    by_name = count(files, barcodes=["b_CC-1", "a_AA-1"])
    by_sample = count(files, barcodes={"b": ["CC-1"], "a": ["AA-1"]})
    assert by_name.obs_names.tolist() == by_sample.obs_names.tolist() == ["b_CC-1", "a_AA-1"]
    assert (by_name.X != counted[by_name.obs_names].X).nnz == (by_name.X != by_sample.X).nnz == 0
    assert count(files, min_fragments=1, separator="#").obs_names[0] == "a#AA-1"


@pytest.mark.parametrize("several", [False, True])
def test_results_are_written_to_files(file, tmp_path, several):
    counted = count({"a": file(), "b": file()} if several else file(), min_fragments=1)
    counted.write_h5ad(tmp_path / "counted.h5ad")
    again = anndata.read_h5ad(tmp_path / "counted.h5ad")
    assert (again.X != counted.X).nnz == 0
    assert (
        again.uns["epifoundation_fragments"]["in_peaks"]
        == counted.uns["epifoundation_fragments"]["in_peaks"]
    )


def test_peaks_are_a_model_a_table_or_a_bed_file(file, tmp_path, model):
    path = file([("chr1", 10_100, 10_300, "A")])
    frame = model.peaks.intervals
    bed = tmp_path / "peaks.bed"
    bed.write_text(
        "track name=x\n# comment\n"
        + frame.assign(name="n").to_csv(sep="\t", header=False, index=False)
    )
    model.save_pretrained(tmp_path / "model")
    expected = ep.pp.count_fragments(path, model, min_fragments=1)
    assert expected.X.sum() == 2
    assert expected.uns["epifoundation_fragments"]["genome"] == "hg38"
    for peaks in (frame, bed, str(bed), model.peaks, tmp_path / "model"):
        counted = ep.pp.count_fragments(path, peaks, min_fragments=1)
        assert (counted.X != expected.X).nnz == 0
    with pytest.raises(
        TypeError, match="`peaks` must be a model, its name or path, a BED file.*got list"
    ):
        ep.pp.count_fragments(path, ["chr1:1-2"])
    with pytest.raises(ValueError, match="Unknown model 'no_such.bed'"):
        ep.pp.count_fragments(path, "no_such.bed")


BAD_LINES = {
    "missing": ("chr1\t5\t9\n", "3 of 4 fields, in 'chr1"),
    "spaces": ("chr1 5 9 AA\n", "1 of 4 fields"),
    "float": ("chr1\t5.5\t9\tAA\t1\n", "the start is not an integer"),
    "word": ("chr1\t5\tx\tAA\t1\n", "the end is not an integer"),
    "empty number": ("chr1\t\t9\tAA\t1\n", "the start is not an integer"),
    "infinite": ("chr1\t5\tinf\tAA\t1\n", "the end is not an integer"),
    "huge": ("chr1\t5\t99999999999999999999\tAA\t1\n", "the end is not an integer"),
    "negative": ("chr1\t-5\t9\tAA\t1\n", "the start is negative"),
    "reversed": ("chr1\t9\t5\tAA\t1\n", "the end does not come after the start"),
    "empty": ("chr1\t9\t9\tAA\t1\n", "the end does not come after the start"),
    "no barcode": ("chr1\t5\t9\t\t1\n", "no barcode"),
    "no chromosome": ("\t5\t9\tAA\t1\n", "no chromosome"),
    "carriage return": ("chr1\t5\t9\tA\rchr1\t5\t9\tB\n", "there is a carriage return in it"),
    "truth": ("chr1\tTrue\t9\tAA\t1\n", "the start is not an integer"),
    "names": ("chrom\tstart\tend\tbarcode\tcount\n", "the start is not an integer"),
}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("block", [1 << 25, 37])
@pytest.mark.parametrize("kind", BAD_LINES)
def test_the_error_for_a_bad_line_gives_its_number(file, monkeypatch, kind, block, end):
    monkeypatch.setattr(_read_fragments, "BLOCK_BYTES", block)
    line, message = BAD_LINES[kind]
    path = file(("# header\n\n" + text_of(LINES) + line + text_of(LINES)).replace("\n", end))
    with pytest.raises(
        ValueError,
        match=f"fragments.tsv', line 7: {message}.*Expected chromosome, start, end and barcode",
    ):
        count(path, min_fragments=1)


@pytest.mark.parametrize("content", [b"", b"# only\n# comments\n", b"\n\n"])
@pytest.mark.parametrize("compress", [bytes, gzip.compress, bgzip])
def test_an_empty_file_is_refused(tmp_path, content, compress):
    path = tmp_path / "f.tsv.gz"
    path.write_bytes(compress(content))
    with pytest.raises(ValueError, match=r"f\.tsv\.gz' contains no fragments"):
        count(path)


def test_a_truncated_file_is_refused(tmp_path):
    text = text_of([("chr1", i, i + 50, f"A{i}") for i in range(2000)]).encode()
    path = tmp_path / "f.tsv.gz"
    for whole in (gzip.compress(text), bgzip(text, 5000)):
        for size in (len(whole) - 5, len(whole) // 2, 20):
            path.write_bytes(whole[:size])
            with pytest.raises(ValueError, match=r"f\.tsv\.gz' is truncated"):
                count(path)
    path.write_bytes(
        bgzip(text, 5000)[: -len(BGZIP_END)]
    )  # between blocks: only the end mark is missing
    with pytest.raises(ValueError, match="the end mark of bgzip is missing"):
        count(path)
    damaged = bytearray(gzip.compress(text))
    damaged[len(damaged) // 2] ^= 255
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"f\.tsv\.gz' is truncated or damaged"):
        count(path)


def test_binary_files_are_refused(tmp_path):
    path = tmp_path / "f.tsv"
    path.write_bytes(bytes(range(256)) * 10)
    with pytest.raises(ValueError, match=r"f\.tsv', line 1: 2 of 4 fields"):
        count(path)
    path.write_bytes(b"chr1\t1\t5\t\xff\xfe\t1\n")
    with pytest.raises(ValueError, match=r"f\.tsv', line 1: it is not text"):
        count(path)
    with pytest.raises(FileNotFoundError, match="The fragments file .*nothing.tsv' does not exist"):
        count(tmp_path / "nothing.tsv")
    with pytest.raises(TypeError, match="a mapping from sample names to paths"):
        count([path])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"barcodes": ["AA", "CC"]},
            "None of the 2 barcodes is in the file: first 'AA', and 'AA-1' there.*suffix",
        ),
        ({"barcodes": []}, "`barcodes` is empty"),
        ({"barcodes": ["AA-1", "AA-1"]}, "Duplicate barcodes: 1 of 2, first 'AA-1'"),
        (
            {"min_fragments": 1000},
            "None of the 2 barcodes has 1,000 fragments.*the most, 3, has 'AA-1'",
        ),
        ({"barcodes": ["AA-1", ""]}, "`barcodes` must be names, got ''"),
        ({"barcodes": ["AA-1", np.nan]}, "`barcodes` must be names, got nan"),
        (
            {"counting": "cuts"},
            r"`counting` must be one of \['insertion', 'fragment'\], got 'cuts'",
        ),
        ({"min_fragments": -1}, "`min_fragments` must be an integer of at least 0, got -1"),
        (
            {"min_fragments": 1, "peaks": ["chr7:5-10"]},
            r"None of the 4 fragments.*4 are on contigs without any: \['chr1'",
        ),
        (
            {"min_fragments": 1, "peaks": ["chr1:5-10"]},
            "None of the 4 fragments of the cells falls into a peak",
        ),
    ],
)
def test_bad_input_is_refused(file, options, message):
    with pytest.raises(ValueError, match=message):
        count(file(), **options)


def test_bad_options_are_refused_before_the_file_is_read(file, tmp_path, monkeypatch):
    monkeypatch.setattr(_read_fragments, "parse_fragments", lambda *_: pytest.fail("read"))
    with pytest.raises(FileNotFoundError, match="nothing' does not exist"):
        count({"a": file(), "b": tmp_path / "nothing"})
    with pytest.raises(ValueError, match=r"Sample names must differ as text, got \[1, '1'\]"):
        count({1: file(), "1": file()})
    empty = tmp_path / "empty.bed"
    empty.write_text("# nothing\n")
    with pytest.raises(ValueError, match="`peaks` is empty"):
        ep.pp.count_fragments(file(), empty)
    empty.write_text("")
    with pytest.raises(ValueError, match="`barcodes` is empty"):
        count(file(), barcodes=empty)


@pytest.mark.parametrize(
    "form", [np.array, pd.Series, pd.Index, iter, lambda n: np.array(n, "S"), pd.Categorical]
)
def test_barcodes_in_any_form(file, form):
    names = ["CC-1", "AA-1"]
    assert count(file(), barcodes=form(names)).obs_names.tolist() == names
    assert (
        count(file(), barcodes=pd.DataFrame({"a": [1, 2]}, index=names)).obs_names.tolist() == names
    )


def test_barcodes_of_objects(file):
    cells = anndata.AnnData(np.zeros((2, 1)), obs=pd.DataFrame(index=["CC-1", "AA-1"]))
    for barcodes in (cells, mudata.MuData({"rna": cells})):
        assert count(file(), barcodes=barcodes).obs_names.tolist() == ["CC-1", "AA-1"]
        both = {"a": file(), "b": file()}
        counted = count(both, barcodes={"a": barcodes, "b": ["AA-1"]})
        assert counted.obs_names.tolist() == ["a_CC-1", "a_AA-1", "b_AA-1"]
    with pytest.raises(TypeError, match="`barcodes` must be a list of names.*got int"):
        count(file(), barcodes=5)


BARCODE_FILES = {
    "plain": "CC-1\nAA-1\n",
    "no last newline": "CC-1\nAA-1",
    "windows": "CC-1\r\nAA-1\r\n",
    "mark": "\ufeffCC-1\nAA-1\n",
    "mark and title": "\ufeffBarcode\r\nCC-1\r\nAA-1\r\n",
    "title": "barcode\nCC-1\nAA-1\n",
    "spaces": "  CC-1 \n\nAA-1\t\n\n",
    "columns": "barcode\tn\nCC-1\t5\nAA-1\t3\n",
    "quotes": '"x"\n"CC-1"\n"AA-1"\n'.replace('"x"\n', '"cell"\n'),
    "comment": "# cells\nCC-1\nAA-1\n",
}


@pytest.mark.parametrize("compress", [bytes, gzip.compress, bgzip])
@pytest.mark.parametrize("kind", BARCODE_FILES)
def test_barcode_files_of_every_form(file, tmp_path, kind, compress):
    path = tmp_path / "barcodes.tsv"
    path.write_bytes(compress(BARCODE_FILES[kind].encode()))
    assert count(file(), barcodes=path).obs_names.tolist() == ["CC-1", "AA-1"]


def test_barcode_files_that_are_refused(file, tmp_path):
    path = tmp_path / "barcodes.csv"
    for text, message in {
        "AA-1\nCC-1\nAA-1\n": "Duplicate barcodes: 1 of 3, first 'AA-1'",
        "barcode,total\nAA-1,5\n": "barcodes.csv' must have one barcode per line, got 'barcode,t",
        "\ufeff\n": "`barcodes` is empty",
    }.items():
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            count(file(), barcodes=path)


def test_a_line_without_end_is_refused_with_little_memory(file, tmp_path):
    """300 MB in a file of 0.3 MB."""
    path = tmp_path / "long.tsv.gz"
    with gzip.open(path, "wb") as compressed:
        compressed.write(text_of(LINES).encode())
        for _ in range(300):
            compressed.write(b"A" * 2**20)
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"long.tsv.gz', line 5: longer than 1,048,576 bytes"):
        count(path, min_fragments=1)
    assert tracemalloc.get_traced_memory()[1] < 2**26 + _read_fragments.BLOCK_BYTES
    tracemalloc.stop()


@pytest.mark.parametrize("block", [1 << 25, 37])
def test_the_length_of_a_line_is_limited_wherever_blocks_end(file, monkeypatch, block):
    monkeypatch.setattr(_read_fragments, "BLOCK_BYTES", block)
    monkeypatch.setattr(_read_fragments, "MAX_LINE", 40)
    text = text_of(LINES) + "chr1\t1\t2\t" + "B" * 31 + "\n" + text_of(LINES)
    assert count(file(text), min_fragments=1).n_obs == 3
    with pytest.raises(ValueError, match="line 5: longer than"):
        count(file(text.replace("B\n", "BB\n")), min_fragments=1)


def write_barcodes(path, n_fragments):
    """A file with so many fragments of each barcode, shuffled."""
    barcode = np.repeat(np.arange(len(n_fragments)), n_fragments)
    barcode = np.random.default_rng(0).permutation(barcode)
    pd.DataFrame({"c": "chr1", "s": 100, "e": 200, "b": barcode}).to_csv(
        path, sep="\t", header=False, index=False
    )
    return path


@pytest.mark.parametrize(("depth", "background"), [(60, 2), (3000, 30)])
def test_cells_are_separated_from_background(tmp_path, depth, background):
    """Files of a few loci and deeper ones: 200 cells, 3,000 other barcodes."""
    rng = np.random.default_rng(1)
    cells = rng.poisson(depth * np.exp(0.5 * rng.normal(size=200)))
    others = rng.poisson(background * rng.exponential(size=3000)) + 1
    path = write_barcodes(tmp_path / "f.tsv", np.concatenate([cells, others]))
    counted = count(path, ["chr1:50-250"])
    is_cell = counted.obs_names.astype(int) < 200
    assert is_cell.sum() >= 0.95 * 200
    assert is_cell.mean() > 0.95
    report = counted.uns["epifoundation_fragments"]
    assert report["left_out"] == 3200 - counted.n_obs
    (minimum,) = report["min_fragments"]
    assert counted.obs["n_fragments"].min() >= minimum > others.mean()
    with pytest.warns(UserWarning, match=f"of 3,200 barcodes. Their .* `min_fragments={minimum}`"):
        count(path, ["chr1:50-250"], min_fragments=int(np.sort(cells)[-5]))
    both = {"a": path, "b": write_barcodes(tmp_path / "g.tsv", np.concatenate([cells * 9, others]))}
    counted = count(both, ["chr1:50-250"])
    found = counted.uns["epifoundation_fragments"]["min_fragments"]
    assert found[0] == minimum < found[1]
    for sample, least in zip("ab", found, strict=True):
        assert counted.obs["n_fragments"][counted.obs["sample"] == sample].min() >= least


def test_cells_without_background_are_all_kept(tmp_path):
    rng = np.random.default_rng(2)
    few = rng.poisson(150 * np.exp(0.3 * rng.normal(size=150)))
    with pytest.warns(UserWarning, match="do not differ .* the 150 of 150 barcodes .*`barcodes=`"):
        assert count(write_barcodes(tmp_path / "f.tsv", few), ["chr1:50-250"]).n_obs == 150
    many = few + 1000
    assert count(write_barcodes(tmp_path / "f.tsv", many), ["chr1:50-250"]).n_obs == 150


def test_cells_of_real_fragments_are_kept(shared_data):
    """51 loci, with 49,100 barcodes of the background: most cells have fewer than 1,000."""
    path = shared_data / "pbmc10k_51loci_fragments.tsv.gz"
    counted = ep.pp.count_fragments(path, None)
    cells = mudata.read_h5mu(shared_data / "pbmc10k_51loci_hg38.h5mu")["atac"].obs_names
    found = counted.obs_names.isin(cells)
    assert found.sum() > 0.93 * 7734
    assert found.mean() > 0.8
    with pytest.warns(UserWarning, match="keeps 8 of 56,834 barcodes. Their numbers .* suggest"):
        assert ep.pp.count_fragments(path, None, min_fragments=1000).n_obs == 8


def test_the_build_of_peaks_is_detected(file):
    """Peaks at the ends of chromosomes reveal hg38."""
    ends = ["chr1:248956000-248956400", "chr10:133797000-133797400", "chr17:83257000-83257400"]
    peaks = ep.genome.parse_intervals([*ends, "chr19:58617000-58617600"])
    with pytest.raises(ValueError, match="fragments are of hg19, the peaks are of hg38"):
        ep.pp.count_fragments(
            file([("chr1", 249_200_000, 249_200_100, "A")]), peaks, min_fragments=1
        )


def test_a_model_used_for_its_peaks_stays_on_its_device(file, model, monkeypatch):
    monkeypatch.setattr(type(model), "to", lambda *_: pytest.fail("moved"))
    ep.pp.count_fragments(file([("chr1", 10_100, 10_300, "A")]), model, min_fragments=1)


def test_barcodes_of_other_samples_are_refused(file):
    files = {"a": file(name="a.tsv"), "b": file(name="b.tsv")}
    with pytest.raises(
        ValueError, match=r"None of the 1 barcodes is in the file: first 'b_X', and 'b_AA-1' there"
    ):
        count(files, barcodes=["a_AA-1", "b_X"])
    with pytest.raises(
        ValueError, match=r"1 of 2 barcodes begin with no sample name, first 'AA-1'.*\['a_', 'b_'\]"
    ):
        count(files, barcodes=["AA-1", "a_AA-1"])
    with pytest.raises(
        ValueError, match=r"`barcodes` has the samples \['c_'\], `fragments` has \['a_', 'b_'\]"
    ):
        count(files, barcodes={"c": ["AA-1"]})
    with pytest.raises(
        ValueError, match="'a_' and 'a_b_' cannot be distinguished: choose another `separator`"
    ):
        count({"a": files["a"], "a_b": files["b"]})


def test_barcodes_from_a_file_and_some_that_are_missing(file, tmp_path):
    names = tmp_path / "barcodes.tsv.gz"
    names.write_bytes(gzip.compress(b"CC-1\nGG-1\nAA-1\n"))
    with pytest.warns(
        UserWarning, match="1 of 3 barcodes have no fragment, first 'GG-1': their rows are empty"
    ):
        counted = ep.pp.count_fragments(file(), ep.PeakVocabulary.from_names(PEAKS), barcodes=names)
    assert counted.obs_names.tolist() == ["CC-1", "GG-1", "AA-1"]
    assert counted.obs["n_fragments"].tolist() == [1, 0, 3]
    assert np.isnan(counted.obs["fraction_in_peaks"].iloc[1])
    with pytest.warns(
        UserWarning, match="1 of 3 barcodes have no fragment.*their rows are left out"
    ):
        counted = ep.pp.count_fragments(
            file(), ep.PeakVocabulary.from_names(PEAKS), barcodes=names, min_fragments=2
        )
    assert counted.obs_names.tolist() == ["AA-1"]
    with pytest.raises(
        FileNotFoundError, match="a file with one per line; the file 'AA-1' does not exist"
    ):
        count(file(), barcodes="AA-1")


def test_fragments_of_another_build_are_refused_at_once(file, monkeypatch):
    """At the first fragment past the end of a chromosome, before the rest of the file is read."""
    monkeypatch.setattr(_read_fragments, "BLOCK_BYTES", 100)
    path = file(
        [("chr1", 249_200_000, 249_200_100, "A"), *[("chr1", 5, 10, "A")] * 50, ("broken",)]
    )
    peaks = ep.PeakVocabulary.from_names(["chr1:0-100"], genome="hg38")
    with pytest.raises(
        ValueError,
        match=r"fragments are of hg19, the peaks are of hg38: on chr1 they reach to "
        r"249,200,100.*PeakMapping\(liftover=",
    ):
        ep.pp.count_fragments(path, peaks, min_fragments=1)
    with pytest.raises(ValueError, match="line 52"):
        ep.pp.count_fragments(path, ep.PeakVocabulary(peaks.intervals), min_fragments=1)


def test_cells_times_peaks_past_two_to_the_31(file):
    """A matrix with more than 2^32 entries: the last cell and peak are still distinguished."""
    n_peaks, n_cells = 70_000, 40_000
    start = 10 * np.arange(n_peaks)
    peaks = ep.PeakVocabulary(pd.DataFrame({"chrom": "chr1", "start": start, "end": start + 5}))
    counter = FragmentCounter(peaks, pd.Index([f"c{i}" for i in range(n_cells)]), "fragment")
    lines = [("chr1", int(start[-1]), int(start[-1]) + 1, f"c{n_cells - 1}"), ("chr1", 0, 1, "c0")]
    for block in read_fragments(file(lines)):
        counter.add(block, "")
    counts = counter.counts().tocoo()
    assert n_peaks * n_cells > 2**31
    assert sorted(zip(counts.row.tolist(), counts.col.tolist(), strict=True)) == [
        (0, 0),
        (n_cells - 1, n_peaks - 1),
    ]


def test_sums_of_blocks_stay_few(file, monkeypatch):
    monkeypatch.setattr(_read_fragments, "BLOCK_BYTES", 30)
    lines = [("chr1", 100 + i % 7, 200, f"c{i % 11}") for i in range(400)]
    counter = FragmentCounter(ep.PeakVocabulary.from_names(PEAKS), None, "insertion")
    for block in read_fragments(file(lines)):
        counter.add(block, "")
        assert len(counter._sums) <= 12
    cells = list(counter.rows)
    np.testing.assert_array_equal(
        counter.counts().toarray(), brute_force(lines, PEAKS, cells, "insertion")
    )
