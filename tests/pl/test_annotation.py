"""``ep.pl.annotation`` and ``ep.pl.composition`` draw the numbers that the metrics give."""

from dataclasses import replace

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import epifoundation as ep
from epifoundation._columns import table_of

mpl.use("Agg")


@pytest.fixture
def annotated(mdata, model):
    ep.tl.annotate(mdata, model)
    yield mdata
    plt.close("all")


def test_with_true_labels_there_are_confusion_calibration_and_risk(annotated):
    atac = annotated["atac"]
    figure = ep.pl.annotation(annotated, label_key="cell_type")
    confusion, _, confidence, reliability, risk = figure.axes
    true = atac.obs["cell_type"].astype(str)
    called = atac.obs["epifoundation_cell_type"].astype(str)
    image = confusion.images[0].get_array()
    np.testing.assert_allclose(image.sum(axis=1), 1)
    kinds = [label.get_text() for label in confusion.get_yticklabels()]
    for i, kind in enumerate(kinds):
        np.testing.assert_allclose(image[i, i], (called[true == kind] == kind).mean())
    assert confusion.get_title().endswith(f"accuracy {(true == called).mean():.1%}")
    assert sum(patch.get_height() for patch in confidence.patches) == 400
    guess = atac.obsm["epifoundation_probabilities"].idxmax(axis=1)
    sure = atac.obs["epifoundation_confidence"]
    assert (
        f"{ep.metrics.expected_calibration_error(true, guess, sure):.3f}" in reliability.get_title()
    )
    assert f"{ep.metrics.area_under_risk_coverage(true, guess, sure):.3f}" in risk.get_title()
    assert (called == "unknown").any()
    assert confusion.get_xticklabels()[-1].get_text() == "unknown"


def test_without_true_labels_there_are_confidence_and_sets(annotated):
    figure = ep.pl.annotation(annotated["atac"])
    assert len(figure.axes) == 2
    sizes = annotated["atac"].obs["epifoundation_set"].str.split(" | ", regex=False).str.len()
    assert f"mean size {sizes.mean():.2f} at 90%" in figure.axes[1].get_title()


def test_after_embed_alone_there_are_no_sets(mdata, model):
    ep.tl.embed(mdata, model)
    assert "no prediction sets" in ep.pl.annotation(mdata).axes[1].texts[0].get_text()
    ep.pl.annotation(mdata, label_key="cell_type")
    plt.close("all")


def test_cells_without_a_true_label_are_ignored(annotated):
    atac = annotated["atac"]
    atac.obs["partly"] = atac.obs["cell_type"].astype(object).where(np.arange(400) < 100)
    assert ep.pl.annotation(atac, label_key="partly").axes[0].get_title().startswith("100 cells")


def test_composition_of_each_batch(annotated):
    ax = ep.pl.composition(annotated, batch_key="batch", color="cell_type")
    counts = annotated["atac"].obs["batch"].value_counts()
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        f"{b} ({counts[b]:,})" for b in sorted(counts.index)
    ]
    shares = pd.crosstab(
        annotated["atac"].obs["batch"], annotated["atac"].obs["cell_type"], normalize="index"
    )
    for bars in ax.containers:
        np.testing.assert_allclose([bar.get_width() for bar in bars], shares[bars.get_label()])
    _, ax = plt.subplots()
    assert ep.pl.composition(annotated, batch_key="batch", ax=ax) is ax  # default: annotation
    assert ax.get_legend_handles_labels()[1][-1] == "unknown"


def test_missing_results_are_named(mdata):
    with pytest.raises(
        ValueError,
        match=r"No \['mine_cell_type', 'mine_confidence'\] in `obs`: "
        "run `epifoundation.tl.annotate`",
    ):
        ep.pl.annotation(mdata, key_added="mine")
    with pytest.raises(ValueError, match="choose labels with `color=`"):
        ep.pl.composition(mdata, batch_key="batch")
    with pytest.raises(ValueError, match="`batch_key='nowhere'` is not a column"):
        ep.pl.composition(mdata, batch_key="nowhere", color="cell_type")
    with pytest.raises(ValueError, match=r"No scores in `uns\['epifoundation_integration'\]`"):
        ep.pl.integration(mdata)


def test_no_cell_with_a_label(annotated):
    annotated["atac"].obs["none"] = np.nan
    with pytest.raises(
        ValueError, match="No cell has an annotation and a true label in `label_key='none'`"
    ):
        ep.pl.annotation(annotated, label_key="none")
    with pytest.raises(ValueError, match="No cell has both"):
        ep.pl.composition(annotated, batch_key="none", color="cell_type")
    with pytest.raises(ValueError, match="`n_bins` must be an integer of at least 2"):
        ep.pl.annotation(annotated, n_bins=1)


def test_cells_that_labels_were_learned_from_are_told_apart(annotated):
    """Accuracy, calibration and risk of new cells stand beside those of all."""
    atac = annotated["atac"]
    is_learned = np.arange(atac.n_obs) % 4 > 0
    atac.obs["epifoundation_in_reference"] = is_learned
    figure = ep.pl.annotation(annotated, label_key="cell_type")
    confusion, _, _, reliability, risk = figure.axes
    new = atac[~is_learned].copy()
    del new.obs["epifoundation_in_reference"]
    alone = ep.pl.annotation(new, label_key="cell_type")
    of_new = alone.axes[0].get_title().removeprefix("100 cells, ")
    assert confusion.get_title().startswith("400 cells, 100 of them new to the model\n")
    assert f"new cells: {of_new}, all cells: accuracy" in confusion.get_title()
    for both, one in ((reliability, alone.axes[3]), (risk, alone.axes[4])):
        assert both.get_title().endswith(f"new cells {one.get_title().split()[-1]}")
    atac.obs["epifoundation_in_reference"] = True
    title = ep.pl.annotation(annotated, label_key="cell_type").axes[0].get_title()
    assert title.startswith("400 cells, 0 of them new to the model\nall cells: accuracy")


def test_labels_with_the_separator_in_their_name_count_once(mdata, model):
    labels = ["T | NK", "T", "NK", "B | T | NK"]
    ep.tl.annotate(mdata, model)
    expected = ep.pl.annotation(mdata).axes[1].get_title()
    other = replace(model, labels=labels)
    ep.tl.embed(mdata, other)
    ep.tl.annotate(mdata, other)
    assert ep.pl.annotation(mdata).axes[1].get_title() == expected
    plt.close("all")


def test_labels_that_differ_from_their_columns(annotated):
    """The most probable label is that of the names, not that of the stored table."""
    atac = annotated["atac"]
    expected = ep.pl.annotation(annotated, label_key="cell_type").axes[3].get_title()
    names = {f"type{i}": f"L{i}/{i} x" for i in range(4)} | {"unknown": "unknown"}
    for column in ("cell_type", "epifoundation_cell_type"):
        atac.obs[column] = atac.obs[column].astype(str).map(names).astype("category")
    stored = atac.obsm["epifoundation_probabilities"]
    labels = [names[label] for label in stored]
    atac.obsm["epifoundation_probabilities"] = table_of(stored.to_numpy(), atac.obs_names, labels)
    atac.uns["epifoundation_annotation"]["labels"] = labels
    assert ep.pl.annotation(annotated, label_key="cell_type").axes[3].get_title() == expected


def test_labels_of_other_names_are_compared_in_the_matrix_alone(annotated):
    data = annotated.copy()
    obs = data["atac"].obs if hasattr(data, "mod") else data.obs
    obs["other"] = "RNA " + obs["cell_type"].astype(str)
    texts = [ax.get_title() for ax in ep.pl.annotation(data, label_key="other").axes]
    assert any("the labels have other names than the true ones" in text for text in texts)
    assert not any("accuracy" in text or "calibration error" in text for text in texts)
    obs["other"] = obs["cell_type"].astype(str)
    texts = [ax.get_title() for ax in ep.pl.annotation(data, label_key="other").axes]
    assert any("accuracy" in text for text in texts)
