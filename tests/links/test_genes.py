"""Positions of genes: by requested name, symbol or identifier; other builds are refused."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import epifoundation as ep
from epifoundation.links.genes import check_annotation, place_genes


@pytest.fixture(scope="module")
def named(model):
    """The model, with identifiers of its genes."""
    ids = [f"ENSG{i}" for i in range(len(model.genes))]
    return replace(model, genes=ep.GeneVocabulary(model.genes.names, ids))


def table_of(names):
    """An annotation in which the start of a gene is its row."""
    start = np.arange(len(names))
    return pd.DataFrame(
        {"chrom": "chr1", "start": start, "end": start + 1, "strand": "+"}, index=list(names)
    )


def place(model, genes, table):
    names, positions, places = place_genes(model, genes, table)
    assert len(names) == len(positions) == len(places)
    return names, positions.tolist(), places["start"].tolist()


def test_genes_are_found_by_symbol_or_identifier(named):
    table = table_of(["other", "gene7", "ENSG9", "gene3"])
    assert place(named, ["gene3", "gene9"], table) == (["gene3", "gene9"], [3, 9], [3, 2])
    # Requested by identifier, and in the annotation by symbol
    assert place(named, ["ENSG7", "ENSG9"], table) == (["ENSG7", "ENSG9"], [7, 9], [1, 2])
    assert place(named, "gene7", table) == (["gene7"], [7], [1])


def test_the_requested_name_comes_first_then_the_symbol(named):
    table = table_of(["ENSG5", "gene5"])
    assert place(named, ["gene5"], table)[2] == [1]
    assert place(named, ["ENSG5"], table)[2] == [0]
    assert place(named, None, table) == (["gene5"], [5], [1])


def test_without_a_request_genes_without_a_position_are_left_out(named):
    shuffled = [f"gene{i}" for i in np.random.default_rng(0).permutation(30)]
    names, positions, starts = place(named, None, table_of(shuffled))
    assert names == [f"gene{i}" for i in range(30)]
    assert positions == list(range(30))
    assert [shuffled[i] for i in starts] == names


def test_requested_genes_without_a_position_are_refused(named):
    table = table_of(["gene1", "gene2"])
    with pytest.raises(
        ValueError,
        match=r"1 of 2 genes have no position in the annotation: \['gene3'\]\. "
        r"Its genes are named like \['gene1', 'gene2'\]",
    ):
        place_genes(named, ["gene1", "gene3"], table)
    with pytest.raises(ValueError, match="40 of 40 genes have no position"):
        place_genes(named, None, table_of(["x", "y"]))


def test_genes_of_another_build_are_refused_unless_the_build_is_unknown(model):
    inside = table_of(["a", "b"])
    outside = inside.assign(start=[0, 248_956_500], end=[1, 248_956_501])  # hg38 ends, hg19 not
    for build, lifted in (("hg38", False), ("hg38", True), ("unknown", True)):
        check_annotation(inside, build, model, lifted=lifted)
    check_annotation(outside, "hg19", model, lifted=False)
    for build in ("hg38", "unknown"):  # of peaks of an unknown build, the model knows it
        with pytest.raises(ValueError, match="The annotation is of hg19, the peaks are of hg38.*"):
            check_annotation(outside, build, model, lifted=False)
    check_annotation(outside, "unknown", model, lifted=True)
