"""Links as tables for other tools: read back by their own rules, and compared with the links."""

import io
from itertools import product

import numpy as np
import pandas as pd
import pytest

import epifoundation as ep

KEY = "epifoundation_links"
FORMATS = ("bedpe", "longrange", "interact", "scenicplus", "celloracle")
# https://genome.ucsc.edu/goldenPath/help/interact.html
INTERACT = [
    *("chrom", "chromStart", "chromEnd", "name", "score", "value", "exp", "color"),
    *("sourceChrom", "sourceStart", "sourceEnd", "sourceName", "sourceStrand"),
    *("targetChrom", "targetStart", "targetEnd", "targetName", "targetStrand"),
]


@pytest.fixture
def linked(mdata):
    """Random links of the peaks of the data, in two groups; some pairs are in both."""
    rng = np.random.default_rng(0)
    atac = mdata["atac"]
    n = 60
    rows = rng.choice(100, n)
    var = atac.var.iloc[rows]
    links = pd.DataFrame(
        {
            "gene": [f"gene{i}" for i in rng.choice(5, n)],
            "peak": var.index.to_numpy(),
            "chrom": var["chrom"].astype(str).to_numpy(),
            "start": var["start"].to_numpy(),
            "end": var["end"].to_numpy(),
            "tss": rng.integers(0, 200_000, n),
            "effect": rng.normal(size=n),
            "qvalue": np.where(rng.random(n) < 0.2, np.nan, rng.random(n)),
            "score": rng.random(n),
            "pip": np.where(rng.random(n) < 0.3, np.nan, rng.random(n)),
        }
    ).drop_duplicates(["gene", "peak"])
    second = links.iloc[::2].assign(effect=rng.normal(size=len(links.iloc[::2])), score=0.5)
    links = pd.concat([links.assign(group="A"), second.assign(group="T cells")], ignore_index=True)
    links.index = links.index.astype(str)
    mdata["atac"].uns[KEY] = links
    return links


def read(data, tmp_path, kind, **options):
    path = ep.tl.write_links(
        data, path=tmp_path / "links.txt", format=kind, overwrite=True, **options
    )
    if kind == "interact":
        header, *lines = path.read_text().splitlines(keepends=True)
        assert header.startswith("track type=interact ")
        return pd.read_csv(io.StringIO("".join(lines)), sep=r"\s+", header=None, names=INTERACT)
    has_header = kind in ("scenicplus", "celloracle")
    return pd.read_csv(path, sep="\t", header=0 if has_header else None)


@pytest.mark.parametrize("value", ["effect", "score"])
def test_interact_is_as_ucsc_defines_it(mdata, linked, tmp_path, value):
    table = read(mdata, tmp_path, "interact", value=value, max_qvalue=None)
    assert table.shape == (len(linked), 18)
    assert (table["chromStart"] == table[["sourceStart", "targetStart"]].min(axis=1)).all()
    assert (table["chromEnd"] == table[["sourceEnd", "targetEnd"]].max(axis=1)).all()
    assert table["score"].between(0, 1000).all()
    assert table["score"].dtype.kind == "i"
    assert (table["targetEnd"] - table["targetStart"] == 1).all()
    order = table[["chrom", "chromStart", "chromEnd"]]
    assert order.equals(order.sort_values(list(order), kind="stable"))
    keys = ["sourceName", "targetName", "exp"]
    links = linked.assign(exp=linked["group"].str.replace(" ", "_"))
    links = links.set_index(["peak", "gene", "exp"]).loc[pd.MultiIndex.from_frame(table[keys])]
    np.testing.assert_allclose(table["value"], links[value], rtol=1e-4)
    for ours, theirs in (("start", "sourceStart"), ("end", "sourceEnd"), ("tss", "targetStart")):
        assert (links[ours].to_numpy() == table[theirs].to_numpy()).all()
    largest = links["effect"].abs().max() if value == "effect" else 1
    expected = 1000 * links[value].abs().to_numpy() / largest
    assert np.abs(table["score"] - expected).max() <= 0.5 + 1e-9
    is_red = table["color"].str.split(",", expand=True).astype(int).pipe(lambda c: c[0] > c[2])
    assert (is_red.to_numpy() == (links["effect"] > 0).to_numpy()).all()


def test_an_interact_line_by_hand(mdata, linked, tmp_path):
    mdata["atac"].uns[KEY] = linked.iloc[:1].assign(
        gene="A b", peak="p\t1", chrom="chr1", start=100, end=600, tss=50, effect=-2.0, group=""
    )
    path = ep.tl.write_links(mdata, path=tmp_path / "a.interact", max_qvalue=None)
    first, second = path.read_text().splitlines()
    assert first.startswith("track type=interact")
    assert second.split("\t") == [
        *("chr1", "50", "600", "p_1/A_b", "1000", "-2", ".", "31,119,180"),
        *("chr1", "100", "600", "p_1", ".", "chr1", "50", "51", "A_b", "."),
    ]


def of_pairs(links):
    """Mean effect, largest score, by a loop."""
    found = {}
    for gene, peak in product(links["gene"].unique(), links["peak"].unique()):
        rows = links[(links["gene"] == gene) & (links["peak"] == peak)]
        if len(rows):
            place = rows.iloc[0]
            distance = max(place["start"] - place["tss"], place["tss"] - place["end"] + 1, 0)
            region = f"{place['chrom']}:{place['start']}-{place['end']}"
            values = (np.mean(rows["effect"]), max(rows["score"]))
            found[gene, region] = (*values, distance)
    return found


@pytest.mark.parametrize("value", ["effect", "score"])
def test_scenicplus_has_one_row_for_each_pair(mdata, linked, tmp_path, value):
    table = read(mdata, tmp_path, "scenicplus", value=value, max_qvalue=None)
    assert list(table) == [
        *("target", "region", "importance", "rho"),
        *("importance_x_rho", "importance_x_abs_rho", "Distance"),
    ]
    expected = of_pairs(linked)
    assert len(table) == len(expected) < len(linked)
    for row in table.itertuples():
        effect, score, distance = expected[row.target, row.region]
        size = abs(effect) if value == "effect" else score
        assert row.importance == pytest.approx(size, rel=1e-4)
        assert row.rho == np.sign(effect)  # SCENIC+ leaves out |rho| <= 0.03
        assert row.importance_x_rho == pytest.approx(size * np.sign(effect), rel=1e-4)
        assert row.importance_x_abs_rho == pytest.approx(size, rel=1e-4)
        assert row.Distance == distance


@pytest.mark.parametrize("value", ["effect", "score"])
def test_celloracle_reads_the_table(mdata, linked, tmp_path, value):
    table = read(mdata, tmp_path, "celloracle", value=value, max_qvalue=None)
    columns = ["peak_id", "gene_short_name"]
    assert list(table) == [*columns, *(["coaccess"] if value == "score" else [])]
    # What `TFinfo` does first: rows of the same peak and gene would be added up
    grouped = table.groupby(columns).sum().reset_index()
    assert len(grouped) == len(table)
    places = [f"{chrom}:{start}-{end}" for chrom, start, end in map(decompose, table["peak_id"])]
    pairs = dict.fromkeys(zip(table["gene_short_name"], places, strict=True))
    expected = of_pairs(linked)
    assert set(pairs) == set(expected)
    if value == "score":
        scores = [expected[pair][1] for pair in pairs]
        np.testing.assert_allclose(table["coaccess"], scores, rtol=1e-4)


def decompose(peak):
    """As CellOracle takes names of peaks apart."""
    *chrom, start, end = peak.split("_")
    return "_".join(chrom), start, end


def test_chromosomes_with_underscores(mdata, linked, tmp_path):
    mdata["atac"].uns[KEY] = linked.assign(chrom="chrUn_KI270442v1")
    table = read(mdata, tmp_path, "celloracle", max_qvalue=None)
    assert {decompose(peak)[0] for peak in table["peak_id"]} == {"chrUn_KI270442v1"}


@pytest.mark.parametrize("kind", FORMATS)
def test_filters_keep_what_they_say(mdata, linked, tmp_path, kind):
    n_ends = 2 if kind == "longrange" else 1
    options = {"max_qvalue": 0.6, "min_score": 0.4, "group": "A"}
    keep = (linked["qvalue"] <= 0.6) & (linked["score"] >= 0.4) & (linked["group"] == "A")
    assert 0 < keep.sum() < len(linked)
    assert len(read(mdata, tmp_path, kind, **options)) == n_ends * keep.sum()
    has_pip = keep & linked["pip"].notna()
    assert 0 < has_pip.sum() < keep.sum()
    assert len(read(mdata, tmp_path, kind, value="pip", **options)) == n_ends * has_pip.sum()


@pytest.mark.parametrize(("kind", "column"), [("bedpe", 7), ("longrange", 3)])
def test_values_of_the_old_formats(mdata, linked, tmp_path, kind, column):
    values = read(mdata, tmp_path, kind, value="score", group="A", max_qvalue=None)[column]
    if kind == "longrange":
        values = values.str.split(",").str[1].astype(float)
    expected = linked.loc[linked["group"] == "A", "score"]
    assert set(values) == {float(f"{one:.5g}") for one in expected}


@pytest.mark.parametrize("kind", FORMATS)
def test_tables_without_the_new_columns(mdata, linked, tmp_path, kind):
    mdata["atac"].uns[KEY] = linked.drop(columns=["score", "pip"])
    assert len(read(mdata, tmp_path, kind, max_qvalue=0.6))
    (tmp_path / "links.txt").unlink()
    for option in ({"value": "score"}, {"value": "pip"}, {"min_score": 0.1}):
        with pytest.raises(ValueError, match=r"of which these links have no values .*'effect'"):
            read(mdata, tmp_path, kind, **option)
    mdata["atac"].uns[KEY] = linked.assign(pip=np.nan)
    with pytest.raises(ValueError, match="`value` needs the column 'pip'"):
        read(mdata, tmp_path, kind, value="pip")
    assert not (tmp_path / "links.txt").exists()


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_without_links_comes_with_a_warning(mdata, linked, tmp_path, kind):
    header = {"interact": 1, "scenicplus": 1, "celloracle": 1}.get(kind, 0)
    path = tmp_path / "links.txt"
    options = {"path": path, "format": kind, "overwrite": True}
    with pytest.warns(UserWarning, match=rf"no links. None of the {len(linked)} links is left: `m"):
        ep.tl.write_links(mdata, max_qvalue=1e-9, **options)
    assert len(path.read_text().splitlines()) == header
    mdata["atac"].uns[KEY] = linked.assign(qvalue=np.nan)
    with pytest.warns(UserWarning, match="none has a q-value.*pass `max_qvalue=None`"):
        ep.tl.write_links(mdata, **options)
    ep.tl.write_links(mdata, max_qvalue=None, **options)
    assert len(path.read_text().splitlines()) > header


def test_wrong_options(mdata, linked, tmp_path):
    path = tmp_path / "links.bedpe"
    before = mdata["atac"].uns[KEY].copy()
    with pytest.raises(ValueError, match=r"`format` must be one of \['bedpe', .*'celloracle'\]"):
        ep.tl.write_links(mdata, path=path, format="bed")
    with pytest.raises(ValueError, match="`value` must be one of"):
        ep.tl.write_links(mdata, path=path, value="pvalue")
    with pytest.raises(ValueError, match="`min_score` must lie between 0 and 1, got 40"):
        ep.tl.write_links(mdata, path=path, min_score=40)
    assert not path.exists()
    pd.testing.assert_frame_equal(mdata["atac"].uns[KEY], before)


@pytest.mark.parametrize("kind", FORMATS)
def test_names_do_not_add_columns(mdata, linked, tmp_path, kind):
    expected = read(mdata, tmp_path, kind, max_qvalue=None)
    linked["gene"] = linked["gene"] + "\tx\n"
    linked["group"] = "T\tcells\r"
    mdata["atac"].uns[KEY] = linked.iloc[: linked["peak"].nunique()]
    path = ep.tl.write_links(
        mdata, path=tmp_path / "links.txt", format=kind, overwrite=True, max_qvalue=None
    )
    lines = [line for line in path.read_text().splitlines() if not line.startswith("track")]
    assert {line.count("\t") + 1 for line in lines} == {expected.shape[1]}
