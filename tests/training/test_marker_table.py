"""What is a table of markers, and what is a mapping of files or cells."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from epifoundation import GeneVocabulary
from epifoundation.training.marker_reference import evidence_of, type_probabilities
from epifoundation.training.marker_table import is_markers, read_markers

GENES = GeneVocabulary(["CD3D", "MS4A1", "NKG7"], ["ENSG01.5", "ENSG02", "ENSG03.1"])


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ({"T": ["CD3D"], "B": ("MS4A1",)}, True),
        ({"T": {"CD3D": 1}, "B": {"MS4A1"}}, True),
        (pd.DataFrame({"cell_type": ["T"], "gene": ["CD3D"]}), True),
        ({"one": "a.h5ad", "two": "b.h5ad"}, False),
        ({"one": AnnData(np.ones((2, 2)))}, False),
        (AnnData(np.ones((2, 2))), False),
        (["a.h5ad", "b.h5ad"], False),
        ({}, False),
        ("a.h5ad", False),
    ],
)
def test_markers_are_told_from_cells(reference, expected):
    assert is_markers(reference) is expected


def test_rows_weights_and_positions():
    found = read_markers({"T": {"CD3D": 2, "ENSG02.9": -0.5}, "NK": ["NKG7"]}, GENES)
    assert found.values.tolist() == [
        ["T", "CD3D", 2.0, 0],
        ["T", "ENSG02.9", -0.5, 1],
        ["NK", "NKG7", 1.0, 2],
    ]


def test_signs_are_words_or_numbers():
    table = pd.DataFrame(
        {"type": list("abcd"), "marker": ["CD3D"] * 4, "sign": ["+", "negative", -2, "0.5"]}
    )
    assert read_markers(table, GENES)["weight"].tolist() == [1, -1, -2, 0.5]


def test_evidence_is_the_mean_of_positive_markers_without_negative_ones():
    expression = np.array([[2.0, 0.0, 1.0], [-1.0, 3.0, 0.0]])
    markers = {"T": {"CD3D": 1, "NKG7": 1, "MS4A1": -1}, "B": ["MS4A1"], "not NK": {"NKG7": -2}}
    table = read_markers(markers, GENES)
    found = evidence_of(expression, table, list(markers))
    np.testing.assert_allclose(found, [[1.5, 0, -1], [-2, 3, 0]])


def test_no_type_is_as_probable_as_one_with_just_enough_evidence():
    found = type_probabilities(np.array([[1.0, -9.0], [4.0, 1.0], [-2.0, -2.0]]))
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert found[0, 0] == pytest.approx(found[0, 2])
    assert found[1].argmax() == 0
    assert found[2, 2] > 0.99
