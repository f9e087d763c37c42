"""Any bytes as a fragments file: what a plain Python loop finds, or an error with file and line.

``EPIFOUNDATION_FUZZ=10000`` tries as many examples.
"""

import gzip
import os
import re
import warnings

import numpy as np
import pytest
from fragment_files import bgzip, brute_force
from hypothesis import given, settings
from hypothesis import strategies as st

import epifoundation as ep
from epifoundation.pp import _read_fragments
from epifoundation.pp._read_fragments import read_fragments

N_EXAMPLES = int(os.environ.get("EPIFOUNDATION_FUZZ", "100"))
PEAKS = ["chr1:0-40", "chr1:30-60", "chr2:10-90"]
INTEGER = re.compile(r"[ \v\f]*[-+]?[0-9]+([.]0*)?([eE][+]?[0-9]+)?[ \v\f]*")
# What a file can be refused for as a whole
OF_FILES = ("contains no fragments", "is truncated", "is a ", "is an ", "compressed with")


def expected(content):
    """The fragments of a text, or the number of the first line that is none."""
    found = []
    content = content.removeprefix("\ufeff".encode())
    for i, line in enumerate(content.split(b"\n"), start=1):
        line = line.removesuffix(b"\r")
        if not line.strip(b" ") or line.startswith(b"#"):
            continue
        fields = line.split(b"\t")
        if b"\r" in line:
            return i
        try:
            chrom, start, end, barcode = (field.decode() for field in fields[:4])
            if not INTEGER.fullmatch(start) or not INTEGER.fullmatch(end):
                return i
            start, end = int(float(start)), int(float(end))
        except (ValueError, OverflowError):
            return i
        if not chrom or not barcode or not 0 <= start < end < 2**62:
            return i
        prefix = "chr" if re.fullmatch(r"[0-9]{1,2}|[XYM]|MT", chrom) else ""
        found.append((prefix + ("M" if chrom == "MT" else chrom), start, end, barcode))
    return found


def read(path):
    fragments = []
    for block in read_fragments(path):
        chrom, barcode = block.chroms[block.chrom], block.barcodes[block.barcode]
        fragments += zip(chrom, block.start.tolist(), block.end.tolist(), barcode, strict=True)
    return fragments


ODD = ["1e1", "2E+01", "30.0", " 7", "8 ", "+9", "-1", "", "x", "1.5", "nan", "inf", "1_0", "0x1f"]
ODD += ["9" * 30, "1e400", "\u0663", "5\r", "True", "1e", ".", "5.", "007", "\x005"]
NUMBERS = st.integers(0, 99).map(str) | st.sampled_from(ODD)
WORDS = st.sampled_from(
    ["chr1", "chr2", "1", "MT", "A-1", "B", "#x", "", " ", "NA", '"q', "é", "a,b"]
)
FIELDS = st.tuples(WORDS, NUMBERS, NUMBERS, WORDS, st.sampled_from(["", "1", "x"])).map(list)
VALID = st.builds(
    lambda chrom, start, size, cell: [chrom, str(start), str(start + size), cell, "1"],
    st.sampled_from(["chr1", "chr2", "X"]),
    st.integers(0, 90),
    st.integers(1, 40),
    st.sampled_from(["A", "B#1", "é"]),
)
LINES = (
    VALID.map("\t".join)
    | (VALID | FIELDS).map(lambda fields: "\t".join(fields[:4]))
    | FIELDS.map("\t".join)
    | st.sampled_from(["", "# note", "track", "\t\t\t", " ", "chr1", "#\tchr1\t1\t2"])
)
TEXTS = st.tuples(
    st.lists(VALID.map("\t".join), max_size=8) | st.lists(LINES, max_size=6),
    st.sampled_from(["\n", "\r\n", "\n\n"]),
    st.booleans(),
    st.sampled_from(["", "", "\ufeff"]),
).map(lambda parts: (parts[3] + parts[1].join(parts[0]) + parts[1] * parts[2]).encode())
BYTES = TEXTS | st.binary(max_size=60) | st.tuples(TEXTS, st.binary(max_size=9)).map(b"".join)


@settings(max_examples=N_EXAMPLES, deadline=None)
@given(
    BYTES,
    st.sampled_from([bytes, gzip.compress, bgzip]),
    st.integers(1, 80),
    st.none() | st.tuples(st.floats(0, 1), st.integers(0, 255)),
)
def test_any_bytes(tmp_path_factory, content, compress, block, damage):
    path = tmp_path_factory.getbasetemp() / "fuzz.tsv.gz"
    stored = bytearray(compress(content))
    if damage and stored:
        place = int(damage[0] * (len(stored) - 1))
        stored[place] ^= damage[1]
        stored = stored[: len(stored) if damage[1] else place]
    path.write_bytes(stored)
    is_whole = bytes(stored) == compress(content)
    wanted = expected(content if is_whole else bytes(stored))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_read_fragments, "BLOCK_BYTES", block)
        try:
            found = read(path)
        except ValueError as error:
            message = str(error)
            assert message.startswith(f"'{path}'")
            assert "\n" not in message
            if any(reason in message for reason in OF_FILES):
                return
            assert re.search(r"', (after )?line [\d,]+: ", message), message
            if is_whole:
                assert f", line {wanted}: " in message, (wanted, message)
            return
        if is_whole or compress is bytes:
            assert found == wanted


@settings(max_examples=N_EXAMPLES, deadline=None)
@given(
    st.lists(VALID, min_size=1, max_size=20),
    st.sampled_from(["insertion", "fragment"]),
    st.integers(1, 80),
    st.randoms(use_true_random=False),
)
def test_counts_are_those_of_a_loop_in_any_order(tmp_path_factory, rows, counting, block, random):
    path = tmp_path_factory.getbasetemp() / "fuzz.tsv"
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    lines = [(row[0], int(row[1]), int(row[2]), row[3]) for row in rows]
    cells = sorted({row[3] for row in rows})
    wanted = brute_force(lines, PEAKS, cells, counting)
    peaks = ep.PeakVocabulary.from_names(PEAKS)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(_read_fragments, "BLOCK_BYTES", block)
        if not wanted.any():
            with pytest.raises(ValueError, match="falls into a peak"):
                ep.pp.count_fragments(path, peaks, min_fragments=1, counting=counting)
            return
        counted = ep.pp.count_fragments(path, peaks, min_fragments=1, counting=counting)
        np.testing.assert_array_equal(counted.X.toarray(), wanted)
        assert list(counted.obs_names) == cells
        random.shuffle(rows)
        path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
        again = ep.pp.count_fragments(path, peaks, min_fragments=1, counting=counting)
        np.testing.assert_array_equal(again.X.toarray(), wanted)
        np.testing.assert_array_equal(again.obs["n_fragments"], counted.obs["n_fragments"])
