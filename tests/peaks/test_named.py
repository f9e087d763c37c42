"""Peak sets by name, from a server on this machine: what is kept, and what may go wrong."""

import gzip
import hashlib
from functools import partial

import pandas as pd
import pytest

import epifoundation as ep
from epifoundation.models._peaks import resolve_peaks

LINES = [  # as in the registry: more columns, and a line twice
    "chr1\t181251\t181601\tEH38D4327497\tEH38E2776516\tpELS",
    "chr1\t190865\t191071\tEH38D4327503\tEH38E2776517\tdELS,CTCF-bound",
    "chr1\t190865\t191071\tEH38D4327503\tEH38E2776517\tdELS,CTCF-bound",
    "chrX\t100\t300\tEH38D4327504\tEH38E2776518\tCA",
]
CONTENT = gzip.compress("\n".join(LINES).encode() + b"\n")
EXPECTED = pd.DataFrame(
    {
        "chrom": ["chr1", "chr1", "chrX"],
        "start": [181251, 190865, 100],
        "end": [181601, 191071, 300],
    }
)
RECORD = "/files/ENCFF420VPZ/?format=json"
FILE = "/files/ENCFF420VPZ/@@download/ENCFF420VPZ.bed.gz"


def record_of(content):
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    return {"accession": "ENCFF420VPZ", "file_size": len(content), "md5sum": md5}


@pytest.fixture
def encode(web):
    """A server with the human registry."""
    web.files[FILE] = CONTENT
    web.answers[RECORD] = record_of(CONTENT)
    return web


def read():
    return ep.PeakVocabulary.named("encode-ccre-hg38")


def folder():
    return ep.settings.cache_dir / "peaks"


def test_peaks_by_name_are_downloaded_once(encode):
    for _ in range(2):
        peaks = read()
        pd.testing.assert_frame_equal(peaks.intervals, EXPECTED, check_dtype=False)
        assert peaks.genome == "hg38"
    assert encode.paths() == [RECORD, FILE]


def test_the_mouse_registry_has_its_own_file_and_build(encode):
    encode.files["/files/ENCFF167FJQ/@@download/ENCFF167FJQ.bed.gz"] = CONTENT
    assert ep.PeakVocabulary.named("encode-ccre-mm10").genome == "mm10"
    assert "/files/ENCFF167FJQ/?format=json" in encode.paths()


def test_a_mirror_needs_no_records(encode):
    del encode.answers[RECORD]
    assert len(read()) == 3


def test_what_the_portal_publishes_is_compared(encode):
    encode.answers[RECORD]["md5sum"] = "0" * 32
    with pytest.raises(
        ValueError, match=r"ENCFF420VPZ.bed.gz has the md5 .* instead of 0+ and was"
    ):
        read()
    encode.answers[RECORD] |= {"md5sum": None, "file_size": 7}
    with pytest.raises(ValueError, match=r"has \d+ bytes, but 7 are expected"):
        read()
    assert not list(folder().glob("*.bed.gz*[!k]"))


def test_a_changed_file_is_downloaded_again(encode):
    read()
    path = folder() / "ENCFF420VPZ.bed.gz"
    path.write_bytes(gzip.compress(b"chr9\t1\t2\n", mtime=0))
    assert len(read()) == 3
    assert encode.paths() == [RECORD, FILE] * 2


def test_a_file_put_there_by_hand_counts_and_is_remembered(encode):
    folder().mkdir(parents=True)
    path = folder() / "ENCFF420VPZ.bed.gz"
    path.write_bytes(gzip.compress(b"chr9\t1\t2\n", mtime=0))
    assert list(read().names) == ["chr9:1-2"]
    assert not encode.requests
    path.write_bytes(gzip.compress(b"chr8\t1\t2\n", mtime=0))
    assert len(read()) == 3


def test_offline_the_error_says_where_to_put_the_file(encode, monkeypatch):
    monkeypatch.setattr(ep.settings, "encode_url", "http://127.0.0.1:9")
    message = (
        r"Could not download the peaks \(.*refused\). Call again, or put the file "
        r"http://127.0.0.1:9/files/ENCFF420VPZ/@@download/ENCFF420VPZ.bed.gz there yourself as "
        r"'.*peaks/ENCFF420VPZ.bed.gz'"
    )
    with pytest.raises(ConnectionError, match=message) as raised:
        read()
    assert "\n" not in str(raised.value)
    monkeypatch.setattr(ep.settings, "encode_url", encode.address)
    read()
    monkeypatch.setattr(ep.settings, "encode_url", "http://127.0.0.1:9")
    assert len(read()) == 3


@pytest.mark.parametrize(
    "content", [b"", b"chr1\t5\t9\n", CONTENT[:-9], gzip.compress(b"a\tb\n", mtime=0)]
)
def test_a_file_that_is_no_bed_file_is_refused(encode, content):
    encode.files[FILE], encode.answers[RECORD] = content, record_of(content)
    with pytest.raises(ValueError, match=r"'.*ENCFF420VPZ.bed.gz' is not a BED file, gzip \("):
        read()


def test_unknown_names_are_listed(web, tmp_path):
    known = r"\['encode-ccre-hg38', 'encode-ccre-mm10'\]"
    with pytest.raises(ValueError, match=rf"no peak set 'encode-ccre-hg19'; available: {known}"):
        ep.PeakVocabulary.named("encode-ccre-hg19")
    with pytest.raises(ValueError, match=rf"Unknown model 'encode-ccre-hg19'.* one of {known}"):
        resolve_peaks("encode-ccre-hg19")
    assert not web.requests


def test_a_file_of_that_name_goes_first(encode, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "encode-ccre-hg38").write_text("chr7\t10\t20\n")
    assert list(resolve_peaks("encode-ccre-hg38").names) == ["chr7:10-20"]
    assert not encode.requests


def test_every_function_with_peaks_takes_the_name(encode, tmp_path):
    names = {"chr1:181251-181601", "chr1:190865-191071", "chrX:100-300"}
    fragments = tmp_path / "fragments.tsv"
    fragments.write_text("chr1\t181300\t181400\tA\nchrX\t150\t500\tA\n")
    counted = ep.pp.count_fragments(fragments, "encode-ccre-hg38", min_fragments=1)
    assert dict(zip(counted.var_names, counted.X.toarray()[0], strict=True)) == {
        "chr1:181251-181601": 2,
        "chr1:190865-191071": 0,
        "chrX:100-300": 1,
    }
    assert counted.uns["epifoundation_fragments"]["genome"] == "hg38"
    merged = ep.pp.consensus_peaks(["encode-ccre-hg38", EXPECTED.iloc[:1]])
    assert set(merged.names) == names
    assert merged.genome == "hg38"


def test_pretrain_takes_peaks_in_any_form(encode, simulated, model, tmp_path):
    var = simulated["atac"].var[["chrom", "start", "end"]]
    bed = tmp_path / "peaks.bed"
    var.to_csv(bed, sep="\t", header=False, index=False)
    content = gzip.compress(bed.read_bytes())
    encode.files[FILE], encode.answers[RECORD] = content, record_of(content)
    expected = ep.PeakVocabulary.from_var(var, genome="hg38")
    fit = partial(ep.tl.pretrain, simulated["atac"], objective="peaks", genome="hg38")
    revision = fit(peaks=expected).revision
    for peaks in (bed, str(bed), var, "encode-ccre-hg38"):
        assert fit(peaks=peaks).revision == revision
    made = fit(peaks=model)
    assert made.peaks.same_as(model.peaks.intervals)
    with pytest.raises(TypeError, match="`peaks` must be"):
        ep.tl.pretrain(simulated["atac"], peaks=["chr1:1-2"], objective="peaks")
