"""Genes of other data are found by symbol or identifier, and are told from peaks."""

import numpy as np
import pandas as pd
import pytest

from epifoundation import GeneVocabulary
from epifoundation.peaks.genes import find_genes_of, has_genes

GENES = GeneVocabulary(["CD3D", "MS4A1", "NKG7"], ["ENSG01.5", "ENSG02", "ENSG03.1"])


@pytest.mark.parametrize(
    ("names", "columns"),
    [
        (["NKG7", "x", "CD3D"], {}),
        (["ENSG03", "ENSG09", "ENSG01"], {}),
        (["ENSG03.7", "ENSG09.1", "ENSG01.5"], {}),
        (["a", "b", "c"], {"gene_ids": ["ENSG03.2", "ENSG09", "ENSG01"]}),
        (["a", "b", "c"], {"feature_name": ["NKG7", "x", "CD3D"]}),
        (["NKG7", "b", "c"], {"gene_name": ["x", "y", "CD3D"]}),
    ],
)
def test_by_symbol_or_identifier_in_either_direction(names, columns):
    var = pd.DataFrame(columns, index=names)
    assert find_genes_of(var, GENES).tolist() == [2, -1, 0]
    symbols_only = GeneVocabulary(GENES.names)
    expected = [2, -1, 0] if "NKG7" in [*names, *np.ravel(list(columns.values()))] else [-1] * 3
    assert find_genes_of(var, symbols_only).tolist() == expected


def test_a_gene_is_found_once():
    var = pd.DataFrame(index=["ENSG01", "CD3D", "MS4A1"])
    assert sorted(find_genes_of(var, GENES).tolist()) == [-1, 0, 1]


def test_symbols_with_a_dot_keep_it():
    genes = GeneVocabulary(["RP11-34P13.7", "RP11-34P13.8"])
    var = pd.DataFrame(index=["RP11-34P13.8", "RP11-34P13"])
    assert find_genes_of(var, genes).tolist() == [1, -1]


POSITIONS = {"chrom": ["chr1"] * 3, "start": [0, 10, 20], "end": [5, 15, 25]}


@pytest.mark.parametrize(
    ("names", "columns", "expected"),
    [
        (["CD3D", "x", "y"], {}, True),
        (["CD3D", "x", "y"], POSITIONS, True),
        (["Cd3d", "X", "Y"], POSITIONS, True),
        (["x", "y", "z"], POSITIONS, False),
        (["x", "y", "z"], POSITIONS | {"strand": list("+-+")}, True),
        (["x", "y", "z"], {}, True),
        (["chr1:1-2", "chr1:3-4", "chr2:5-6"], {}, False),
        (["chr1_1_2", "chr1_3_4", "chr2_5_6"], {}, False),
        (["x", "y", "z"], {"feature_types": ["Gene Expression"] * 3}, True),
        (["CD3D", "y", "z"], {"feature_types": ["Peaks"] * 3}, False),
        (["CD3D", "y", "z"], {"feature_types": ["Gene Expression", "Peaks", "Peaks"]}, False),
        (["x", "y", "z"], {"chr": ["chr1"] * 3, "start": [0, 1, 2], "end": [5, 6, 7]}, False),
    ],
)
def test_genes_are_told_from_peaks(names, columns, expected):
    assert has_genes(pd.DataFrame(columns, index=names), GENES) is expected
