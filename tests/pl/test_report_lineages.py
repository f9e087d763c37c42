"""Lineages and novelty in the report."""

import numpy as np
import pytest
from small_atlas import draw, make

import epifoundation as ep
from epifoundation._keys import Keys
from epifoundation.pl._report_lineages import draw_novelty, lineage_table


@pytest.fixture(scope="module")
def labelled():
    model, table = make()
    atac = draw(table, np.repeat([0, 2, 3, 5], 15), 60, np.random.default_rng(0))
    ep.tl.annotate(atac, model)
    return atac


def test_the_table_counts_cells_by_lineage(labelled):
    table = lineage_table(labelled, Keys()).set_index("lineage")
    obs = labelled.obs
    counts = obs["epifoundation_lineage"].astype(str).value_counts()
    assert table["cells"].to_dict() == counts.to_dict()
    assert table["cells"].is_monotonic_decreasing
    of_blood = obs[obs["epifoundation_lineage"] == "blood"]
    expected = of_blood["epifoundation_lineage_confidence"].median()
    assert table.loc["blood", "median confidence"] == pytest.approx(expected)
    is_type = of_blood["epifoundation_resolved"].astype(str) == of_blood[
        "epifoundation_cell_type"
    ].astype(str)
    assert table.loc["blood", "resolved to a cell type"] == pytest.approx(is_type.mean())
    if "unknown" in table.index:
        assert np.isnan(table.loc["unknown", "resolved to a cell type"])


def test_the_histogram_has_all_cells_and_the_threshold(labelled):
    (axes,) = draw_novelty(labelled, Keys()).axes
    assert sum(patch.get_height() for patch in axes.patches) == labelled.n_obs
    threshold = labelled.uns["epifoundation_annotation"]["novelty_threshold"]
    assert axes.lines[0].get_xdata()[0] == pytest.approx(threshold)
    share = (labelled.obs["epifoundation_novelty"] > threshold).mean()
    assert f"{share:.1%}" in axes.get_title()


def test_the_report_shows_lineages(labelled, tmp_path):
    text = ep.pl.report(labelled, tmp_path / "report.html").read_text()
    for part in ("Lineages", "resolved to a cell type", "Histogram of the novelty", "blood"):
        assert part in text
