"""Cells matched by name, and the code that messages give to make names agree."""

import re
import warnings

import mudata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st

from epifoundation._pairing import CellNames, match_cells, reindexed

RNG = np.random.default_rng(0)
BARCODES = ["".join(RNG.choice(list("ACGT"), 16)) for _ in range(60)]
OTHERS = ["".join(RNG.choice(list("ACGT"), 16)) for _ in range(60)]
COMPLEMENT = str.maketrans("ACGT", "TGCA")


def match(atac, rna, **options):
    sides = CellNames.of(pd.Index(atac), "atac"), CellNames.of(pd.Index(rna), "rna")
    return match_cells(*sides, "What follows.", **options)


def named(form):
    return [form.format(b=barcode, s=i % 4) for i, barcode in enumerate(BARCODES)]


@given(st.permutations(range(30)), st.integers(15, 30), st.integers(0, 5))
def test_rows_are_those_of_the_same_names(order, n, n_more):
    names = pd.Index([f"cell{i}" for i in range(30)])
    rna = names[list(order)[:n]].append(pd.Index([f"more{i}" for i in range(n_more)]))
    rows = match(names, rna)
    assert [rna[row] if row >= 0 else None for row in rows] == [
        name if name in set(rna) else None for name in names
    ]


@pytest.mark.parametrize(
    ("atac", "rna"),
    [
        ("{b}-1_atac", "{b}-1"),
        ("{b}-1_atac", "{b}-1_rna"),
        ("{b}", "{b}-1"),
        ("{b}-1", "{b}-2"),
        ("sample#{b}-1", "{b}-1"),
        ("sample#{b}-1", "{b}"),
        ("s{s}#{b}-1", "{b}-1"),
        ("s{s}#{b}-1", "s{s}_{b}-1"),
        ("s{s}#{b}-1", "{b}-1-s{s}"),
        ("GSM1:{b}x", "{b}-1"),
        ("atac{b}", "rna{b}"),
        ("{b} ", "{b}"),
    ],
)
@pytest.mark.parametrize("swapped", [False, True])
def test_the_code_of_the_message_makes_names_agree(atac, rna, swapped):
    atac, rna = named(atac), named(rna)[::-1]
    check_cure(*((rna, atac) if swapped else (atac, rna)))


def test_lower_case_and_reverse_complements_are_recognized():
    check_cure([barcode.lower() for barcode in BARCODES], BARCODES)
    check_cure(named("{b}-1"), [b[::-1].translate(COMPLEMENT) + "-1" for b in BARCODES])


def check_cure(atac, rna):
    with pytest.raises(ValueError, match="0 cells are in both") as caught:
        match(atac, rna, needed=True)
    message = str(caught.value)
    assert repr(atac[0]) in message
    assert repr(rna[0]) in message
    assert message.endswith("What follows.")
    code = re.search(r"60 are in both after `(.*)`\.", message)[1]
    mdata = mudata.MuData({"atac": empty(atac), "rna": empty(rna)})
    exec(code, {"mdata": mdata})  # noqa: S102  what a user would paste
    assert mdata.n_obs == 60
    assert (match(mdata["atac"].obs_names, mdata["rna"].obs_names) >= 0).all()


def empty(names):
    return AnnData(obs=pd.DataFrame(index=names))


@pytest.mark.parametrize("n_renamed", [20, 45])
def test_a_part_with_a_suffix_is_noticed_even_if_most_cells_agree(n_renamed):
    atac = [f"{name}_atac" * (i < n_renamed) or name for i, name in enumerate(named("{b}-1"))]
    with pytest.warns(UserWarning, match=rf"{60 - n_renamed} cells are in both.*removesuffix"):
        rows = match(atac, named("{b}-1"))
    assert (rows >= 0).sum() == 60 - n_renamed


def test_no_change_is_invented():
    """Cells with one modality alone are no fault of names; few in both are, without a cure."""
    cells = [f"cell_{i}" for i in range(100)]
    for atac, rna in ((cells[:70], cells[30:]), (cells[:10], cells), (["x_5", "y"], ["x_7", "y"])):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            match(atac, rna)
    with pytest.warns(UserWarning, match="20 cells are in both.*'cell_0' and 'cell_60'.*Rename"):
        match(cells[:60], cells[40:])
    with pytest.raises(ValueError, match="two whitelists"):
        match(named("{b}-1"), [f"{barcode}-1" for barcode in OTHERS], needed=True)
    with pytest.warns(UserWarning, match=r"0 cells are in both .*\(0\)\. What follows"):
        match(cells, cells[:0])


def test_samples_whose_barcodes_repeat_are_not_advised_to_drop_the_sample():
    atac = [f"{sample}_{barcode}" for sample in ("d1", "f2") for barcode in BARCODES]
    rna = [f"{sample}_{barcode}" for sample in ("k3", "m4") for barcode in BARCODES]
    with pytest.warns(UserWarning, match="0 cells are in both") as caught:
        match(atac, rna)
    assert "are in both after" not in str(caught[0].message)


def test_names_that_repeat_are_refused_unless_both_are_the_same():
    rows = match(["a", "a", "b"], ["a", "a", "b"])
    assert list(rows) == [0, 1, 2]
    for atac, rna in ((["a", "a", "b"], ["b", "a"]), (["b", "a"], ["a", "a", "b"])):
        with pytest.raises(ValueError, match="Duplicate cell names .*add the sample"):
            match(atac, rna)


@pytest.mark.parametrize(
    ("form", "old"), [("{b}-1", "{b}"), ("{b}", "s#{b}-1"), ("{b}-1", "{b}-2")]
)
def test_names_that_are_out_of_date_in_obs(form, old):
    """Modalities were renamed without `update()`, so `mdata.obs` has the old names."""
    mdata = mudata.MuData({each: empty(named(form)) for each in ("atac", "rna")})
    mdata.obs = pd.DataFrame({"kind": named("{b}")}, index=named(old))
    cells = CellNames.of(mdata["atac"].obs_names, "atac")
    with pytest.raises(ValueError, match="0 cells are in both") as caught:
        reindexed(mdata.obs["kind"], "mdata.obs.index", cells)
    code = re.search(r"60 are in both after `(.*)`\.", str(caught.value))[1]
    exec(code, {"mdata": mdata})  # noqa: S102
    found = reindexed(mdata.obs["kind"], "mdata.obs.index", cells)
    assert list(found) == named("{b}")
    assert (match(mdata["atac"].obs_names, mdata["rna"].obs_names) >= 0).all()


def test_columns_follow_the_names():
    column = pd.Series(["B", "T", "NK"], index=["b", "t", "n"], name="kind")
    cells = CellNames.of(pd.Index(["n", "x", "b"]), "atac")
    assert list(reindexed(column, "mdata.obs.index", cells).fillna("")) == ["NK", "", "B"]
    with pytest.raises(ValueError, match="in both .*no value of 'kind'"):
        reindexed(column, "mdata.obs.index", CellNames.of(pd.Index(["x", "y"]), "atac"))
