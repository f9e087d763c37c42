"""Plots of knock-outs: what is drawn where."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import epifoundation as ep


@pytest.fixture
def change():
    """Two groups and two genes; a peak is open in no cell of the second group."""
    summary = pd.DataFrame(
        {
            "group": ["a", "a", "b", "b"],
            "kind": "expression",
            "name": ["G1", "G2"] * 2,
            "n_cells": [100, 100, 50, 50],
            "n_open": [20, 20, 0, 0],
            "mean": [0.5, -1, np.nan, np.nan],
            "sem": [0.1, 0.2, np.nan, np.nan],
            "q25": [0.2, -2, np.nan, np.nan],
            "median": [0.4, -1, np.nan, np.nan],
            "q75": [0.8, 0, np.nan, np.nan],
        }
    )
    return SimpleNamespace(scale="log1p", summary=summary)


def test_means_intervals_and_numbers_of_cells_are_drawn(change):
    axes = ep.pl.knock_out(change)
    assert [ax.get_title() for ax in axes] == ["G2", "G1"]  # the largest change first
    labels = [label.get_text() for label in axes[0].get_yticklabels()]
    assert labels == ["b (0 of 50)", "a (20 of 100)"]
    middle, interval = (lines.get_segments()[1][:, 0] for lines in axes[1].collections)
    np.testing.assert_allclose(middle, [0.2, 0.8])
    np.testing.assert_allclose(interval, [0.5 - 0.196, 0.5 + 0.196])
    dots = axes[1].lines[-1].get_xdata()
    np.testing.assert_allclose(dots, [np.nan, 0.5])
    assert axes[0].get_xlabel() == "change\n(log1p)"


def test_knock_outs_of_a_model_are_drawn(simulated, model, tmp_path):
    atac = simulated["atac"]
    change = ep.tl.knock_out(atac, model, peaks=list(model.peaks.names[:5]), groupby="cell_type")
    axes = ep.pl.knock_out(change, names=["gene3", "type0"])
    assert [ax.get_title() for ax in axes] == ["gene3", "type0"]
    assert axes[1].get_xlabel() == "change\n(probability)"
    axes[0].figure.savefig(tmp_path / "x.svg")


def test_bad_input_is_refused(change):
    with pytest.raises(ValueError, match="`names` must be one of|'G9'"):
        ep.pl.knock_out(change, names="G9")
    with pytest.raises(ValueError, match=r"no summary: call `epifoundation.tl.knock_out` with"):
        ep.pl.knock_out(SimpleNamespace(scale="", summary=None))
    change.summary["n_open"] = 0
    with pytest.raises(ValueError, match="None of the peaks is open"):
        ep.pl.knock_out(change)
