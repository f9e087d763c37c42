"""Variants of VCF, BED and tables: the same variant from each, and what is refused."""

import gzip
import re

import numpy as np
import pandas as pd
import pytest
from fragment_files import bgzip
from hypothesis import given
from hypothesis import strategies as st

from epifoundation.genome import BUILDS
from epifoundation.genome._alleles import reverse_complement
from epifoundation.genome._chromosome_lengths import chromosome_lengths
from epifoundation.genome._fasta import reference_bases
from epifoundation.genome._variant_build import check_reference, lift_variants
from epifoundation.genome._variants import read_variants
from epifoundation.genome._vcf_header import build_of_header

HEADER = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"


@pytest.fixture
def vcf(tmp_path):
    """Write a VCF of these records; returns its path."""

    def write(*records, header=HEADER, name="a.vcf"):
        path = tmp_path / name
        path.write_text(header + "".join("\t".join(map(str, one)) + "\n" for one in records))
        return path

    return write


nothing = "nothing"


def rows_of(table):
    return list(table.fillna(nothing).itertuples(index=False, name=None))


bases = st.text("ACGT", min_size=1, max_size=4)
records = st.lists(
    st.tuples(
        st.sampled_from(["1", "22", "X", "Y"]),
        st.integers(1, 10**7),
        st.one_of(st.just("."), st.integers(1, 10**9).map("rs{}".format)),
        bases,
        st.lists(bases, min_size=1, max_size=3),
    ),
    min_size=1,
    max_size=12,
)


@given(records, st.sampled_from(["", "chr"]), st.booleans())
def test_each_kind_of_input_has_the_same_variants(tmp_path_factory, rows, prefix, is_bgzip):
    """Oracle: a row for each allele, by a plain loop."""
    folder = tmp_path_factory.mktemp("variants")
    lines = [
        f"{prefix}{chrom}\t{pos}\t{name}\t{ref}\t{','.join(alts)}\t.\t.\tAF=1\n"
        for chrom, pos, name, ref, alts in rows
    ]
    content = (HEADER + "".join(lines)).encode()
    path = folder / "a.vcf.gz"
    path.write_bytes(bgzip(content) if is_bgzip else gzip.compress(content))
    found = read_variants(path).table
    expected = [
        (f"chr{chrom}", pos - 1, pos - 1 + len(ref), nothing if name == "." else name, ref, alt)
        for chrom, pos, name, ref, alts in rows
        for alt in alts
    ]
    assert rows_of(found) == expected
    assert found.index.tolist() == [i for i, row in enumerate(rows) for _ in row[4]]
    split = pd.DataFrame(expected, columns=["chrom", "start", "end", "rsid", "REF", "Alt"])
    split = split.replace(nothing, None)
    by_pos = split.drop(columns=["start", "end"]).assign(POS=split["start"] + 1)
    for table in (split, by_pos):
        again = read_variants(table).table
        assert rows_of(again) == expected
    by_pos.to_csv(folder / "a.csv", index=False, na_rep="NA")
    by_pos.rename(columns={"chrom": "#chrom"}).to_csv(folder / "a.tsv", index=False, sep="\t")
    for name in ("a.csv", "a.tsv"):
        again = read_variants(folder / name).table
        assert rows_of(again) == expected
    bed = split[["chrom", "start", "end", "rsid"]].fillna(".")
    bed.to_csv(folder / "a.bed", index=False, header=False, sep="\t")
    again = read_variants(folder / "a.bed").table
    pd.testing.assert_frame_equal(
        again[["chrom", "start", "end", "id"]],
        found[["chrom", "start", "end", "id"]].reset_index(drop=True),
        check_dtype=False,
    )


@pytest.mark.parametrize(
    ("given_name", "expected"),
    [
        ("1", "chr1"), ("chr1", "chr1"), (" X ", "chrX"), ("MT", "chrM"), (1, "chr1"),
        (22.0, "chr22"), (b"7", "chr7"), ("NC_000001.11", "chr1"), ("NC_000023.11", "chrX"),
        ("NC_012920.1", "chrM"), ("GL000194.1", "GL000194.1"),
    ],
)  # fmt: skip
def test_chromosomes_have_many_names(given_name, expected):
    table = pd.DataFrame({"Chromosome": [given_name, given_name], "BP": ["1,000", 5]})
    found = read_variants(table).table
    assert found["chrom"].tolist() == [expected] * 2
    assert found["start"].tolist() == [999, 4]


def test_symbols_reach_to_their_end(vcf):
    found = read_variants(
        vcf(
            (1, 10, ".", "A", "<DEL>", ".", ".", "SVTYPE=DEL;END=50"),
            (1, 10, ".", "A", "<DUP>", ".", ".", "SVLEN=-30"),
            (1, 10, ".", "A", "<INS>", ".", ".", "SVLEN=30"),
            (1, 10, ".", "AT", "*,A", ".", ".", "."),
            (1, 10, ".", "G", "G]17:198982]", ".", ".", "."),
            (1, 10, ".", "A", "<NON_REF>", ".", ".", "END=500"),
            (1, 10, ".", "a", "g,<NON_REF>", ".", ".", "."),
            (1, 10, ".", "A", ".", ".", ".", "."),
            (1, 10, ".", "AC", "A", ".", ".", "END=11"),
        )
    ).table
    assert found["end"].tolist() == [50, 40, 10, 11, 11, 10, 10, 10, 11]
    assert found["alt"].fillna(nothing).tolist() == [
        "<DEL>", "<DUP>", "<INS>", "*", "A", "G]17:198982]", "G", nothing, "A"
    ]  # fmt: skip
    assert found.index.tolist() == [0, 1, 2, 3, 3, 4, 6, 7, 8]
    assert found["ref"].iloc[6] == "A"


def test_insertions_of_tables_are_at_the_base_before_them():
    table = pd.DataFrame(
        {"chrom": "1", "start": [10, 0], "end": [10, 0], "ref": "-", "alt": "ACT"}, index=["a", "b"]
    )
    found = read_variants(table).table
    assert found[["start", "end"]].to_numpy().tolist() == [[9, 10], [0, 1]]
    assert found.index.tolist() == ["a", "b"]


def bad(**columns):
    return pd.DataFrame({"chrom": ["chr1"], "pos": [10], "ref": ["A"], "alt": ["G"]} | columns)


@pytest.mark.parametrize(
    ("table", "match"),
    [
        (bad(ref=["AX"]), r"1 of 1 values of REF are no alleles, first 'AX' at chr1:10"),
        (bad(alt=["G;T"]), r"values of ALT are no alleles, first 'G;T'.*or a symbol such as <DEL>"),
        (bad(ref=["<DEL>"]), "values of REF are no alleles"),
        (bad(pos=[0]), r"a position that is none.*row 1 .chr1:0.*`pos` from 1 on"),
        (bad(pos=[1.5]), "a position that is none"),
        (bad(pos=["x"]), "no position that is a number"),
        (bad(pos=[None], id=["rs5"]), "first in row 1 .on chr1, rs5.. Drop or complete"),
        (bad(pos=[np.inf]), "a position that is none"),
        (bad(pos=[2**60]), "a position that is none"),
        (bad(chrom=[None]), "have no chromosome"),
        (bad().drop(columns="pos"), "no positions: expected the columns `chrom` and `pos`"),
        (pd.DataFrame({"rsid": ["rs1"]}), "rsIDs alone are not looked up"),
        (pd.DataFrame({"p": [1]}, index=["rs1"]), "rsIDs alone are not looked up"),
        (bad().iloc[:0], "The table has no variants"),
        (bad(start=5, end=9).drop(columns="pos"), "REF of another length.*'A' at chr1:5-9"),
        (bad(start=9, end=5).drop(columns="pos"), "not after `end`"),
        (pd.concat([bad(), bad()[["pos"]]], axis=1), "several columns 'pos'"),
    ],
)  # fmt: skip
def test_tables_that_are_refused(table, match):
    with pytest.raises(ValueError, match=match):
        read_variants(table)


@pytest.mark.parametrize(
    ("record", "match"),
    [
        ((1, 10, ".", "A", "G?"), "values of ALT are no alleles, first 'G\\?' at chr1:10"),
        ((1, 0, ".", "A", "G"), "a position that is none"),
        ((1, "ten", ".", "A", "G"), "no position that is a number"),
        ((1, 10, "."), "line 3: 3 of at least 5 tab-separated columns"),
        ((1, 10, "rs1", "AC", "A", ".", ".", "END=15"), "chr1:10 .rs1. has a REF of 2 bases, but"),
        ((1, 10, ".", "A", "<DEL>", ".", ".", "END=5"), "END='5' of chr1:10 is not a position"),
        ((1, 10, ".", "A", "<DEL>", ".", ".", "END=x"), "END='x'"),
    ],
)  # fmt: skip
def test_records_that_are_refused(vcf, record, match):
    with pytest.raises(ValueError, match=match):
        read_variants(vcf(record))


def test_files_that_are_refused(vcf, tmp_path):
    with pytest.raises(ValueError, match=r"a.vcf' has no variants: it is empty, or has a header"):
        read_variants(vcf())
    content = (HEADER + "1\t10\trs1\tA\tG\n" * 3000).encode()
    path = tmp_path / "cut.vcf.gz"
    path.write_bytes(bgzip(content)[:-40])
    with pytest.raises(ValueError, match="the end mark of bgzip is missing"):
        read_variants(path)
    path.write_bytes(gzip.compress(content)[:-20])
    with pytest.raises(ValueError, match=r"cut.vcf.gz' is not text, or is truncated"):
        read_variants(path)
    path.write_bytes(bgzip(b"BCF\x02\x02" + bytes(100)))
    with pytest.raises(ValueError, match="is a BCF file.*bcftools view"):
        read_variants(path)
    (tmp_path / "ragged.csv").write_text("chrom,pos\n1,5\n1,5,6\n")
    with pytest.raises(ValueError, match="row 2 has 3 fields, the header 2"):
        read_variants(tmp_path / "ragged.csv")
    (tmp_path / "text.txt").write_text("Some text\nof several words and lines\n")
    with pytest.raises(ValueError, match=r"text.txt' has no positions.*\['Some', 'text'\]"):
        read_variants(tmp_path / "text.txt")
    (tmp_path / "ids.txt").write_text("rsid\nrs1\n")
    with pytest.raises(ValueError, match="rsIDs alone are not looked up"):
        read_variants(tmp_path / "ids.txt")
    (tmp_path / "empty.tsv").write_text("")
    with pytest.raises(ValueError, match="has no positions"):
        read_variants(tmp_path / "empty.tsv")
    for missing, match in (("rs123", "rsIDs alone are not"), ("no.vcf", "does not exist")):
        with pytest.raises((ValueError, FileNotFoundError), match=match):
            read_variants(missing)
    with pytest.raises(FileNotFoundError, match="is a folder"):
        read_variants(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match="cannot be the path|does not exist"):
        read_variants("x" * 3000)
    with pytest.raises(TypeError, match="got list. rsIDs alone are not looked up"):
        read_variants(["rs1", "rs2"])
    with pytest.raises(TypeError, match="got int.$"):
        read_variants(5)
    with pytest.raises(TypeError, match="The column 'chrom' of `variants` must be text or numbers"):
        read_variants(bad(chrom=[["chr1"]]))


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("prefix", ["", "chr"])
def test_the_build_of_a_header_is_that_of_its_contigs(build, prefix):
    lines = [
        f"##contig=<ID={prefix}{name[3:]},length={length},md5=x>"
        for name, length in chromosome_lengths(build).items()
    ]
    found, evidence = build_of_header(["##reference=hg18.fa", *lines, "##contig=<ID=GL1,length=5>"])
    assert found == build
    assert "`##contig`: chr1 has" in evidence
    assert build_of_header([lines[0].replace("length=", "length=1"), *lines[1:]])[0] is None


@pytest.mark.parametrize(
    ("line", "build"),
    [
        ("##reference=GRCh37", "hg19"),
        ("##reference=file:///seq/references/Homo_sapiens_assembly38.fasta", "hg38"),
        ("##reference=ftp://ftp/human_g1k_v37.fasta", "hg19"),
        ("##reference=GRCh38.p14", "hg38"),
        ("##reference=/data/hs37d5.fa.gz", "hg19"),
        ("##contig=<ID=1,assembly=b37>", "hg19"),
        ("##contig=<ID=1,assembly=GRCm39,length=9>", "mm39"),
        ("##reference=/data/hg380/a.fa", None),
        ("##source=hg38", None),
    ],
)
def test_the_build_of_a_header_may_be_named(line, build):
    found, evidence = build_of_header([line])
    assert found == build
    assert evidence == (f"`{line}`" if build else "")


def test_reverse_complements():
    alleles = pd.Series(["A", "ACGTN", None, "<DEL>", "*", "-"], dtype=object)
    turned = reverse_complement(alleles)
    assert turned.fillna("?").tolist() == ["T", "NACGT", "?", "<DEL>", "*", "-"]
    assert reverse_complement(turned).equals(alleles.astype(turned.dtype))


CHAIN = """chain 1000 chr1 1000 + 100 200 chr2 2000 + 500 610 1
50\t0\t10
50

chain 1000 chr1 1000 + 300 400 chr3 3000 - 1000 1100 2
100

"""


@pytest.fixture
def chain(tmp_path):
    path = tmp_path / "a.chain"
    path.write_text(CHAIN)
    return path


@given(st.lists(st.tuples(st.integers(0, 500), bases), min_size=1, max_size=20))
def test_variants_are_lifted_by_their_chain(tmp_path_factory, rows):
    """Oracle: the chain by hand, base by base; on the reversed strand, sequence is complemented."""
    path = tmp_path_factory.mktemp("chain") / "a.chain"
    path.write_text(CHAIN)

    def lifted(base):
        if 100 <= base < 200:
            return "chr2", base + 400 + 10 * (base >= 150), "+"
        return ("chr3", 3000 - 1 - (1000 + base - 300), "-") if 300 <= base < 400 else None

    table = pd.DataFrame({"chrom": "chr1", "start": [start for start, _ in rows]})
    table["end"] = table["start"] + [len(ref) for _, ref in rows]
    table["id"], table["ref"], table["alt"] = None, [ref for _, ref in rows], "A"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("epifoundation.genome._variant_build.warn", lambda message: None)
        moved, status = lift_variants(table, path)
    pairs = dict(zip("ACGT", "TGCA", strict=True))
    for i, (start, ref) in enumerate(rows):
        ends = [lifted(base) for base in (start, start + len(ref) - 1)]
        together = all(ends) and (ends[0][0], abs(ends[1][1] - ends[0][1])) == (
            ends[1][0],
            len(ref) - 1,
        )
        assert status[i] == ("lifted" if together else "split" if all(ends) else "lost")
        assert (i in moved.index) == together
        if together:
            row = moved.loc[i]
            low = min(end[1] for end in ends)
            assert (row["chrom"], row["start"], row["end"]) == (ends[0][0], low, low + len(ref))
            turned = "".join(pairs[base] for base in reversed(ref))
            assert row["ref"] == (turned if ends[0][2] == "-" else ref)
            assert row["alt"] == ("T" if ends[0][2] == "-" else "A")


@pytest.fixture
def fasta(tmp_path):
    """Lines of different lengths, lower and upper case."""
    path = tmp_path / "a.fa"
    path.write_text(">1 first\nACGTAC\nGTTTAA\nCC\n>chrX\nnnnacgt\n")
    (tmp_path / "a.fa.fai").write_text("1\t14\t9\t6\t7\nchrX\t7\t32\t7\t8\n")
    return path


def test_bases_are_those_of_the_file(fasta):
    sequences = {"chr1": "ACGTACGTTTAACC", "chrX": "NNNACGT"}
    for chrom, sequence in sequences.items():
        at = np.arange(-1, len(sequence) + 2)
        found = reference_bases(fasta, pd.Series([chrom] * len(at)), at)
        expected = [sequence[i : i + 1].encode() if i >= 0 else b"" for i in at]
        assert found.tolist() == expected
    assert reference_bases(fasta, pd.Series(["chr9"]), np.array([0])).tolist() == [b""]
    (fasta.parent / "a.fa.fai").write_text("1\t9000\t9\t6\t7\n")
    with pytest.raises(ValueError, match="is not the index of"):
        reference_bases(fasta, pd.Series(["1"]), np.array([8000]))
    (fasta.parent / "a.fa.fai").unlink()
    with pytest.raises(FileNotFoundError, match=re.escape("(`samtools faidx a.fa`)")):
        reference_bases(fasta, pd.Series(["1"]), np.array([0]))


def test_ref_is_compared_with_the_genome(fasta):
    table = pd.DataFrame({"chrom": "chr1", "pos": [1, 5, 6, 3], "ref": ["A", "ACG", "C", None]})
    table["alt"], table["id"] = "<DEL>", "rs1"
    found = read_variants(table).table
    check_reference(found, fasta, lifted=False)
    found.loc[1, "ref"] = "ATG"
    match = r"REF of 1 of 4 variants is not.*chr1:5 \(rs1\): REF is 'ATG', '.*a.fa' has 'ACG'"
    with pytest.raises(ValueError, match=match):
        check_reference(found, fasta, lifted=False)
    with pytest.warns(UserWarning, match="The builds differ there"):
        check_reference(found, fasta, lifted=True)
    found["chrom"] = "chr7"
    with pytest.raises(ValueError, match=r"3 of 4 variants are not in"):
        check_reference(found, fasta, lifted=False)
