"""The benchmark on CRISPRi pairs: what it measures, and tables that it cannot use."""

import gzip
import json
import re
import sys
from pathlib import Path

import crispr
import numpy as np
import pandas as pd
import pytest
from crispr_pairs import COLUMNS, read_pairs, samples_of, site_of
from sklearn.metrics import average_precision_score

import epifoundation as ep
from epifoundation.links.score import provenance

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = ["Gm12878_UwDuke", "Hct116_UW", "Jurkat_UW", "E021", "E022", "Ips_Duke", "K562_UwDuke"]


def table(n=60, seed=0):
    """Random pairs of three chromosomes; the nearest third is regulated."""
    rng = np.random.default_rng(seed)
    start = rng.integers(20_000_000, 30_000_000, n)
    distance = np.exp(rng.uniform(np.log(2000), np.log(900_000), n)).astype(int)
    pairs = pd.DataFrame(
        {
            "chrom": rng.choice(["chr1", "chr2", "chr3"], n),
            "chromStart": start,
            "chromEnd": start + 500,
            "measuredGeneSymbol": rng.choice(list("ABCDEFGH"), n),
            "startTSS": start + 250 + distance,
            "distanceToTSS": distance,
            "Regulated": np.where(distance < np.quantile(distance, 0.34), "TRUE", "FALSE"),
            "CellType": rng.choice(["GM12878", "WTC11"], n),
        }
    )
    return pairs.assign(ValidConnection=["TRUE"] * (n - 5) + ["overlaps promoter"] * 5)


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(1)
    start = np.sort(rng.integers(15_000_000, 35_000_000, 200))
    genes = pd.DataFrame({"chrom": rng.choice(["chr1", "chr2", "chr3"], 200), "start": start})
    genes = genes.assign(end=start + 5000, name=[f"g{i}" for i in range(200)], score=0, strand="+")
    genes.to_csv(tmp_path / "genes.bed", sep="\t", header=False, index=False)
    table().to_csv(tmp_path / "pairs.tsv", sep="\t", index=False)
    return tmp_path


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["crispr.py", *map(str, arguments)])
    crispr.main()


@pytest.mark.slow
def test_other_tables_of_the_same_columns_run(files, monkeypatch, capsys):
    options = ["--genes", files / "genes.bed", "--bootstraps", 5]
    run(monkeypatch, files / "pairs.tsv", *options, "--output", files / "out.md")
    text = capsys.readouterr().out
    assert text.strip() == (files / "out.md").read_text().strip()
    assert "GM12878 (sample Gm12878_UwDuke)" in text
    assert "WTC11 (sample E021, E022, Ips_Duke)" in text
    assert "All cell types: 55 pairs" in text
    for name in ("ours, DNase of the atlas", "1 / distance", "nearest expressed gene"):
        assert text.count(f"| {name} |") == 3
    assert "H3K27ac" not in text  # the table has no such columns


def test_cell_types_find_their_samples():
    assert samples_of("GM12878", SAMPLES) == ["Gm12878_UwDuke"]
    assert samples_of("HCT-116", SAMPLES) == ["Hct116_UW"]
    assert samples_of("Jurkat", SAMPLES) == ["Jurkat_UW"]
    assert samples_of("WTC11", SAMPLES) == ["E021", "E022", "Ips_Duke"]
    assert samples_of("K562", SAMPLES, ["Jurkat_UW"]) == ["Jurkat_UW"]
    assert samples_of("K562", SAMPLES, ["WTC11=E021"]) == ["K562_UwDuke"]
    assert samples_of("new", SAMPLES, ["K562=E021", "new=E021,E022"]) == ["E021", "E022"]
    with pytest.raises(ValueError, match="no sample of 'THP1': pass `--sample THP1=NAME`"):
        samples_of("THP1", SAMPLES)
    with pytest.raises(ValueError, match=r"knows no sample \['E999'\]"):
        samples_of("THP1", SAMPLES, ["THP1=E999"])


@pytest.mark.parametrize("column", COLUMNS)
def test_tables_without_a_column_are_one_line(files, monkeypatch, capsys, column):
    table().drop(columns=column).to_csv(files / "bad.tsv", sep="\t", index=False)
    with pytest.raises(SystemExit):
        run(monkeypatch, files / "bad.tsv")
    message = capsys.readouterr().err
    assert f"lacks the columns ['{column}']" in message
    assert message.count("\n") == 1


def test_tables_without_regulated_pairs_are_one_line(files, monkeypatch, capsys):
    table().assign(Regulated="FALSE").to_csv(files / "bad.tsv", sep="\t", index=False)
    with pytest.raises(SystemExit):
        run(monkeypatch, files / "bad.tsv")
    assert "55 valid pairs, 0 of them regulated" in capsys.readouterr().err


def written(files, pairs, **options):
    pairs.to_csv(files / "other.tsv", **{"sep": "\t", "index": False} | options)
    return files / "other.tsv"


def test_other_ways_to_write_the_same_pairs_are_have_the_same_result(files):
    expected = read_pairs(files / "pairs.tsv")
    pairs = table()
    bare = pairs.assign(chrom=pairs["chrom"].str.removeprefix("chr"))
    signed = pairs.assign(distanceToTSS=-pairs["distanceToTSS"])
    numbers = pairs.assign(Regulated=(pairs["Regulated"] == "TRUE").astype(float))
    for each in (bare, signed, numbers, pairs.assign(distanceToTSS=np.nan)):
        pd.testing.assert_frame_equal(read_pairs(written(files, each)), expected, check_dtype=False)
    for options in ({"sep": ","}, {"lineterminator": "\r\n"}, {"encoding": "utf-8-sig"}):
        pd.testing.assert_frame_equal(read_pairs(written(files, pairs, **options)), expected)


def test_pairs_without_a_position_are_left_out(files, capsys):
    pairs = table().astype({"startTSS": float})
    pairs.loc[:2, "startTSS"] = np.nan
    pairs.loc[3, "chrom"] = None
    found = read_pairs(written(files, pairs))
    assert len(found) == 51
    assert found["chromStart"].tolist() == table()["chromStart"][4:55].tolist()
    message = "4 pairs without a value in ['chrom', 'startTSS'] are left out.\n"
    assert capsys.readouterr().err == message


def test_pairs_without_a_cell_type_take_the_sample(files):
    pairs = read_pairs(written(files, table().assign(CellType=np.nan)))
    assert set(pairs["CellType"]) == {"unknown"}
    with pytest.raises(ValueError, match="`--sample unknown=NAME`"):
        samples_of("unknown", SAMPLES)
    with pytest.raises(ValueError, match="`--sample 'my cells=NAME'`"):
        samples_of("my cells", SAMPLES)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("distanceToTSS", "far", "`distanceToTSS` must have numbers, got 'far'"),
        ("chromStart", "x", "`chromStart` must have numbers, got 'x'"),
        ("startTSS", "inf", "`startTSS` must have numbers, got 'inf'"),
        ("DHS.RPM", "high", "`DHS.RPM` must have numbers, got 'high'"),
        ("Regulated", "yes", "`Regulated` must be TRUE or FALSE, got 'yes'"),
        ("chromEnd", "5", "is no interval"),
        ("chromStart", "-5", ":-5-.* is no interval"),
        ("chrom", "chrA", "lie outside of hg38: lift them over"),
    ],
)
def test_tables_with_other_values_are_one_line(files, monkeypatch, capsys, column, value, message):
    path = written(files, table().assign(**{column: value}))
    with pytest.raises(SystemExit):
        run(monkeypatch, path)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert str(path) in error
    assert re.search(message, error)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"a\tb\n1\t2\n1\t2\t3\t4\n"])
@pytest.mark.parametrize("name", ["other.tsv", "other.tsv.gz"])
def test_files_that_are_no_tables_are_one_line(files, monkeypatch, capsys, name, content):
    (files / name).write_bytes(content)
    with pytest.raises(SystemExit):
        run(monkeypatch, files / name)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"{name}' is not a table" in error


def test_damaged_gzip_is_one_line(files, monkeypatch, capsys):
    whole = gzip.compress((files / "pairs.tsv").read_bytes())
    (files / "cut.tsv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SystemExit):
        run(monkeypatch, files / "cut.tsv.gz")
    assert "cut.tsv.gz' is not a table" in capsys.readouterr().err


def test_output_in_a_missing_folder_is_refused_before_the_work(files, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, files / "pairs.tsv", "--output", files / "missing" / "out.md")
    assert "out.md' does not exist" in capsys.readouterr().err


def test_a_cell_type_without_regulated_pairs_has_no_areas():
    pairs = table().assign(Regulated=False)
    scores = pd.DataFrame({"one": np.zeros(len(pairs))})
    text = crispr.report("K562", pairs, scores, 3)
    assert text == "K562: 0 of 60 pairs are regulated: no areas.\n"


def test_intervals_are_of_draws_with_a_regulated_pair():
    pairs = table().assign(Regulated=[True] + [False] * 59)
    scores = pd.DataFrame({"one": np.arange(60.0)[::-1]})
    assert "| one | 1.000 | 1.000–1.000 | 1.000 |" in crispr.report("K562", pairs, scores, 30)


def test_sites_are_those_at_the_stated_distance():
    pairs = table(8)
    assert (site_of(pairs) == pairs["startTSS"]).all()
    wrong = pairs.assign(startTSS=pairs["startTSS"] + 400_000)
    assert (site_of(wrong) == pairs["startTSS"]).all()  # the distance is right, on the same side


def test_precision_is_the_highest_at_the_recall():
    regulated = np.array([True] * 7 + [False] * 3 + [True] * 3)
    assert crispr.precision(regulated, -np.arange(13.0)) == 1
    assert crispr.precision(regulated, np.arange(13.0)) == pytest.approx(10 / 13)


def test_bootstraps_draw_genes_whole():
    gene = np.array([0, 1, 0, 2, 2, 2])
    for rows in crispr.bootstrap(gene, 20):
        counts = np.bincount(rows, minlength=6)
        assert counts[0] == counts[2]
        assert counts[3] == counts[4] == counts[5]
        assert counts[0] + counts[1] + counts[3] == 3


@pytest.mark.slow
def test_pairs_in_k562_are_ranked_and_the_coefficients_are_those_of_the_script(
    shared_data, tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(ROOT / "scripts" / "links")
    import fit_score

    links = shared_data.parent / "links"
    monkeypatch.setattr(
        sys, "argv", ["fit_score.py", str(links.parent), "--output", str(tmp_path / "score.json")]
    )
    fit_score.main()
    made, stored = json.loads((tmp_path / "score.json").read_text()), provenance()
    for name, found in made["all"].items():
        assert found["coefficients"] == pytest.approx(stored["all"][name]["coefficients"], abs=1e-3)
    pairs = read_pairs(links / fit_score.PAIRS)
    reader = crispr.PairFeatures(ep.genome.read_genes(links / fit_score.GENES))
    scores = crispr.scores_of(pairs, reader.of(pairs, ["K562_UwDuke"]))
    regulated = pairs["Regulated"]
    area = {name: average_precision_score(regulated, scores[name]) for name in scores}
    assert area["ours, DNase of the atlas"] > 0.6
    assert area["ours, DNase of the atlas"] > area["H3K27ac and DNase / distance"] + 0.05
    assert area["ours, refitted"] == pytest.approx(area["ours, DNase of the atlas"], abs=0.01)
    other = crispr.scores_of(pairs, reader.of(pairs, ["Hepg2_UwDuke"]))
    wrong = average_precision_score(regulated, other["ours, DNase of the atlas"])
    assert wrong < area["ours, DNase of the atlas"] - 0.05  # the cells matter
