"""The report: one self-contained file with the results, which works in a browser."""

import base64
import re
import subprocess

import anndata
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from html_pages import BROWSER, FLAGS, Parsed

import epifoundation as ep
from epifoundation._keys import Keys
from epifoundation.pl._report_links import link_tables
from epifoundation.pl._report_page import DPI, Section, format_value, page, table
from epifoundation.pl._report_umap import title_of


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    mdata = ep.datasets.pbmc_multiome()[:600].copy()
    ep.tl.embed(mdata, "pbmc-51loci")
    ep.tl.annotate(mdata, "pbmc-51loci")
    mdata["atac"].obs["donor"] = np.random.default_rng(0).choice(["d<1>", "d&2"], mdata.n_obs)
    before = mdata.copy()
    path = tmp_path_factory.mktemp("report") / "report.html"
    assert (
        ep.pl.report(mdata, path, label_key="cell_type", batch_key="donor", title="Blood & <more>")
        == path
    )
    return before, mdata, path


def test_the_page_is_self_contained_small_and_complete(reported):
    _, _, path = reported
    content = path.read_text()
    parsed = Parsed(content)
    assert parsed.open == []
    assert len(content) < 3e6
    for tag, attributes in parsed.tags:
        for name in ("src", "href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, value)
    assert "@import" not in content
    assert not re.search(r"url\(", content)
    anchors = {attributes["id"] for _, attributes in parsed.tags if "id" in attributes}
    links = {attributes["href"][1:] for tag, attributes in parsed.tags if tag == "a"}
    assert (
        links
        == anchors
        == {"cells", "embedding", "labels", "confidence", "expression", "parameters"}
    )
    images = [attributes for tag, attributes in parsed.tags if tag == "img"]
    assert len(images) == 9
    assert "The model knows all open peaks of all cells." in parsed.texts
    for image in images:
        assert len(image["alt"]) > 20
        assert base64.b64decode(image["src"].split(",")[1])[:8] == b"\x89PNG\r\n\x1a\n"
        assert int(image["width"]) > 2 * DPI, image["alt"]
    assert "Blood & <more>" in parsed.texts
    assert not list(path.parent.glob("*.part"))


def test_the_page_shows_the_results(reported):
    _, mdata, path = reported
    text = " ".join(Parsed(path.read_text()).texts)
    atac = mdata["atac"]
    assert f"{atac.n_obs:,} cells, model pbmc-51loci," in text
    for label, count in atac.obs["epifoundation_cell_type"].value_counts().items():
        assert re.search(rf"{re.escape(label)} {count:,} ", re.sub(r"\s+", " ", text)), label
    for name in ("epifoundation", "torch", "scanpy"):
        assert name in text
    assert atac.uns["epifoundation"]["revision"] in text


def test_the_data_are_not_changed(reported):
    before, mdata, _ = reported
    for name in ("atac", "rna"):
        ours, theirs = mdata[name], before[name]
        pd.testing.assert_frame_equal(ours.obs, theirs.obs)
        assert set(ours.obsm) == set(theirs.obsm)
        assert set(ours.uns) == set(theirs.uns)
        assert set(ours.layers) == set(theirs.layers)


def test_the_same_cells_make_the_same_page(reported, tmp_path):
    _, mdata, _ = reported
    atac = mdata["atac"][:300].copy()
    ep.tl.embed(atac, "pbmc-51loci")
    pages = [ep.pl.report(atac, tmp_path / f"{i}.html").read_text() for i in range(2)]
    assert pages[0] == pages[1]
    assert "The data have no measured expression" in pages[0]


def test_few_results_give_a_short_page(tmp_path):
    atac = ep.datasets.simulate_multiome(8, 60, 5)["atac"]
    model = ep.tl.pretrain(
        ep.datasets.simulate_multiome(120, 60, 5)["atac"],
        objective="peaks",
        config=ep.ModelConfig(dim=8),
    )
    ep.tl.embed(atac, model, key_added="mine")
    text = ep.pl.report(atac, tmp_path / "few.html", key_added="mine").read_text()
    assert "too few to plot" in text
    assert 'id="labels"' not in text
    assert 'id="expression"' not in text


def test_bad_input_is_refused_and_nothing_written(reported, tmp_path):
    _, mdata, path = reported
    with pytest.raises(FileExistsError, match="pass `overwrite=True`"):
        ep.pl.report(mdata, path)
    for options, match in (
        ({"label_key": "nonsense"}, "`label_key='nonsense'` is not a column of `obs`"),
        ({"genes": ["nonsense"]}, r"\['nonsense'\] are not among the"),
        ({"key_added": "other"}, "No 'X_other' in `obsm`"),
    ):
        with pytest.raises(ValueError, match=match):
            ep.pl.report(mdata, tmp_path / "x.html", **options)
    with pytest.raises(ValueError, match="must end in '.html'"):
        ep.pl.report(mdata, tmp_path / "x.pdf")
    with pytest.raises(ValueError, match="No modality 'RNA'"):
        ep.pl.report(mdata, tmp_path / "x.html", rna_modality="RNA")
    with pytest.raises(FileNotFoundError, match="does not exist: create it first"):
        ep.pl.report(mdata, tmp_path / "nowhere" / "x.html")
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(FileExistsError, match="or another `path`"):
        ep.pl.report(mdata, tmp_path / "folder.html", overwrite=True)
    (tmp_path / "folder.html").rmdir()
    assert list(tmp_path.iterdir()) == []


def few(n=60, **columns):
    """Cells with an embedding and labels, without a model."""
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(columns, index=[f"c{i}" for i in range(n)])
    obs["epifoundation_cell_type"] = pd.Categorical(rng.choice(["a", "b", "NA"], n))
    obs["epifoundation_confidence"] = rng.random(n)
    X = sp.random(n, 30, 0.2, format="csr", rng=rng)
    return AnnData(
        X, obs=obs, obsm={"X_epifoundation": rng.standard_normal((n, 4)).astype(np.float32)}
    )


def test_results_in_files_and_backed_cells_have_a_report(model, mdata, tmp_path):
    mdata["atac"].write_h5ad(tmp_path / "a.h5ad")
    for name, options in {"with": {}, "without": {"expression": False}}.items():
        out = ep.tl.embed(tmp_path / "a.h5ad", model, output=tmp_path / f"{name}.zarr", **options)
        results = anndata.read_zarr(out)
        text = ep.pl.report(results, tmp_path / f"{name}.html").read_text()
        assert "<dt>peaks</dt>" not in text
        assert ("Predicted from ATAC" in text) == (name == "with")
    ep.tl.embed(tmp_path / "a.h5ad", model)
    backed = anndata.read_h5ad(tmp_path / "a.h5ad", backed="r")
    assert "<dt>peaks</dt>" in ep.pl.report(backed, tmp_path / "backed.html").read_text()
    backed.file.close()


def test_the_page_says_what_could_not_be_plotted(tmp_path):
    cells = few(batch=np.nan, truth=pd.Categorical([np.nan] * 60, ["a"]))
    figures = plt.get_fignums()
    text = ep.pl.report(
        cells, tmp_path / "a.html", label_key="truth", batch_key="batch"
    ).read_text()
    assert "Not plotted: No cell has an annotation and a true label in `label_key=" in text
    assert "Not plotted: No cell has both a batch" in text
    assert plt.get_fignums() == figures


def test_missing_and_many_labels_are_plotted(tmp_path):
    names = np.array([f"type {i}" for i in range(120)], dtype=object)
    truth = pd.Series(np.r_[names, names], dtype=object).where(np.arange(240) % 7 > 0)
    cells = few(240, truth=truth.to_numpy(), number=np.arange(240) % 3)
    text = ep.pl.report(
        cells, tmp_path / "a.html", label_key="truth", batch_key="number"
    ).read_text()
    assert "coloured by truth" in text
    assert "coloured by number" in text
    assert "Not plotted" not in text


def test_a_umap_of_another_embedding_is_not_used(tmp_path):
    cells = few()
    cells.obsm["X_umap"] = np.zeros((60, 2))
    with_other = ep.pl.report(cells, tmp_path / "a.html").read_text()
    del cells.obsm["X_umap"]
    assert ep.pl.report(cells, tmp_path / "b.html").read_text() == with_other
    cells.obsm["X_umap"] = np.random.default_rng(1).random((60, 2))
    cells.uns["neighbors"] = {"params": {"use_rep": "X_epifoundation"}}
    assert ep.pl.report(cells, tmp_path / "c.html").read_text() != with_other


def test_the_style_of_the_caller_does_not_matter(tmp_path):
    cells = few()
    plain = ep.pl.report(cells, tmp_path / "a.html").read_text()
    with plt.style.context("dark_background"):
        before = dict(plt.rcParams)
        assert ep.pl.report(cells, tmp_path / "b.html").read_text() == plain
        assert dict(plt.rcParams) == before


def test_the_page_says_what_was_learned_from(model, mdata, tmp_path):
    """The model was loaded by no name, and its training cells are among those that are shown."""
    rng = np.random.default_rng(0)
    new = ep.datasets.simulate_multiome(100, 600, 40, n_types=4, rng=1)["atac"].copy()
    old = mdata["atac"][:300]
    both = anndata.concat({"old": old, "new": new}, index_unique="-")
    both.obs["cell_type"] = rng.permutation(both.obs["cell_type"].astype(str).to_numpy())
    ep.tl.embed(both, model)
    learned = both.obs["epifoundation_in_reference"]
    assert learned.equals(both.obs_names.str.endswith("-old").astype(bool) | learned)
    text = ep.pl.report(both, tmp_path / "a.html", label_key="cell_type").read_text()
    assert "unsaved" not in " ".join(Parsed(text).texts[:20])
    assert f"model of revision {model.revision}" in text
    assert f"learned from {learned.sum():,} of these 400 cells" in text
    right = both.obs["epifoundation_cell_type"].astype(str) == both.obs["cell_type"]
    accuracy = right[~learned].mean()
    assert f"of the {(~learned).sum():,} others, {accuracy:.1%} have the true label" in text
    del both.obs["epifoundation_in_reference"]
    text = ep.pl.report(both, tmp_path / "b.html", label_key="cell_type").read_text()
    assert "do not say which of these cells the labels were learned from" in text


def test_titles_say_what_is_shown():
    keys = Keys.of("mine")
    assert title_of("mine_confidence", keys, "truth", "donor") == "Confidence of the label"
    assert title_of("truth", keys, "truth", "donor") == "True label (truth)"
    assert title_of("other", keys, "truth", "donor") == "other"


def rendered(*blocks):
    return page("Title", "subtitle", [Section("One two", list(blocks))], "footer")


def test_markup_in_the_data_is_escaped(tmp_path):
    bad = "<script>alert('x')</script> \"&"
    cells = few(truth=pd.Categorical([bad, "b"] * 30))
    cells.obs[bad] = pd.Categorical(["a", bad] * 30)
    cells.obs["epifoundation_cell_type"] = pd.Categorical([bad, "b"] * 30)
    cells.uns["epifoundation"] = {"model": bad, bad: bad}
    path = ep.pl.report(cells, tmp_path / "a.html", label_key="truth", batch_key=bad, title=bad)
    content = path.read_text()
    assert "<script>alert" not in content
    assert content.count("<script>") == 1
    parsed = Parsed(content)
    assert parsed.open == []
    # title and heading, subtitle, label, caption, name and value of a parameter
    assert sum(bad in text for text in parsed.texts) >= 6
    assert [image["alt"] for tag, image in parsed.tags if tag == "img" and bad in image["alt"]]


def test_the_most_significant_links_come_first():
    links = pd.DataFrame(
        {
            "gene": list("abc"),
            "peak": list("xyz"),
            "group": ["all", "T", "T"],
            "pvalue": [0.001, 0.01, np.nan],
            "qvalue": [0.5, 0.05, np.nan],
        }
    )
    text = " ".join(Parsed(rendered(*link_tables(links))).texts)
    assert "2 peak-gene pairs were tested in 2 groups of cells; 1 have q ≤ 0.1" in text
    assert text.index("b y T") < text.index("a x all")


def test_tables_show_their_values():
    frame = pd.DataFrame({"name": ["a<b", None], "n": [12_345, 6], "x": [0.123456, np.nan]})
    parsed = Parsed(rendered(table(frame)))
    assert "a<b" in parsed.texts
    assert {"12,345", "0.123", "–"} <= set(parsed.texts)
    values = [
        attributes["data-value"]
        for tag, attributes in parsed.tags
        if tag == "td" and "data-value" in attributes
    ]
    assert values == ["12345", "0.123456", "6", ""]
    assert not [tag for tag, _ in parsed.tags if tag == "input"]
    odd = Parsed(rendered(table(pd.DataFrame({"x": [np.inf, -np.inf], "is": [True, False]}))))
    assert [a["data-value"] for tag, a in odd.tags if "data-value" in a] == [
        "Infinity",
        "-Infinity",
    ]
    assert {"∞", "-∞", "yes", "no"} <= set(odd.texts)
    long = Parsed(rendered(table(pd.DataFrame({"n": range(50)}))))
    assert [attributes["placeholder"] for tag, attributes in long.tags if tag == "input"] == [
        "Search 50 rows"
    ]
    values = (True, None, [], ["a", 1], np.float32(0.5), 12345.6)
    expected = ["yes", "–", "–", "a, 1", "0.5", "12,346"]
    assert [format_value(value) for value in values] == expected


CHECK = r"""
<script>
addEventListener("load", () => {
  const images = [...document.images], table = document.querySelector("table.sortable");
  const head = [...table.querySelectorAll("th.number")][0], column = head.cellIndex;
  const number = (row) => Number(row.cells[column].dataset.value);
  const values = () => [...table.tBodies[0].rows].map(number);
  head.querySelector("button").click();
  const up = values();
  head.querySelector("button").click();
  const down = values();
  const field = [...document.querySelectorAll("input")].at(-1);
  field.value = "revision"; field.dispatchEvent(new Event("input"));
  const rows = [...field.nextElementSibling.querySelectorAll("tbody tr")];
  const found = rows.filter((row) => !row.hidden).length;
  const phone = document.createElement("iframe");  // a window cannot be as narrow as a phone
  phone.style = "width: 360px; height: 800px";
  phone.srcdoc = document.documentElement.outerHTML.replace(/<script>[^]*?<\/script>/g, "");
  document.body.append(phone);
  phone.addEventListener("load", () => {
    document.body.dataset.phone = phone.contentDocument.documentElement.scrollWidth;
  });
  document.body.dataset.found = JSON.stringify({
    images: images.length,
    loaded: images.filter((image) => image.complete && image.naturalWidth > 0).length,
    up: up.every((value, i) => !i || up[i - 1] <= value),
    down: down.every((value, i) => !i || down[i - 1] >= value),
    found, wide: document.documentElement.scrollWidth - innerWidth,
  });
});
</script>
"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_in_a_browser(reported, tmp_path):
    import json

    _, _, path = reported
    checked = tmp_path / "checked.html"
    checked.write_text(path.read_text().replace("</body>", CHECK + "</body>"))
    done = subprocess.run(
        [BROWSER, *FLAGS, checked.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    assert "CONSOLE" not in done.stderr
    (attributes,) = [attributes for tag, attributes in Parsed(done.stdout).tags if tag == "body"]
    found = json.loads(attributes["data-found"])
    assert found["images"] == found["loaded"] == 9
    assert found["up"]
    assert found["down"]
    assert 1 <= found["found"] < 10
    assert found["wide"] <= 0
    assert int(attributes["data-phone"]) <= 360
