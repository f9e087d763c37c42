"""Tables of links that were changed after `link_peaks`: every reader names the column."""

import numpy as np
import pandas as pd
import pytest

import epifoundation as ep

KEY = "epifoundation_links"
LINKS = pd.DataFrame(
    {
        "gene": "gene0",
        "peak": ["chr1:100-600", "chr1:900-1400"],
        "chrom": "chr1",
        "start": [100, 900],
        "end": [600, 1400],
        "tss": 2000,
        "group": "all",
        "effect": [0.5, -0.25],
        "pvalue": [0.01, 0.5],
        "qvalue": [0.02, 0.5],
        "score": [0.75, 0.25],
        "pip": [0.5, 0.1],
        "credible_set": [1, 0],
    }
)
READERS = {
    "variants": lambda data, _: ep.tl.link_variants(
        pd.DataFrame({"chrom": ["chr1"], "pos": [150]}), data
    ),
    "scenicplus": lambda data, folder: ep.tl.write_links(
        data, path=folder / "links.tsv", format="scenicplus"
    ),
    "interact": lambda data, folder: ep.tl.write_links(data, path=folder / "links.interact"),
    "network": lambda data, _: ep.get.network(
        data, motifs=pd.DataFrame({"tf": "A", "peak": LINKS["peak"]})
    ),
    "plot": lambda data, _: ep.pl.links(data, gene="gene0"),
}


@pytest.fixture
def data(mdata):
    atac = mdata["atac"][:, :2].copy()
    atac.var_names = LINKS["peak"].to_numpy()
    atac.var = atac.var.iloc[:, :0]
    return atac


@pytest.mark.parametrize("reader", READERS)
def test_a_changed_column_is_named(data, tmp_path, reader):
    data.uns[KEY] = LINKS
    READERS[reader](data, tmp_path)
    (tmp_path / "links.tsv").unlink(missing_ok=True)
    (tmp_path / "links.interact").unlink(missing_ok=True)
    damaged = {
        "score": LINKS.assign(score="high"),
        "effect": LINKS.assign(effect="x"),
        "start": LINKS.assign(start=LINKS["start"].astype(str)),
        "tss": LINKS.assign(tss=np.nan),
        "pip": pd.concat([LINKS, LINKS[["pip"]]], axis=1),
        "qvalue": LINKS.assign(qvalue=[True, False]),
    }
    for column, table in damaged.items():
        data.uns[KEY] = table
        with pytest.raises(ValueError, match=f"The column '{column}' of .* run it again") as caught:
            READERS[reader](data, tmp_path)
        assert "\n" not in str(caught.value)
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("reader", READERS)
def test_a_table_without_sites_is_no_table_of_links(data, tmp_path, reader):
    data.uns[KEY] = LINKS.drop(columns="tss")
    with pytest.raises(ValueError, match="No links in `uns"):
        READERS[reader](data, tmp_path)


@pytest.mark.parametrize("reader", READERS)
def test_numbers_of_type_object_are_read(data, tmp_path, reader):
    data.uns[KEY] = LINKS.astype({"score": object, "qvalue": object, "effect": object})
    READERS[reader](data, tmp_path)
