"""A locus: coverage of files, exons, regions without a gene, scores, bad input."""

import gzip
import sys
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PolyCollection

import epifoundation as ep
from epifoundation.pp._bigwig import BigWigWriter

KEY = "epifoundation_links"
COLUMNS = ["chrom", "start", "end"]


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.fixture
def linked(simulated):
    """Two genes of one chromosome, with a link and another pair each."""
    data = simulated.copy()
    genes = data["rna"].var
    chrom = genes["chrom"].value_counts().index[0]
    pair = genes[genes["chrom"] == chrom].iloc[:2]
    peaks = data["atac"].var[data["atac"].var["chrom"] == chrom].iloc[[3, 20, 8, 30]]
    data["atac"].uns[KEY] = pd.DataFrame(
        {
            "gene": np.repeat(pair.index, 2),
            "peak": peaks.index,
            "chrom": chrom,
            "start": peaks["start"].to_numpy(),
            "end": peaks["end"].to_numpy(),
            "tss": np.repeat(pair["start"].to_numpy(), 2),
            "group": "all",
            "effect": [0.5, 0.1, -0.4, 0.2],
            "qvalue": [0.01, 0.9, 0.02, 0.8],
        }
    )
    return data


@pytest.fixture
def files(linked, tmp_path):
    """A fragments file and the coverage of each cell type in it."""
    path = ep.datasets.simulate_fragments(linked, tmp_path / "fragments.tsv.gz")
    kinds = linked["atac"].obs["cell_type"]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* barcodes have no fragment")
        tracks = ep.pp.group_coverage(
            path, kinds, genome="hg38", directory=tmp_path, bin_size=1, normalization=None
        )
    return path, tracks


def whole(data):
    links = data["atac"].uns[KEY]
    return f"{links['chrom'].iloc[0]}:0-{int(data['atac'].var['end'].max()) + 1000}"


def cuts_of(path, data, kind, region):
    """The cuts of the cells of a type in a region."""
    interval = ep.genome.parse_intervals([region]).iloc[0]
    table = pd.read_csv(path, sep="\t", comment="#", names=[*COLUMNS, "cell", "n"])
    obs = data["atac"].obs
    table = table[table["cell"].isin(obs.index[obs["cell_type"] == kind])]
    table = table[table["chrom"] == interval["chrom"]]
    cuts = np.concatenate([table["start"], table["end"] - 1])
    return cuts[(cuts >= interval["start"]) & (cuts < interval["end"])]


@pytest.mark.parametrize("source", ["tracks", "fragments"])
def test_the_coverage_is_that_of_the_fragments(linked, files, source):
    path, tracks = files
    region = whole(linked)
    given = {"tracks": tracks} if source == "tracks" else {"fragments": path}
    axes = ep.pl.links(linked, region=region, groupby="cell_type", **given)
    assert [ax.get_ylabel() for ax in axes[1:-1]] == list(tracks)
    assert len({ax.get_ylim() for ax in axes[1:-1]}) == 1
    highest = 0
    for ax in axes[1:-1]:
        kind = ax.get_ylabel()
        data = ax.patches[0].get_data()
        expected, _ = np.histogram(cuts_of(path, linked, kind, region), data.edges)
        per = np.diff(data.edges)
        if source == "fragments":
            n_cells = (linked["atac"].obs["cell_type"] == kind).sum()
            per = per * n_cells / 1e6
        assert expected.sum() > 50
        np.testing.assert_allclose(data.values, expected / per, rtol=1e-5)
        highest = max(highest, data.values.max())
    assert axes[1].get_ylim() == pytest.approx((0, highest))
    unit = "coverage" if source == "tracks" else "cuts per kb and 1,000 cells"
    assert axes[1].texts[0].get_text().endswith(unit)


def test_colors_of_groups_are_those_of_the_data(linked, files):
    names = sorted(set(linked["atac"].obs["cell_type"]))
    linked["atac"].obs["cell_type"] = pd.Categorical(linked["atac"].obs["cell_type"], names)
    linked["atac"].uns["cell_type_colors"] = ["#ff0000", "#00ff00", "#0000ff", "#123456"]
    for given in ({"tracks": files[1]}, {"groupby": "cell_type"}):
        axes = ep.pl.links(linked, region=whole(linked), **given)
        found = {ax.get_ylabel(): ax.patches[0].get_facecolor() for ax in axes[1:-1]}
        assert found["type1" if "type1" in found else names[1]] == (0, 1, 0, 1)


def test_a_region_without_a_gene_has_the_links_of_all(linked):
    links = linked["atac"].uns[KEY]
    axes = ep.pl.links(linked, region=whole(linked))
    assert len(axes[0].patches) == 4
    assert axes[0].get_title(loc="left").endswith("2 links of 4 pairs")
    sites = {arc.get_path().vertices[-1, 0] for arc in axes[0].patches}
    assert sites == set(links["tss"])
    assert {text.get_text() for text in axes[-1].texts} == set(links["gene"])
    start = int(links["start"].iloc[0])
    region = f"{links['chrom'].iloc[0]}:{start}-{start + 100}"
    near = ep.pl.links(linked, region=region)
    assert 1 <= len(near[0].patches) < 4
    other = "chr21:5000000-5100000" if links["chrom"].iloc[0] != "chr21" else "chr20:5000-9000"
    empty = ep.pl.links(linked, region=other)
    assert len(empty[0].patches) == 0
    assert empty[0].get_title(loc="left").endswith("0 links of 0 pairs")


def test_boxes_of_peaks_are_dark_where_linked(linked):
    axes = ep.pl.links(linked, region=whole(linked))
    (boxes,) = [each for each in axes[0].collections if isinstance(each, PolyCollection)]
    links, var = linked["atac"].uns[KEY], linked["atac"].var
    here = var[var["chrom"] == links["chrom"].iloc[0]]
    is_linked = here.index.isin(links.loc[links["qvalue"] < 0.1, "peak"])
    np.testing.assert_array_equal(boxes.get_facecolors()[:, 0] < 0.5, is_linked)
    lefts = [path.vertices[:, 0].min() for path in boxes.get_paths()]
    np.testing.assert_array_equal(lefts, here["start"])


def test_scores_are_width_and_colour_of_links(linked):
    links = linked["atac"].uns[KEY]
    plain = ep.pl.links(linked, region=whole(linked))[0]
    assert plain.figure.axes[-1].get_ylabel() == "effect"
    assert len({arc.get_linewidth() for arc in plain.patches}) == 2
    linked["atac"].uns[KEY] = links.assign(score=[0.2, 0.9, 0.8, np.nan])
    ax = ep.pl.links(linked, region=whole(linked))[0]
    assert ax.figure.axes[-1].get_ylabel() == "score"
    width = {arc.get_path().vertices[0, 0]: arc.get_linewidth() for arc in ax.patches}
    middle = (links["start"] + links["end"]) / 2
    assert width[middle[2]] > width[middle[0]] > width[middle[1]] == width[middle[3]]
    linked["atac"].uns[KEY] = links.assign(score=np.nan)
    ax = ep.pl.links(linked, region=whole(linked))[0]
    assert ax.figure.axes[-1].get_ylabel() == "effect"


def test_exons_are_drawn_thin_and_thick(linked, tmp_path):
    links = linked["atac"].uns[KEY]
    chrom, gene = links["chrom"].iloc[0], links["gene"].iloc[0]
    rows = [
        (chrom, 1000, 9000, gene, 0, "-", 1500, 8000, 0, 2, "1000,2000", "0,6000"),
        (chrom, 1000, 9000, "OTHER", 0, "+", 1000, 1000, 0, 2, "500,500", "0,7500"),
        (chrom, 900_000, 901_000, "far", 0, "+", 900_000, 901_000, 0, 1, "1000", "0"),
    ]
    path = tmp_path / "genes.bed"
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
    ax = ep.pl.links(linked, gene=gene, region=f"{chrom}:0-20000", annotation=path)[-1]
    boxes = {}
    for each in ax.collections:
        for one in each.get_paths():
            (left, low), (right, high) = one.vertices.min(axis=0), one.vertices.max(axis=0)
            row = round((low + high) / 2)
            boxes.setdefault((row, round(high - low, 2)), []).append((left, right))
    names = {text.get_text(): round(text.get_position()[1] - 0.3) for text in ax.texts}
    assert set(names) == {gene, "OTHER"}
    assert names[gene] != names["OTHER"]
    (thin, thick) = sorted({height for _, height in boxes})
    assert boxes[names[gene], thin] == [(1000, 2000), (7000, 9000)]
    assert boxes[names[gene], thick] == [(1500, 2000), (7000, 8000)]
    assert boxes[names["OTHER"], thin] == [(1000, 1500), (8500, 9000)]
    assert (names["OTHER"], thick) not in boxes


def test_names_of_many_genes_do_not_overlap(linked):
    chrom = linked["atac"].uns[KEY]["chrom"].iloc[0]
    start = np.random.default_rng(0).integers(0, 95_000, 60)
    table = pd.DataFrame({"chrom": chrom, "start": start, "end": start + 3000, "strand": "+"})
    table.index = [f"GENE{i}" for i in range(60)]
    axes = ep.pl.links(linked, region=f"{chrom}:0-100000", annotation=table)
    figure = axes[0].figure
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes[-1].texts]
    assert len(boxes) > 20
    overlapping = [
        (i, j) for i, a in enumerate(boxes) for j, b in enumerate(boxes[:i]) if a.overlaps(b)
    ]
    assert overlapping == []
    inside = figure.bbox
    assert all(inside.contains(box.x0, box.y0) and inside.contains(box.x1, box.y1) for box in boxes)


def test_a_gene_that_the_annotation_lacks_is_marked(linked):
    links = linked["atac"].uns[KEY]
    table = linked["rna"].var.drop(index=links["gene"].iloc[0])
    ax = ep.pl.links(linked, gene=links["gene"].iloc[0], region=whole(linked), annotation=table)[-1]
    assert links["gene"].iloc[0] in [text.get_text() for text in ax.texts]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({}, "Pass `gene`, `region` such as 'chr1:1000-500000', or both"),
        ({"region": "chr1:500-500"}, r"`region='chr1:500-500'` must be a region such as"),
        ({"region": "chr1:900-500"}, "with a start before its end"),
        ({"region": "nonsense"}, "must be a region such as 'chr1:1000-500000'"),
        ({"region": "chr1:300000000-300001000"}, "past the end of chr1 at 248,956,422 in hg38"),
        ({"groupby": "nothing"}, "`groupby='nothing'` has no values"),
        ({"tracks": {}}, "`tracks` must be a mapping from names of groups to bigWig files"),
        ({"tracks": {"a": "nothing.bw"}}, "The bigWig file 'nothing.bw' does not exist"),
        ({"tracks": {"a": 3}}, "`tracks` must have paths of bigWig files, got 3"),
        ({"tracks": {"a": "x.bw"}, "fragments": "f.tsv"}, "`tracks` or `fragments`, not both"),
        ({"fragments": "nothing.tsv"}, "The fragments file 'nothing.tsv' does not exist"),
        ({"annotation": "nothing.bed"}, "'nothing.bed' does not exist"),
    ],
)
def test_bad_input(linked, options, match):
    # A peak that fits hg38 and hg19 only
    var = linked["atac"].var
    first = var.index[0]
    linked["atac"].obs["nothing"] = np.nan
    var.loc[first, COLUMNS] = ["chr1", 248_950_000, 248_950_500]
    if options and "region" not in options:
        options = {"region": whole(linked).replace("248951500", "90000")} | options
    with pytest.raises((ValueError, TypeError, OSError), match=match) as caught:
        ep.pl.links(linked, **options)
    assert "\n" not in str(caught.value)
    assert not plt.get_fignums()


def test_bad_bigwig_files(linked, files, tmp_path, monkeypatch):
    region = whole(linked)
    chrom, end = region.split(":")[0], int(region.split("-")[1])

    def fails(path, match, **options):
        with pytest.raises(ValueError, match=match) as caught:
            ep.pl.links(linked, **{"region": region, "tracks": {"a": path}} | options)
        assert "\n" not in str(caught.value)

    text = tmp_path / "text.bw"
    text.write_text("track type=bedGraph\nchr1\t0\t5\t1\n")
    fails(text, "text.bw' is not a bigWig file, or is damaged")
    cut = tmp_path / "cut.bw"
    cut.write_bytes(next(iter(files[1].values())).read_bytes()[:200])
    fails(cut, "cut.bw' is not a bigWig file, or is damaged")

    def bigwig(sizes):
        with BigWigWriter(tmp_path / "x.bw", sizes, 1) as writer:
            writer.add(0, np.array([5]), np.array([9]), np.array([1.0]))
        return tmp_path / "x.bw"

    fails(bigwig({"chrZ": 100}), rf"has no chromosome {chrom}; it has \['chrZ'\]")
    fails(bigwig({chrom: 100}), f"past the end of {chrom} at 100", region=f"{chrom}:200-300")
    # Without the prefix, and a region that reaches past the end
    bare = {chrom.removeprefix("chr"): end - 500}
    values = ep.pl.links(linked, region=region, tracks={"a": bigwig(bare)})[1].patches[0].get_data()
    assert (values.values * np.diff(values.edges)).sum() == pytest.approx(4)
    # The peaks fit human builds, the file is of mm10
    linked["atac"].var.loc[linked["atac"].var_names[0], COLUMNS] = [
        "chr1",
        248_950_000,
        248_950_500,
    ]
    mouse = bigwig({chrom: 10**8} | {"chr1": 195_471_971})
    fails(mouse, "is of mm10, by the lengths of chromosomes, but the peaks fit hg38 or hg19")
    monkeypatch.setitem(sys.modules, "pybigtools", None)
    with pytest.raises(ImportError, match=r"pip install 'epifoundation\[tracks\]'"):
        ep.pl.links(linked, region=region, tracks={"a": mouse})


def test_barcodes_of_other_cells(linked, tmp_path):
    chrom = linked["atac"].uns[KEY]["chrom"].iloc[0]
    path = tmp_path / "f.tsv.gz"
    path.write_bytes(gzip.compress(f"{chrom}\t100\t200\tAAA-1\t1\n".encode()))
    with pytest.raises(ValueError, match="None of the 400 barcodes is in the file"):
        ep.pl.links(linked, region=whole(linked), fragments=path)
