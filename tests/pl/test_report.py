"""The report: one file that stands alone, says what is there, and works in a browser."""

import base64
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

import epifoundation as ep
from epifoundation.pl._report_page import DPI, Section, page, said, table


class Parsed(HTMLParser):
    """Tags, texts by tag, and what is left open."""

    VOID = ("meta", "link", "img", "input", "br")

    def __init__(self, content):
        super().__init__()
        self.tags, self.open, self.texts = [], [], []
        self.feed(content)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("script", "style"):
            self.texts.append(data)


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    mdata = ep.datasets.pbmc_multiome()[:600].copy()
    ep.tl.embed(mdata)
    ep.tl.annotate(mdata)
    mdata["atac"].obs["donor"] = np.random.default_rng(0).choice(["d<1>", "d&2"], mdata.n_obs)
    before = mdata.copy()
    path = tmp_path_factory.mktemp("report") / "report.html"
    assert ep.pl.report(mdata, path, label_key="cell_type", batch_key="donor", title="Blood & <more>") == path
    return before, mdata, path


def test_it_stands_alone_is_small_and_whole(told):
    _, _, path = told
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
    assert links == anchors == {"cells", "embedding", "labels", "confidence", "expression", "parameters"}
    images = [attributes for tag, attributes in parsed.tags if tag == "img"]
    assert len(images) == 9
    for image in images:
        assert len(image["alt"]) > 20
        assert base64.b64decode(image["src"].split(",")[1])[:8] == b"\x89PNG\r\n\x1a\n"
        assert int(image["width"]) > 2 * DPI, image["alt"]
    assert "Blood & <more>" in parsed.texts
    assert not list(path.parent.glob("*.part"))


def test_it_says_what_was_found(told):
    _, mdata, path = told
    text = " ".join(Parsed(path.read_text()).texts)
    atac = mdata["atac"]
    assert f"{atac.n_obs:,} cells and {atac.n_vars:,} peaks, read by pbmc-51loci" in text
    for label, count in atac.obs["epifoundation_cell_type"].value_counts().items():
        assert re.search(rf"{re.escape(label)} {count:,} ", re.sub(r"\s+", " ", text)), label
    for name in ("epifoundation", "torch", "scanpy"):
        assert name in text
    assert atac.uns["epifoundation"]["revision"] in text


def test_the_data_are_left_alone(told):
    before, mdata, _ = told
    for name in ("atac", "rna"):
        ours, theirs = mdata[name], before[name]
        pd.testing.assert_frame_equal(ours.obs, theirs.obs)
        assert set(ours.obsm) == set(theirs.obsm)
        assert set(ours.uns) == set(theirs.uns)
        assert set(ours.layers) == set(theirs.layers)


def test_the_same_cells_make_the_same_page(told, tmp_path):
    _, mdata, _ = told
    atac = mdata["atac"][:300].copy()
    ep.tl.embed(atac)
    pages = [ep.pl.report(atac, tmp_path / f"{i}.html").read_text() for i in range(2)]
    assert pages[0] == pages[1]
    assert "nothing was measured to hold it against" in pages[0]


def test_of_little_it_tells_little(tmp_path):
    atac = ep.datasets.simulate_multiome(8, 60, 5)["atac"]
    model = ep.tl.pretrain(
        ep.datasets.simulate_multiome(60, 60, 5)["atac"],
        objective="peaks",
        config=ep.ModelConfig(dim=8),
        training=ep.TrainingConfig(max_epochs=1),
    )
    ep.tl.embed(atac, model, key_added="mine")
    text = ep.pl.report(atac, tmp_path / "few.html", key_added="mine").read_text()
    assert "too few to draw" in text
    assert 'id="labels"' not in text
    assert 'id="expression"' not in text


def test_bad_input_is_told_and_nothing_written(told, tmp_path):
    _, mdata, path = told
    with pytest.raises(FileExistsError, match="pass `overwrite=True`"):
        ep.pl.report(mdata, path)
    for options, match in (
        ({"label_key": "nonsense"}, "`label_key='nonsense'` is no column of `obs`"),
        ({"genes": ["nonsense"]}, r"\['nonsense'\] are not among the"),
        ({"key_added": "other"}, "No 'X_other' in `obsm`"),
    ):
        with pytest.raises(ValueError, match=match):
            ep.pl.report(mdata, tmp_path / "x.html", **options)
    with pytest.raises(ValueError, match="must end in '.html'"):
        ep.pl.report(mdata, tmp_path / "x.pdf")
    assert list(tmp_path.iterdir()) == []


def test_tables_hold_what_they_are_given():
    frame = pd.DataFrame({"name": ["a<b", None], "n": [12_345, 6], "x": [0.123456, np.nan]})
    parsed = Parsed(page("t", "s", [Section("One two", table(frame))], "f"))
    assert "a<b" in parsed.texts
    assert {"12,345", "0.123", "–"} <= set(parsed.texts)
    values = [attributes["data-value"] for tag, attributes in parsed.tags if tag == "td" and "data-value" in attributes]
    assert values == ["12345", "0.123456", "6", ""]
    assert not [tag for tag, _ in parsed.tags if tag == "input"]
    long = Parsed(table(pd.DataFrame({"n": range(50)})))
    assert [attributes["placeholder"] for tag, attributes in long.tags if tag == "input"] == ["Search 50 rows"]
    assert [said(value) for value in (True, None, [], ["a", 1], np.float32(0.5), 12345.6)] == ["yes", "–", "–", "a, 1", "0.5", "12,346"]  # fmt: skip


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
CHECK = """
<script>
addEventListener("load", () => {
  const images = [...document.images], table = document.querySelector("table.sortable");
  const head = [...table.querySelectorAll("th.number")][0], column = head.cellIndex;
  const values = () => [...table.tBodies[0].rows].map((row) => Number(row.cells[column].dataset.value));
  head.querySelector("button").click();
  const up = values();
  head.querySelector("button").click();
  const down = values();
  const field = [...document.querySelectorAll("input")].at(-1);
  field.value = "revision"; field.dispatchEvent(new Event("input"));
  const found = [...field.nextElementSibling.querySelectorAll("tbody tr")].filter((row) => !row.hidden).length;
  document.body.dataset.told = JSON.stringify({
    images: images.length, loaded: images.filter((image) => image.complete && image.naturalWidth > 0).length,
    up: up.every((value, i) => !i || up[i - 1] <= value), down: down.every((value, i) => !i || down[i - 1] >= value),
    found, wide: document.documentElement.scrollWidth - innerWidth,
  });
});
</script>
"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [360, 1280])
def test_in_a_browser(told, tmp_path, width):
    import json

    _, _, path = told
    checked = tmp_path / "checked.html"
    checked.write_text(path.read_text().replace("</body>", CHECK + "</body>"))
    done = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},900", "--enable-logging=stderr", "--v=0", "--virtual-time-budget=10000", "--dump-dom", checked.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr
    (attributes,) = [attributes for tag, attributes in Parsed(done.stdout).tags if tag == "body"]
    told_of = json.loads(attributes["data-told"])
    assert told_of["images"] == told_of["loaded"] == 9
    assert told_of["up"]
    assert told_of["down"]
    assert 1 <= told_of["found"] < 10
    assert told_of["wide"] <= 0 or width < 500
