"""Links as files for genome browsers."""

import pandas as pd
import pytest

import epifoundation as ep

KEY = "epifoundation_links"


@pytest.fixture
def linked():
    """Four links of two genes, of which one is not tested."""
    return pd.DataFrame(
        {
            "gene": ["a", "a", "b", "b"],
            "peak": ["chr1:100-600", "chr1:2000-2500", "chr2:100-600", "chr2:700-900"],
            "chrom": ["chr1", "chr1", "chr2", "chr2"],
            "start": [100, 2000, 100, 700],
            "end": [600, 2500, 600, 900],
            "tss": [1500, 1500, 50, 50],
            "group": "A",
            "effect": [0.1234567, -2.0, 1.5, 1e-7],
            "qvalue": [0.01, 0.1, 0.5, float("nan")],
        },
        index=list("0123"),
    )


def test_links_are_written_for_browsers(mdata, linked, tmp_path):
    data = mdata.copy()
    data["atac"].uns[KEY] = linked
    path = ep.tl.write_links(data, path=tmp_path / "links.bedpe", max_qvalue=None)
    table = pd.read_csv(path, sep="\t", header=None)
    assert table.shape == (len(linked), 12)
    assert (table[7] == linked["effect"].map("{:.5g}".format).astype(float).to_numpy()).all()
    assert (table[5] - table[4] == 1).all()
    path = ep.tl.write_links(data, path=tmp_path / "links.longrange")
    table = pd.read_csv(path, sep="\t", header=None)
    assert len(table) == 2 * (linked["qvalue"] <= 0.1).sum()
    assert table[3].str.fullmatch(r"chr\d+:\d+-\d+,-?[\d.e+-]+").all()
    with pytest.raises(ValueError, match="`format` must be one of"):
        ep.tl.write_links(data, path=tmp_path / "links.txt")
    with pytest.raises(ValueError, match="`group` must be one of"):
        ep.tl.write_links(data, path=tmp_path / "links.bedpe", group="B")
    with pytest.raises(ValueError, match="run `epifoundation.tl.link_peaks` first"):
        ep.tl.write_links(mdata, path=tmp_path / "links.bedpe")


def test_lines_by_hand(mdata, linked, tmp_path):
    mdata["atac"].uns[KEY] = linked
    path = ep.tl.write_links(mdata, path=tmp_path / "a.bedpe")
    first = "chr1\t100\t600\tchr1\t1500\t1501\ta|chr1:100-600\t0.12346\t.\t.\tA\t0.01"
    assert path.read_text().splitlines()[0] == first
    path = ep.tl.write_links(mdata, path=tmp_path / "a.longrange")
    assert path.read_text().splitlines() == [
        "chr1\t100\t600\tchr1:1500-1501,0.12346",
        "chr1\t1500\t1501\tchr1:100-600,0.12346",
        "chr1\t1500\t1501\tchr1:2000-2500,-2",
        "chr1\t2000\t2500\tchr1:1500-1501,-2",
    ]


@pytest.mark.parametrize("name", ["links.bedpe", "links.longrange"])
def test_an_existing_file_is_kept_unless_asked(mdata, linked, tmp_path, name, monkeypatch):
    mdata["atac"].uns[KEY] = linked
    path = tmp_path / name
    path.write_text("my only copy")
    with pytest.raises(FileExistsError, match=rf"{name}' exists: pass `overwrite=True`"):
        ep.tl.write_links(mdata, path=path)
    assert path.read_text() == "my only copy"
    with monkeypatch.context() as patch:
        patch.setattr(type(path), "replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
        with pytest.raises(OSError, match="full"):
            ep.tl.write_links(mdata, path=path, overwrite=True)
    assert path.read_text() == "my only copy"
    ep.tl.write_links(mdata, path=path, overwrite=True)
    assert "chr1" in path.read_text()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["links.bedpe", "links.longrange"])
def test_each_line_keeps_its_columns_whatever_the_names(mdata, linked, tmp_path, name):
    plain = linked.copy()
    names = ["A\tB", 'C"D', "E\nchr9\t1\t2", "F\u2028\r\ud800"]
    linked["gene"] = pd.Series(names, linked.index, dtype=object)
    linked["peak"], linked["group"] = linked["peak"] + "\x0b", "T\tcells"
    mdata["atac"].uns[KEY] = linked
    path = ep.tl.write_links(mdata, path=tmp_path / name, max_qvalue=None)
    lines = path.read_text().splitlines()
    mdata["atac"].uns[KEY] = plain
    expected = ep.tl.write_links(mdata, path=tmp_path / f"b_{name}", max_qvalue=None)
    assert [line.count("\t") for line in lines] == [
        line.count("\t") for line in expected.read_text().splitlines()
    ]
    if name == "links.bedpe":
        assert lines[1].split("\t")[6] == 'C"D|chr1:2000-2500 '
        assert lines[2].split("\t")[6] == "E chr9 1 2|chr2:100-600 "
