"""``ep.pl.coverage`` draws what the mapping wrote."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest

import epifoundation as ep

mpl.use("Agg")


def test_every_cell_is_in_the_histogram(mdata, model):
    ep.pp.map_peaks(mdata, model)
    ax = ep.pl.coverage(mdata)
    assert sum(bar.get_height() for bar in ax.patches) == 400
    n = len(model.peaks)  # of 600, those open in a training cell
    assert ax.get_title().startswith(f"{n} of 600 peaks matched, {n} of {n}")
    _, ax = plt.subplots()
    assert ep.pl.coverage(mdata, ax=ax) is ax
    plt.close("all")


def test_missing_results_are_named(mdata):
    with pytest.raises(
        ValueError, match=r"No coverage in `obs\['mine_coverage'\]`: run `epifoundation.tl.embed`"
    ):
        ep.pl.coverage(mdata, key_added="mine")


def test_one_bar_is_said_in_words(mdata, model):
    ep.pp.map_peaks(mdata, model)
    mdata["atac"].obs["epifoundation_coverage"] = 1.0
    assert "all open peaks of all cells" in ep.pl.coverage(mdata).texts[0].get_text()
    plt.close("all")
