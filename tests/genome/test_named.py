"""Annotations by name, from a server on this machine: what is kept, and what may go wrong."""

import functools
import gzip
import hashlib
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pandas as pd
import pytest

import epifoundation as ep
from epifoundation.genome import _named

LINES = [  # chromosome, first and last base, strand, name, type
    ("chr1", 1001, 2000, "+", "A", "protein_coding"),
    ("chr1", 5001, 9000, "-", "B", "lncRNA"),
    ("chr2", 101, 300, "+", "B", "protein_coding"),  # shorter, but protein-coding
    ("chrY", 401, 900, "+", "P", "protein_coding"),
    ("chrX", 1401, 1900, "-", "P", "protein_coding"),  # on both X and Y
    ("chr11", 60_455_847, 60_470_760, "+", "MS4A1", "protein_coding"),
]
FILE = "small.gff3.gz"


def gff3(lines):
    text = "##gff-version 3\n"
    for i, (chrom, first, last, strand, name, kind) in enumerate(lines):
        what = f"gene_id=ENSG{i};gene_type={kind};gene_name={name}"
        for feature in ("gene", "transcript"):
            fields = [chrom, "HAVANA", feature, first, last, ".", strand, ".", f"ID=x{i};{what}"]
            text += "\t".join(map(str, fields)) + "\n"
    return gzip.compress(text.encode())


class Server:
    """Serves one folder; `cut` sends half of a file, `requests` counts."""

    def __init__(self, folder):
        self.folder, self.requests, self.cut, self.address = folder, 0, False, ""

    def start(self):
        outer = self

        class Handler(SimpleHTTPRequestHandler):
            def log_message(self, *args):
                pass

            def do_GET(self):
                outer.requests += 1
                if not outer.cut:
                    super().do_GET()
                    return
                content = (outer.folder / FILE).read_bytes()
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) // 2])

        handler = functools.partial(Handler, directory=str(self.folder))
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        self.address = f"http://127.0.0.1:{server.server_port}"
        return server


@pytest.fixture
def gencode(tmp_path, monkeypatch):
    """hg38 and mm39 are one small file on this machine; the cache is empty."""
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / FILE).write_bytes(gff3(LINES))
    made = Server(folder)
    server = made.start()
    monkeypatch.setattr(ep.settings, "cache_dir", tmp_path / "cache")
    digest = hashlib.sha256((folder / FILE).read_bytes()).hexdigest()
    made.release = _named.Release(f"{made.address}/{FILE}", digest)
    for name in ("hg38", "mm39"):
        monkeypatch.setitem(_named.RELEASES, name, made.release)
    yield made
    server.shutdown()
    server.server_close()


def test_genes_by_name_are_downloaded_once(gencode):
    genes = ep.genome.read_genes("hg38")
    expected = pd.DataFrame(
        {
            "chrom": ["chr1", "chr2", "chrX", "chr11"],
            "start": [1000, 100, 1400, 60_455_846],
            "end": [2000, 300, 1900, 60_470_760],
            "strand": ["+", "+", "-", "+"],
        },
        index=["A", "B", "P", "MS4A1"],
    )
    pd.testing.assert_frame_equal(genes, expected, check_dtype=False)
    assert ep.genome.transcription_start(genes).tolist() == [1000, 100, 1899, 60_455_846]
    genes["start"] = 0  # the caller's table is a copy
    pd.testing.assert_frame_equal(ep.genome.read_genes("GRCh38"), expected, check_dtype=False)
    assert gencode.requests == 1


def test_a_file_of_that_name_goes_first(gencode, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hg38").write_text("chr7\t10\t20\tmine\n")
    assert list(ep.genome.read_genes("hg38").index) == ["mine"]
    (tmp_path / "mm39").mkdir()  # a folder is no annotation
    assert "MS4A1" in ep.genome.read_genes("mm39").index
    assert gencode.requests == 1


def test_unknown_names_and_missing_files_are_told_apart(gencode):
    with pytest.raises(ValueError, match=r"'hg17' is neither a file nor the name.*'hg38', 'hg19'"):
        ep.genome.read_genes("hg17")
    with pytest.raises(FileNotFoundError, match=r"'genes\.gtf' does not exist"):
        ep.genome.read_genes("genes.gtf")
    assert gencode.requests == 0


def test_offline_the_cache_is_used_and_without_it_the_error_says_what_to_do(gencode, monkeypatch):
    nowhere = gencode.release._replace(url=f"http://127.0.0.1:9/{FILE}")
    monkeypatch.setitem(_named.RELEASES, "hg38", nowhere)
    with pytest.raises(ConnectionError, match=r"Could not download http.*put http.*annotation'"):
        ep.genome.read_genes("hg38")
    folder = ep.settings.cache_dir / "annotation"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_bytes((gencode.folder / FILE).read_bytes())  # put there by hand
    assert len(ep.genome.read_genes("hg38")) == 4


def test_a_wrong_checksum_is_refused_and_nothing_is_kept(gencode, monkeypatch):
    monkeypatch.setitem(_named.RELEASES, "hg38", gencode.release._replace(sha256="0" * 64))
    with pytest.raises(ValueError, match=r"has a wrong sha256 and was not kept\. Call again"):
        ep.genome.read_genes("hg38")
    assert list((ep.settings.cache_dir / "annotation").iterdir()) == []


def test_an_interrupted_download_is_repeated(gencode):
    gencode.cut = True
    with pytest.raises((ConnectionError, ValueError), match="Call again"):
        ep.genome.read_genes("hg38")
    gencode.cut = False
    assert len(ep.genome.read_genes("hg38")) == 4
    path = ep.settings.cache_dir / "annotation" / FILE
    path.write_bytes(path.read_bytes()[:50])  # damaged later
    assert len(ep.genome.read_genes("hg38")) == 4
    assert gencode.requests == 3


def test_tools_take_names_and_refuse_another_genome(gencode):
    atac = ep.datasets.pbmc_multiome()["atac"][:50].copy()
    activity = ep.tl.gene_activity(atac, annotation="hg38")
    assert activity[:, "MS4A1"].X.sum() > 0
    with pytest.raises(ValueError, match=r"`annotation='mm39'` is of another genome build.*hg38"):
        ep.tl.gene_activity(atac, annotation="mm39")
    with pytest.raises(ValueError, match="`annotation='mm39'` is of mm39, the peaks are of hg38"):
        ep.tl.link_peaks(atac, genes="MS4A1", annotation="mm39")
    assert not atac.uns


def test_every_release_has_a_digest_and_https():
    for release in _named.RELEASES.values():
        assert release.url.startswith("https://")
        assert len(bytes.fromhex(release.sha256)) == 32
        assert release.file.endswith(".gff3.gz")


def test_many_genes_of_a_name_agree_with_a_slow_choice(gencode):
    rng = np.random.default_rng(0)
    lines = [
        (f"chr{rng.integers(1, 4)}", (first := int(rng.integers(1, 900))),
         first + int(rng.integers(1, 99)), "+", f"g{rng.integers(8)}",
         rng.choice(["protein_coding", "lncRNA"]))
        for _ in range(60)
    ]  # fmt: skip
    path = gencode.folder / "many.gff3.gz"
    path.write_bytes(gff3(lines))
    genes = _named._parse(path)
    for name in {line[4] for line in lines}:
        ranks = [
            (line[5] == "protein_coding", line[2] - line[1]) for line in lines if line[4] == name
        ]
        row = genes.loc[name]
        kept = [
            (line[5] == "protein_coding", line[2] - line[1])
            for line in lines
            if (line[4], line[0], line[1] - 1, line[2]) == (name, row.chrom, row.start, row.end)
        ]
        assert max(ranks) in kept
