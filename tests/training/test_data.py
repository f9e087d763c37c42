"""Data prepared for training: peaks and genes of several sources, and unusable data."""

import numpy as np
import pytest

import epifoundation as ep

SMALL = {"config": ep.ModelConfig(dim=8)}


def test_peaks_of_files(mdata, tmp_path):
    atac = mdata["atac"]
    paths = [tmp_path / "a.h5ad", tmp_path / "b.h5ad"]
    atac[:200, :400].copy().write_h5ad(paths[0])
    atac[200:, 300:].copy().write_h5ad(paths[1])
    options = SMALL | {"objective": "peaks", "genome": "hg38"}
    union = ep.tl.pretrain(paths, **options)
    counts = np.zeros(600)
    counts[:400] += np.asarray((atac.X[:200, :400] > 0).sum(axis=0)).ravel()
    counts[300:] += np.asarray((atac.X[200:, 300:] > 0).sum(axis=0)).ravel()
    assert len(union.peaks) == (counts > 0).sum()
    chosen = ep.pp.consensus_peaks(atac.var[:550], genome="hg38")
    given = ep.tl.pretrain(paths, peaks=chosen, **options)
    assert set(given.peaks.names) <= set(chosen.names)
    again = ep.tl.pretrain(paths, init=given, objective="peaks", genome="hg38")
    assert list(again.peaks.names) == list(given.peaks.names)
    in_memory = ep.tl.pretrain(
        [atac[:200, :400].copy(), atac[200:, 300:].copy()], peaks=chosen, **options
    )
    assert in_memory.revision == given.revision
    with pytest.raises(ValueError, match="`peaks` and `init` cannot be combined"):
        ep.tl.pretrain(atac, peaks=chosen, init=given, objective="peaks")


def test_genes_that_all_sources_have(mdata):
    one, two = mdata[:200].copy(), mdata[200:].copy()
    two.mod["rna"] = two["rna"][:, ::-1][:, 5:].copy()
    model = ep.tl.pretrain([one, two], **SMALL)
    assert model.genes.names == list(mdata["rna"].var_names[:35])
    wanted = ep.tl.pretrain(mdata, **SMALL)
    assert model.genes.names == wanted.genes.names[:35]


def test_what_cannot_be_learned_from_files(mdata, tmp_path):
    atac = tmp_path / "a.h5ad"
    mdata["atac"].write_h5ad(atac)
    with pytest.raises(ValueError, match=r"needs RNA and '.*a.h5ad' has no modality 'rna'"):
        ep.tl.pretrain(atac)
    with pytest.raises(ValueError, match=r"`label_key='x'` is not a column of `obs` of '.*a.h5ad'"):
        ep.tl.pretrain(atac, objective="peaks", label_key="x")
    with pytest.raises(ValueError, match="No peak is open in at least `min_cells`"):
        ep.tl.pretrain(atac, objective="peaks", min_cells=10_000)
    other = mdata.copy()
    other["rna"].var_names = [f"other{i}" for i in range(40)]
    other.write(tmp_path / "other.h5mu")
    mdata.write(tmp_path / "m.h5mu")
    with pytest.raises(ValueError, match="The data sources have 0 genes in common"):
        ep.tl.pretrain([tmp_path / "m.h5mu", tmp_path / "other.h5mu"])
    halves = mdata.copy()
    halves["rna"].X = halves["rna"].X.astype(np.float32) / 2
    halves.write(tmp_path / "halves.h5mu")
    with pytest.raises(
        ValueError, match="contains non-integer values, but `objective='counts'` expects raw counts"
    ):
        ep.tl.pretrain(tmp_path / "halves.h5mu")
