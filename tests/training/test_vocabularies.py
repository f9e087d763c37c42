"""Genes of the RNA and their chromosomes."""

import pandas as pd
import pytest

from epifoundation.training.vocabularies import gene_chromosomes


def test_chromosomes_are_those_of_the_first_column_there_is():
    var = pd.DataFrame({"interval": ["chr1:5-9", "X:1-2"], "n": 1}, index=["a", "b"])
    assert list(gene_chromosomes(var)) == ["chr1", "chrX"]
    assert gene_chromosomes(var[["n"]]) is None


def test_a_column_that_is_there_twice_is_named():
    var = pd.DataFrame([["chr1", "chr2"]], columns=["chrom", "chrom"], index=["a"])
    with pytest.raises(ValueError, match="`var` of the RNA has 2 columns 'chrom'"):
        gene_chromosomes(var)
