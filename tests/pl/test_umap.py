"""``ep.pl.umap`` draws what embed wrote and says what is missing."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData, read_zarr
from matplotlib.colors import to_hex
from matplotlib.transforms import Bbox

import epifoundation as ep
from epifoundation._keys import Keys
from epifoundation.pl import _report_sections
from epifoundation.pl._palette import label_colors
from epifoundation.pl._report_page import Paragraph

mpl.use("Agg")


@pytest.fixture
def embedded(mdata, model):
    ep.tl.embed(mdata, model)
    mdata["atac"].obsm["X_umap"] = np.random.default_rng(0).normal(size=(400, 2))
    return mdata


def test_annotation_and_confidence_by_default(embedded):
    axes = ep.pl.umap(embedded, show=False)
    assert [ax.get_title() for ax in axes] == [
        "epifoundation_cell_type",
        "epifoundation_confidence",
    ]
    assert len(axes[0].collections[0].get_offsets()) == 400


def test_any_column(embedded):
    assert ep.pl.umap(embedded["atac"], color="batch", show=False).get_title() == "batch"


@pytest.mark.parametrize(
    ("key", "basis"), [("X_umap", "umap"), ("umap", "umap"), ("umap", "X_umap"), ("X_tsne", "tsne")]
)
def test_coordinates_by_either_name(embedded, key, basis):
    """scanpy 1.13 has an option to drop the prefix "X_"."""
    atac = embedded["atac"]
    atac.obsm[key] = atac.obsm.pop("X_umap")
    axes = ep.pl.umap(embedded, color="batch", basis=basis, show=False)
    np.testing.assert_allclose(axes.collections[0].get_offsets(), atac.obsm[key], rtol=1e-6)


def test_columns_of_other_tables(embedded):
    embedded["rna"].obs["of_rna"] = embedded["rna"].obs["cell_type"].to_numpy()
    before = list(embedded["atac"].obs)
    axes = ep.pl.umap(embedded, color=["rna:of_rna", "batch"], show=False)
    assert [ax.get_title() for ax in axes] == ["rna:of_rna", "batch"]
    assert list(embedded["atac"].obs) == before
    with pytest.raises(ValueError, match=r"`color='nothing'` is not a column"):
        ep.pl.umap(embedded, color="nothing")


def test_missing_results_are_named(embedded, mdata, model):
    with pytest.raises(ValueError, match=r"No \['mine_cell_type', 'mine_confidence'\] in `obs`"):
        ep.pl.umap(embedded, key_added="mine")
    del embedded["atac"].obsm["X_umap"]
    with pytest.raises(ValueError, match=r"No 'umap' in `obsm`.*use_rep='X_epifoundation'"):
        ep.pl.umap(embedded)


def labels_of(n, length=40):
    return [f"{i:03} ".ljust(length, "x") for i in range(n)]


@pytest.fixture
def coloured():
    """2,000 cells with 20 long labels, of which some are missing or predicted as unknown."""
    rng = np.random.default_rng(0)
    labels, codes = np.array(labels_of(20)), rng.integers(0, 20, 2000)
    obs = pd.DataFrame({"truth": labels[codes]}, index=[f"c{i}" for i in range(2000)])
    obs["guess"] = pd.Categorical(obs["truth"].where(rng.random(2000) > 0.1, "unknown"))
    obs["truth"] = pd.Categorical(obs["truth"].where(rng.random(2000) > 0.1))
    obs["score"], obs["batch"] = rng.random(2000), rng.choice(["d1", "d2"], 2000)
    return AnnData(np.ones((2000, 2)), obs, obsm={"X_umap": rng.normal(size=(2000, 2))})


def boxes_of(figure):
    """What is drawn for each panel, without its neighbours."""
    figure.draw_without_rendering()
    return [ax.get_tightbbox() for ax in figure.axes]


@pytest.mark.parametrize("n_columns", [1, 2, 3, 4])
@pytest.mark.parametrize("dpi", [50, 200])
def test_nothing_is_covered_or_cut(coloured, n_columns, dpi):
    color = ["truth", "guess", "score", "batch", "truth"]
    with mpl.rc_context({"figure.dpi": dpi}):
        figure = ep.pl.umap(coloured, color=color, ncols=n_columns, return_fig=True)
    boxes = boxes_of(figure)
    assert len(boxes) == len(color) + 1  # and a colour bar
    for i, box in enumerate(boxes):
        assert figure.bbox.padded(1).containsx(box.x0), "cut"
        assert figure.bbox.padded(1).containsx(box.x1), "cut"
        assert figure.bbox.padded(1).containsy(box.y0), "cut"
        assert figure.bbox.padded(1).containsy(box.y1), "cut"
        for other in boxes[:i]:
            shared = Bbox.intersection(box, other)
            assert shared is None or shared.width * shared.height == 0, "covered"
    legend = [text.get_text() for text in figure.axes[1].get_legend().get_texts()]
    assert legend == [*labels_of(20), "unknown"]
    plt.close(figure)


def test_one_panel_and_axes_of_the_caller(coloured):
    figure = ep.pl.umap(coloured, color="truth", return_fig=True)
    (box,) = boxes_of(figure)
    assert box.x0 >= -1
    assert box.x1 <= figure.bbox.x1 + 1
    _, ax = plt.subplots(figsize=(3, 2))
    ep.pl.umap(coloured, color="truth", ax=ax, show=False)
    assert tuple(ax.figure.get_size_inches()) == (3, 2)
    plt.close("all")


def test_a_label_has_the_same_colour_in_all_plots(coloured, tmp_path, monkeypatch):
    ep.pl.umap(coloured, color=["guess", "truth", "batch"], show=False)
    colors = dict(zip(labels_of(20), coloured.uns["truth_colors"], strict=True))
    assert len(set(colors.values())) == 20
    guess = dict(
        zip(coloured.obs["guess"].cat.categories, coloured.uns["guess_colors"], strict=True)
    )
    assert guess == colors | {"unknown": to_hex("lightgray")}
    bars = ep.pl.composition(coloured, batch_key="batch", color="guess")
    found = {bar.get_label(): to_hex(bar.patches[0].get_facecolor()) for bar in bars.containers}
    assert found == guess
    drawn = {}
    monkeypatch.setattr(
        _report_sections, "draw_umap", lambda _, name, used, title: drawn.update({name: used})
    )
    for key in list(coloured.uns):
        del coloured.uns[key]  # the colours do not depend on which plot is first
    coloured.obs["epifoundation_cell_type"] = coloured.obs["guess"]
    coloured.obsm["X_epifoundation"] = coloured.obsm["X_umap"]
    monkeypatch.setattr(_report_sections, "with_umap", lambda *_: None)
    monkeypatch.setattr(_report_sections, "_plot", lambda draw, *_: draw() or Paragraph(""))
    _report_sections._embedding(results_of(coloured, "truth"))
    assert drawn["truth"] == colors
    assert {
        name: to_hex(color) for name, color in drawn["epifoundation_cell_type"].items()
    } == guess
    plt.close("all")


def results_of(atac, label_key):
    keys = Keys()
    obs = atac.obs[[keys.cell_type, label_key]]
    options = {"modality": "atac", "key_added": None}
    rng = np.random.default_rng(0)
    return _report_sections.Results(
        atac, atac, None, keys, obs, label_key, None, None, {}, options, options, rng
    )


def test_colours_of_the_user_and_of_the_reference_count(mdata, model):
    reference = mdata["atac"].copy()
    reference.obs["cell_type"] = reference.obs["cell_type"].astype("category")
    reference.uns["cell_type_colors"] = ["#111111", "#222222", "#333333", "#444444"]
    query = mdata["atac"][:100].copy()
    query.obs["mine"] = pd.Categorical(["type1", "other"] * 50)
    ep.tl.annotate(query, model, reference=reference, label_key="cell_type")
    query.obsm["X_umap"] = np.random.default_rng(0).normal(size=(100, 2))
    ep.pl.umap(query, color=["epifoundation_cell_type", "mine"], show=False)
    of_type = {f"type{i}": f"#{i + 1}{i + 1}".ljust(7, str(i + 1)) for i in range(4)}
    of_type["unknown"] = to_hex("lightgray")
    names = query.obs["epifoundation_cell_type"].cat.categories
    assert query.uns["epifoundation_cell_type_colors"] == [of_type[name] for name in names]
    assert query.uns["mine_colors"][1] == "#222222"
    query.uns["mine_colors"] = ["red", "blue"]
    ep.pl.umap(query, color="mine", show=False)
    assert query.uns["mine_colors"] == [to_hex("red"), to_hex("blue")]
    plt.close("all")


@pytest.mark.parametrize("n", [21, 60, 150])
def test_many_labels_have_different_colours_and_few_the_same_as_before(coloured, n):
    names = labels_of(n, 5)
    colors = label_colors(coloured, Keys(), names)
    assert list(colors) == names
    assert len(set(colors.values())) == n
    assert list(label_colors(coloured, Keys(), names[:10]).items()) == list(colors.items())[:10]


def test_labels_called_na_and_views_are_plotted(coloured):
    coloured.obs["odd"] = pd.Categorical(["NA", None] * 1000)
    view = coloured[100:300]
    axes = ep.pl.umap(view, color="odd", show=False)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["NA"]
    assert view.is_view
    assert not coloured.uns
    plt.close("all")


def test_results_in_files_have_a_umap(mdata, model, tmp_path):
    mdata["atac"].write_h5ad(tmp_path / "a.h5ad")
    out = ep.tl.embed(tmp_path / "a.h5ad", model, expression=False, output=tmp_path / "out.zarr")
    results = read_zarr(out)
    results.obsm["X_umap"] = np.random.default_rng(0).normal(size=(400, 2))
    axes = ep.pl.umap(results, show=False)
    assert len(axes) == 2
    plt.close("all")
