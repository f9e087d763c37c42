"""Genome tracks: what is drawn where."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import epifoundation as ep

KEY = "epifoundation_links"


@pytest.fixture
def linked(simulated):
    """Constructed results: a link on each side, and a pair that is not a link."""
    data = simulated.copy()
    site = data["rna"].var.loc["gene5"]
    here = data["atac"].var[data["atac"].var["chrom"] == site["chrom"]]
    chosen = here.iloc[[2, 10, 40]]
    data["atac"].uns[KEY] = pd.DataFrame(
        {
            "gene": "gene5",
            "peak": chosen.index,
            "chrom": site["chrom"],
            "start": chosen["start"].to_numpy(),
            "end": chosen["end"].to_numpy(),
        }
        | {
            "tss": site["start"],
            "distance": 1000,
            "group": "all",
            "effect": [0.5, -0.4, 0.1],
            "qvalue": [0.01, 0.02, 0.8],
        }
    )
    return data


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_links_are_drawn_with_groups_and_genes(linked, tmp_path, ending):
    axes = ep.pl.links(
        linked, gene="gene5", groupby="cell_type", annotation=linked["rna"].var.assign(strand="+")
    )
    assert len(axes) == 1 + 4 + 1
    assert axes[0].get_title(loc="left") == "gene5: 2 links of 3 peaks"
    colours = [patch.get_edgecolor() for patch in axes[0].patches]
    assert len(colours) == 3
    red, blue = colours[1], colours[2]  # other pairs come first
    assert red[0] > red[2]
    assert blue[0] < blue[2]
    # The bars are the fraction of cells with the peak open
    atac = linked["atac"]
    low, high = axes[-1].get_xlim()
    starts = atac.var["start"].where(atac.var["chrom"] == atac.uns[KEY]["chrom"].iloc[0], -1e9)
    inside = ((starts + 500 > low) & (starts < high)).to_numpy()
    kind = axes[1].get_ylabel()
    expected = np.asarray(
        (atac.X[(atac.obs["cell_type"] == kind).to_numpy()][:, inside] > 0).mean(axis=0)
    ).ravel()
    np.testing.assert_allclose([bar.get_height() for bar in axes[1].patches], expected, rtol=1e-5)
    assert "gene5" in [text.get_text() for text in axes[-1].texts]
    axes[0].figure.savefig(tmp_path / f"x.{ending}")
    assert (tmp_path / f"x.{ending}").stat().st_size > 5_000
    plt.close("all")


def test_region_no_links_and_bad_input(linked):
    axes = ep.pl.links(
        linked,
        gene="gene5",
        region=f"{linked['atac'].uns[KEY]['chrom'].iloc[0]}:20000-90000",
        max_qvalue=1e-9,
    )
    assert axes[-1].get_xlim() == (20_000, 90_000)
    assert axes[0].get_title(loc="left") == "gene5: 0 links of 3 peaks"
    plt.close("all")
    with pytest.raises(ValueError, match="`gene` must be one of"):
        ep.pl.links(linked, gene="gene6")
    with pytest.raises(ValueError, match="run `epifoundation.tl.link_peaks` first"):
        ep.pl.links(linked, gene="gene5", key_added="other")
    with pytest.raises(ValueError, match="`groupby='x'` is not a column"):
        ep.pl.links(linked, gene="gene5", groupby="x")
    linked["atac"].uns[KEY]["group"] = ["a", "a", "b"]
    with pytest.raises(ValueError, match=r"several groups: pass `group=`, one of \['a', 'b'\]"):
        ep.pl.links(linked, gene="gene5")
    assert (
        ep.pl.links(linked, gene="gene5", group="b")[0].get_title(loc="left")
        == "gene5: 0 links of 1 peaks"
    )
    plt.close("all")


def test_links_by_score_are_drawn_where_no_pair_has_a_small_qvalue(linked):
    mdata = linked.copy()
    table = mdata["atac"].uns[KEY]
    gene = str(table["gene"].iloc[0])
    one = table["gene"] == gene
    table["qvalue"] = 1.0
    table["score"] = np.where(np.arange(len(table)) % 3 == 0, 0.9, 0.05)
    options = {"gene": gene, "group": str(table.loc[one, "group"].iloc[0])}
    rows = one & (table["group"].astype(str) == options["group"])
    n_high = int((table.loc[rows, "score"] > 0.5).sum())
    assert 0 < n_high < rows.sum()
    for limits, n in (
        ({}, 0),
        ({"max_qvalue": None, "min_score": 0.5}, n_high),
        ({"min_score": 0.5}, 0),
        ({"max_qvalue": None}, rows.sum()),
    ):
        axes = ep.pl.links(mdata, **options, **limits)
        assert axes[0].get_title(loc="left").startswith(f"{gene}: {n} links of {rows.sum()} ")
        plt.close("all")
    with pytest.raises(ValueError, match="`min_score` must lie between 0 and 1"):
        ep.pl.links(mdata, **options, min_score=2)
    del table["score"]
    with pytest.raises(ValueError, match="`min_score` needs the column 'score'"):
        ep.pl.links(mdata, **options, min_score=0.5)
