"""The genome view of the report: its data, and what a browser without network draws."""

import base64
import gzip
import html
import json
import re
import subprocess

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from html_pages import BROWSER, FLAGS, Parsed
from mudata import MuData

import epifoundation as ep
from epifoundation.pl import _report_genome
from epifoundation.pl._report_genome import BLUE, GREY, RED, genome_view, rank_links

BAD = "</script><img src=x onerror=\"document.title='run'\">&'"


def cells(gene="G1", kinds=("A", "B"), n_genes=3):
    """Cells with peaks every 2,000 bases on two chromosomes, and links of some genes."""
    rng = np.random.default_rng(0)
    places = [(f"chr{c}", at * 2000, at * 2000 + 500) for c in (1, 2) for at in range(1, 60)]
    names = [f"{chrom}:{start}-{end}" for chrom, start, end in places]
    n = 60
    found = AnnData(
        sp.csr_matrix((rng.random((n, len(names))) < 0.3).astype(np.float32)),
        obs=pd.DataFrame({"kind": rng.choice(list(kinds), n)}, index=[f"c{i}" for i in range(n)]),
        var=pd.DataFrame(index=names),
        obsm={"X_epifoundation": rng.standard_normal((n, 4)).astype(np.float32)},
    )
    rows = []
    for i in range(n_genes):
        for k in range(6):
            chrom, start, end = places[60 * (i % 2) + 10 * (i // 2) + k]
            at = {"chrom": chrom, "start": start, "end": end, "tss": 9000 + 20_000 * (i // 2)}
            qvalue = [0.01 * (i + 1), 0.05, 0.5, 0.6, 0.7, np.nan][k]
            effect = [1.0, -0.5, 0.2, 0.1, -0.1, np.nan][k]
            tests = {"effect": effect, "pvalue": qvalue / 10, "qvalue": qvalue}
            name = gene if i == 0 else f"other{i}"
            rows.append(
                {"gene": name, "peak": f"{chrom}:{start}-{end}", "group": "all"} | at | tests
            )
    found.uns["epifoundation_links"] = pd.DataFrame(rows)
    return found


def view_of(atac, annotation=None, tracks=None):
    groups = atac.obs["kind"].astype(str)
    return genome_view(atac, atac.uns["epifoundation_links"], groups, annotation, tracks)


def test_the_view_has_the_links_peaks_and_open_cells():
    atac = cells()
    links = atac.uns["epifoundation_links"]
    data = view_of(atac).data
    tested = links[links["pvalue"].notna()]
    assert sorted((arc[0], arc[1], arc[3]) for arc in data["arcs"]) == sorted(
        zip(tested["chrom"], tested["start"], tested["tss"], strict=True)
    )
    assert {(arc[5], arc[7]) for arc in data["arcs"]} == {(RED, True), (BLUE, True), (GREY, False)}
    assert [arc[4] for arc in data["arcs"][:3]] == [1, 1, 1]
    assert data["arcs_name"] == "Links by effect"
    assert [name for name, _ in data["loci"]] == [
        f"{one}, links: 2" for one in ("G1", "other1", "other2")
    ]
    for _, place in data["loci"]:
        assert re.fullmatch(r"chr[12]:\d+-\d+", place)
    is_open = atac.X.toarray() > 0
    names = [f"{chrom}:{start}-{end}" for chrom, start, end in data["peaks"]]
    columns = atac.var_names.get_indexer(names)
    assert len(set(names)) == len(names)
    for kind, values in data["groups"].items():
        rows = (atac.obs["kind"] == kind).to_numpy()
        np.testing.assert_allclose(values, is_open[rows][:, columns].mean(axis=0), atol=6e-4)
    assert {row[3] for row in data["genes"]} == {"G1", "other1", "other2"}
    assert json.loads(json.dumps(data))["peaks"] == data["peaks"]


def test_scores_come_before_p_values():
    atac = cells()
    links = atac.uns["epifoundation_links"]
    links["score"] = np.linspace(0, 1, len(links))
    data = view_of(atac).data
    assert data["arcs_name"] == "Links by score"
    assert data["loci"][0][0].startswith("other2")
    assert rank_links(links)["score"].is_monotonic_decreasing
    assert data["arcs"][0][4] == pytest.approx(
        links["score"][links["pvalue"].notna()].max(), abs=1e-4
    )
    links["score"] = np.nan  # not fitted
    assert view_of(atac).data["arcs_name"] == "Links by effect"


def test_genes_are_those_of_the_rna():
    atac = cells()
    var = pd.DataFrame(
        {"chrom": "chr1", "start": [3000, 10**8], "end": [9000, 10**8 + 5], "strand": "-"},
        index=["G1", "far"],
    )
    genes = view_of(atac, var).data["genes"]
    assert ["chr1", 3000, 9000, "G1", "-"] in genes
    assert sorted(row[3] for row in genes) == ["G1", "other1", "other2"]
    sites = view_of(atac).data["genes"]  # without an annotation
    assert sorted(row[3] for row in sites) == ["G1", "other1", "other2"]
    assert all(end == start + 1 for _, start, end, _, _ in sites)


def test_pairs_with_a_high_score_are_links():
    atac = cells()
    links = atac.uns["epifoundation_links"]
    links["score"] = np.where(links["qvalue"] == 0.7, 0.8, 0.1)
    data = view_of(atac).data
    assert data["arcs_name"] == "Links by score"
    assert [arc[4] for arc in data["arcs"][:3]] == [0.8] * 3
    shown = {(arc[0], arc[1], arc[3]) for arc in data["arcs"] if arc[7]}
    expected = links[(links["qvalue"] <= 0.1) | (links["score"] >= 0.5)]
    assert shown == set(zip(expected["chrom"], expected["start"], expected["tss"], strict=True))


def test_coverage_of_files_is_shown_in_the_windows(tmp_path):
    atac = cells()
    rng = np.random.default_rng(1)
    lines = [
        f"chr{chrom}\t{at}\t{at + 90}\t{cell}\t1"
        for chrom in (1, 2)
        for at, cell in zip(
            np.sort(rng.integers(0, 120_000, 3000)), rng.choice(atac.obs_names, 3000), strict=True
        )
    ]
    (tmp_path / "f.tsv").write_text("\n".join(lines))
    tracks = ep.pp.group_coverage(
        tmp_path / "f.tsv",
        atac.obs["kind"],
        genome={"chr1": 125_000, "chr2": 125_000},
        directory=tmp_path,
        normalization=None,
    )
    data = view_of(atac, tracks=tracks).data
    assert list(data["groups"]) == ["A", "B"]
    places = pd.DataFrame(data["places"], columns=["chrom", "start", "end"])
    assert {len(values) for values in data["groups"].values()} == {len(places)}
    for _, here in places.groupby("chrom"):  # windows that overlap are joined
        assert (here["start"].to_numpy()[1:] >= here["end"].to_numpy()[:-1]).all()
    loci = ep.genome.parse_intervals([place for _, place in data["loci"]])
    assert places["end"].max() <= loci["end"].max()
    # All cuts in the bins, of both ends of the fragments
    cuts = np.array([[int(a), int(b) - 1] for _, a, b, *_ in (line.split("\t") for line in lines)])
    chrom = np.array([line.split("\t")[0] for line in lines])
    total = sum(
        (np.array(values) * (places["end"] - places["start"]).to_numpy() / 10).sum()
        for values in data["groups"].values()
    )
    expected = 0
    for name, here in places.groupby("chrom"):
        bins = np.searchsorted(here["start"], cuts[chrom == name], side="right") - 1
        expected += (cuts[chrom == name] < here["end"].to_numpy()[bins])[bins >= 0].sum()
    assert total == pytest.approx(expected, rel=0.02)
    assert "coverage" in data["unit"]


def test_what_is_embedded_is_limited(monkeypatch):
    atac = cells(kinds=[f"k{i}" for i in range(6)])
    for name, value in (("MAX_LOCI", 2), ("MAX_GROUPS", 3), ("MAX_ARCS", 4)):
        monkeypatch.setattr(_report_genome, name, value)
    data = view_of(atac).data
    assert (len(data["loci"]), len(data["groups"]), len(data["arcs"])) == (2, 3, 4)
    largest = atac.obs["kind"].value_counts()
    assert min(largest[list(data["groups"])]) >= max(largest.drop(list(data["groups"])))
    few = atac.obs["kind"].where(np.arange(60) >= 2, "two cells")
    atac.obs["kind"] = few.where(np.arange(60) != 5, np.nan)
    for name, value in (("MAX_GROUPS", 15), ("MIN_GROUP_CELLS", 3)):
        monkeypatch.setattr(_report_genome, name, value)
    links = atac.uns["epifoundation_links"]
    groups = genome_view(atac, links, atac.obs["kind"], None, None).data["groups"]
    assert set(groups) == set(few) - {"two cells"}
    monkeypatch.setattr(_report_genome, "MAX_PEAKS", 1)
    assert len(view_of(atac).data["loci"]) == 1
    atac.uns["epifoundation_links"]["pvalue"] = np.nan
    assert view_of(atac) is None


def test_igv_is_complete():
    code = gzip.decompress(base64.b64decode(view_of(cells()).code)).decode()
    assert code.startswith("window.igv=function")
    assert not re.search(r"^//# sourceMappingURL", code, flags=re.MULTILINE)
    assert "The MIT License" in view_of(cells()).license


def test_a_page_without_javascript_has_the_picture(tmp_path):
    content = ep.pl.report(cells(), tmp_path / "a.html", label_key="kind").read_text()
    parsed = Parsed(content)
    assert parsed.open == []
    assert any("G1" in image.get("alt", "") for tag, image in parsed.tags if tag == "img")
    (view,) = [one for tag, one in parsed.tags if tag == "div" and one.get("class") == "genome"]
    assert "hidden" in view
    assert len(content) < 1.5e6
    atac = cells()
    atac.uns["epifoundation_links"]["pvalue"] = np.nan
    without = ep.pl.report(atac, tmp_path / "c.html", label_key="kind").read_text()
    assert "Links" in without
    assert "igv-code" not in without
    assert len(without) < len(content) - 4e5


DRAWN = """
<script>
addEventListener("load", async () => {
  const root = document.querySelector(".genome"), wait = (ms) => new Promise((r) => setTimeout(r, ms));
  const inside = (node) => [...node.querySelectorAll("*")].flatMap((each) =>
    [each, ...(each.shadowRoot ? inside(each.shadowRoot) : [])]);
  const drawn = () => inside(root).filter((each) => each.tagName === "CANVAS" && each.width > 300)
    .map((each) => {
      const pixels = each.getContext("2d").getImageData(0, 0, each.width, each.height).data;
      let n = 0;
      for (let i = 0; i < pixels.length; i += 4)
        if (pixels[i + 3] && Math.min(pixels[i], pixels[i + 1], pixels[i + 2]) < 200) n++;
      return n;
    });
  for (let i = 0; i < 100 && !root.dataset.tracks; i++) await wait(100);
  await wait(1500);
  const first = drawn();
  const select = root.querySelector("select"), place = () => inside(root)
    .find((each) => each.tagName === "INPUT" && each.placeholder === "Locus Search").value;
  const before = place();
  select.selectedIndex = 1;
  select.dispatchEvent(new Event("change"));
  await wait(1500);
  document.body.dataset.found = JSON.stringify({
    first, second: drawn(), before, after: place(), hidden: root.hidden,
    tracks: Number(root.dataset.tracks), version: window.igv && igv.version(),
    images: inside(root).filter((each) => each.tagName === "IMG" && each.getAttribute("src") === "x").length,
    wide: document.documentElement.scrollWidth - innerWidth,
  });
});
</script>
"""  # noqa: E501


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_a_browser_without_network_draws_the_tracks(tmp_path):
    atac = cells(gene=BAD, kinds=(BAD, "B"))
    rna = AnnData(np.ones((60, 1)), obs=atac.obs[[]], var=pd.DataFrame(index=[BAD]))
    path = ep.pl.report(
        MuData({"atac": atac, "rna": rna}), tmp_path / "a.html", label_key="kind", title="Title"
    )
    checked = tmp_path / "checked.html"
    checked.write_text(path.read_text().replace("</body>", DRAWN + "</body>"))
    offline = ["--proxy-server=127.0.0.1:9", "--virtual-time-budget=30000"]
    flags = [flag for flag in FLAGS if "virtual-time" not in flag]
    done = subprocess.run(
        [BROWSER, *flags, *offline, checked.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr
    (attribute,) = re.findall(r'<body data-found="([^"]*)"', done.stdout)
    found = json.loads(html.unescape(attribute))
    assert found["version"] == "3.1.4"
    assert not found["hidden"]
    assert found["images"] == 0
    assert found["wide"] <= 0
    # links, two groups, peaks and genes, besides the ruler and other tracks of igv
    assert found["tracks"] >= 5
    assert sum(n > 20 for n in found["first"]) >= 5
    assert sum(n > 20 for n in found["second"]) >= 5
    assert found["before"] != found["after"]
    assert "<title>Title</title>" in done.stdout


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda _: {"a": 1}, "is no table of links with the columns"),
        (lambda links: links.drop(columns="qvalue"), "is no table of links with the columns"),
        (lambda links: links.assign(effect="x"), "The column 'effect' of .* run it again"),
        (lambda links: pd.concat([links, links[["tss"]]], axis=1), "The column 'tss' of"),
    ],
)
def test_changed_tables_of_links_are_named(tmp_path, change, match):
    atac = cells()
    atac.uns["epifoundation_links"] = change(atac.uns["epifoundation_links"])
    with pytest.raises(ValueError, match=match) as caught:
        ep.pl.report(atac, path=tmp_path / "report.html")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
