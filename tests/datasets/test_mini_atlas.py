"""MiniAtlas from files of its form, made here and served by a hub of one folder."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

import epifoundation as ep
from epifoundation.datasets._mini_atlas import _pair

REPO = "UCSC-VLAA/MiniAtlas"


def write(folder, n_cells=60, seed=0, rename=None):
    """A pair of files as published: binary peaks ``chr-start-end``, expression in bins 0 and 1."""
    mdata = ep.datasets.simulate_multiome(n_cells, 200, 20, n_types=3, median_counts=30, rng=seed)
    folder.parent.mkdir(parents=True, exist_ok=True)
    for modality in ("atac", "rna"):
        adata = mdata[modality]
        obs = pd.DataFrame(
            {"annot": adata.obs["cell_type"].to_numpy(), "batch": adata.obs["batch"].to_numpy()},
            index=adata.obs_names,
        )
        names = [name.replace(":", "-") for name in adata.var_names]
        made = AnnData(
            sp.csr_matrix(adata.X > 0, dtype=np.float32), obs=obs, var=pd.DataFrame(index=names)
        )
        made.write_h5ad(f"{folder}_{modality}.h5ad")
    return mdata


@pytest.fixture
def repo(hub):
    folder = hub.folder / REPO
    for split in ("train", "valid"):
        write(folder / split / "kidney_atlas", seed=len(split))
    write(folder / "pbmc_atlas")
    return folder


def test_a_tissue_comes_as_a_backed_pair(hub, repo):
    mdata = ep.datasets.mini_atlas("pbmc")
    assert mdata["atac"].isbacked
    assert mdata["rna"].isbacked
    assert mdata["atac"].shape == (60, 200)
    assert mdata["rna"].shape == (60, 20)
    assert {"annot", "batch"} <= set(mdata.obs) & set(mdata["atac"].obs)
    assert sorted(hub.downloads) == ["pbmc_atlas_atac.h5ad", "pbmc_atlas_rna.h5ad"]
    assert not ep.datasets.mini_atlas("pbmc", in_memory=True)["atac"].isbacked


def test_pretraining_and_embedding_take_it(hub, repo):
    mdata = ep.datasets.mini_atlas("kidney", split="train")
    config = ep.ModelConfig(
        encoder="transformer",
        dim=16,
        n_heads=2,
        n_layers=1,
        decoder="query",
        objective="binary",
        max_peaks=12_000,
    )
    training = ep.TrainingConfig(
        max_epochs=1, schedule="cosine-restarts", balanced_genes=20, n_neighbors=1
    )
    model = ep.tl.pretrain(
        mdata, config=config, training=training, batch_key="batch", label_key="annot", genome="hg38"
    )
    query = ep.datasets.mini_atlas("kidney", split="valid")
    ep.tl.embed(query, model)
    assert np.isfinite(query["atac"].obsm["X_epifoundation"]).all()
    assert query["rna"].layers["epifoundation"].shape == (60, 20)


def test_files_that_are_not_h5ad_or_not_paired_are_named(hub, repo):
    (repo / "pbmc_atlas_rna.h5ad").write_bytes(b"no such thing")
    with pytest.raises(
        ValueError, match=r"'pbmc_atlas_rna.h5ad' of MiniAtlas cannot be read .*remove '"
    ) as error:
        ep.datasets.mini_atlas("pbmc")
    Path(str(error.value).split("remove '")[1].split("'")[0]).unlink()  # the cure that is named
    with pytest.raises(ValueError, match="cannot be read"):
        ep.datasets.mini_atlas("pbmc")
    assert hub.downloads.count("pbmc_atlas_rna.h5ad") == 2
    write(repo / "pbmc_atlas", n_cells=30)
    (repo / "pbmc_atlas_atac.h5ad").write_bytes(
        (repo / "train" / "kidney_atlas_atac.h5ad").read_bytes()
    )
    with pytest.raises(ValueError, match="not paired: 60 cells with ATAC, 30 with RNA"):
        ep.datasets.mini_atlas("pbmc")


def test_without_a_network_the_files_and_the_folder_are_named(hub, repo, offline):
    offline()
    with pytest.raises(
        ConnectionError, match=r"put the pair kidney_atac\*\.h5ad .* into '.*UCSC-VLAA--MiniAtlas'"
    ):
        ep.datasets.mini_atlas("kidney")


def test_names_of_features_are_preferred_as_in_the_original(hub, repo):
    import anndata

    path = repo / "pbmc_atlas_atac.h5ad"
    atac = anndata.read_h5ad(path)
    atac.var["features"] = list(atac.var_names)
    atac.var_names = [f"peak{i}" for i in range(atac.n_vars)]
    atac.write_h5ad(path)
    assert ep.datasets.mini_atlas("pbmc")["atac"].var_names[0] == atac.var["features"].iloc[0]


FILES = [
    "README.md",
    "mini_atlas_atac.h5ad",
    "mini_atlas_rna_binned.h5ad",
    "train/kidney_atlas_atac.h5ad",
    "train/kidney_atlas_rna.h5ad",
    "train/kidney_atlas_rna_binning_10.h5ad",
    "test/kidney_atlas_atac.h5ad",
    "test/kidney_atlas_rna_binning_2.h5ad",
    "test/kidney_atlas_rna_binning_10.h5ad",
    "bmmc_paired_atac_valid.h5ad",
    "bmmc_rna_valid_binned.h5ad",
    "brain_atac.h5ad",
]


@pytest.mark.parametrize(
    ("tissue", "split", "expected"),
    [
        (None, None, FILES[1:3]),
        ("mini", None, FILES[1:3]),
        ("kidney", "train", FILES[3:5]),
        ("Kidney", "test", FILES[6:8]),
        ("bmmc", None, FILES[9:11]),
        ("bmmc", "valid", FILES[9:11]),
    ],
)
def test_pairs_are_found_by_their_names(tissue, split, expected):
    assert list(_pair(FILES, tissue, split)) == expected


@pytest.mark.parametrize(
    ("tissue", "split", "message"),
    [
        ("brain", None, r"`tissue` must be one of \['bmmc', 'kidney', 'mini'\], got 'brain'"),
        (
            "kidney",
            None,
            r"`split` must be one of \['test', 'train'\] for the tissue 'kidney', got None",
        ),
        ("kidney", "valid", r"got 'valid'"),
    ],
)
def test_the_error_for_a_missing_file_lists_the_others(tissue, split, message):
    with pytest.raises(ValueError, match=message):
        _pair(FILES, tissue, split)


PUBLISHED = [
    f"{tissue}_atlas_{modality}.h5ad"
    for tissue in ("bmmc", "full", "kidney", "pbmc")
    for modality in ("atac", "rna")
]


def test_the_published_files_are_found_by_tissue():
    assert _pair(PUBLISHED, None, None) == ("full_atlas_atac.h5ad", "full_atlas_rna.h5ad")
    assert _pair(PUBLISHED, "kidney", None) == ("kidney_atlas_atac.h5ad", "kidney_atlas_rna.h5ad")
    with pytest.raises(
        ValueError, match=r"files of 'kidney' are not split, so `split` must be None, got 'train'"
    ):
        _pair(PUBLISHED, "kidney", "train")


def test_ambiguous_files_are_listed():
    with pytest.raises(ValueError, match="Several files match 'mini'"):
        _pair([*FILES, "mini_atlas_rna.h5ad"], None, None)
