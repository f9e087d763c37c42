"""The benchmark of the atlas: its page is made from its results, and its scores are right."""

import json

import atlas
import numpy as np
import pandas as pd
import pytest


def test_the_page_is_that_of_the_results():
    found = json.loads(atlas.RESULTS.read_text())
    assert list(found) == list(atlas.TABLES)
    assert atlas.PAGE.read_text() == atlas.page(found)


def test_unknown_cells_count_with_their_likeliest_class_and_t_cells_can_be_one():
    table = pd.DataFrame({"B": [0.9, 0.2, 0.1], "CD4 T": [0.1, 0.5, 0.3], "CD8 T": [0, 0.3, 0.6]})
    truth, known = np.array(["B", "CD8 T", "CD8 T"]), np.ones(3, bool)
    row = atlas.score(table, pd.Series([True, False, False]), truth, known)
    assert row["accuracy"] == pytest.approx(2 / 3)
    assert row["T cells as one"] == 1
    assert row["unknown"] == pytest.approx(1 / 3)
    assert row["cells"] == 3


def test_classes_add_up_labels():
    table = pd.DataFrame({"HSC": [0.2], "MPP": [0.3], "LMPP": [0.1], "MEP": [0.1], "B": [0.3]})
    found = atlas.by_class(table)
    assert found.loc[0].to_dict() == pytest.approx({"HSC": 0.5, "CMP": 0.2, "B": 0.3})
