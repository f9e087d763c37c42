"""Models measured in closed form: the same bits from memory, files, blocks and processes."""

import hashlib
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from anndata import AnnData
from mudata import MuData
from sklearn.neighbors import NearestNeighbors

import epifoundation as ep
from epifoundation.training import counting
from epifoundation.training import rows as reading

SMALL = ep.ModelConfig(dim=16)
OPTIONS = {"batch_key": "batch", "label_key": "cell_type", "genome": "hg38", "config": SMALL}


def digest(model, folder):
    """Of all files of its directory, by name."""
    path = model.save_pretrained(folder)
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(path.iterdir())
    }


@pytest.fixture(scope="module")
def whole(simulated, tmp_path_factory):
    model = ep.tl.pretrain(simulated, **OPTIONS)
    return model, digest(model, tmp_path_factory.mktemp("whole") / "model")


BLOCKS = 5


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of some fifty cells, so that there are several."""
    for module in (counting, reading):
        monkeypatch.setattr(module, "PASS_ENTRIES", 5_000)
    monkeypatch.setattr(reading, "READ_RUN", 30)


def test_two_runs_are_equal_and_another_seed_is_another_model(simulated, whole, tmp_path):
    assert digest(ep.tl.pretrain(simulated, **OPTIONS), tmp_path / "a") == whole[1]
    assert ep.tl.pretrain(simulated, **OPTIONS, rng=1).revision != whole[0].revision


@pytest.mark.parametrize("suffix", [".h5mu", ".zarr"])
def test_a_file_gives_the_bits_of_memory(simulated, whole, tmp_path, suffix, small_blocks):
    path = tmp_path / f"cells{suffix}"
    simulated.write(path) if suffix == ".h5mu" else simulated.write_zarr(path)
    assert digest(ep.tl.pretrain(path, **OPTIONS), tmp_path / "a") == whole[1]


def test_several_objects_in_any_blocks_give_the_bits_of_one(
    simulated, whole, tmp_path, small_blocks
):
    parts = {"one": simulated[:130].copy(), "two": simulated[130:].copy()}
    peaks = ep.PeakVocabulary.from_var(simulated["atac"].var, genome="hg38")
    assert digest(ep.tl.pretrain(parts, peaks=peaks, **OPTIONS), tmp_path / "a") == whole[1]
    paths = {}
    for name, part in parts.items():
        paths[name] = tmp_path / f"{name}.h5mu"
        part.write(paths[name])
    assert digest(ep.tl.pretrain(paths, peaks=peaks, **OPTIONS), tmp_path / "b") == whole[1]


def shifted(mdata, by):
    """The same cells on shifted tiles of half the width, two of them in each peak."""
    atac = mdata["atac"]
    frame = ep.genome.parse_intervals(atac.var_names)
    middle = (frame["start"] + frame["end"]) // 2
    both = pd.concat([frame.assign(end=middle), frame.assign(start=middle)], ignore_index=True)
    both[["start", "end"]] += by
    rng = np.random.default_rng(abs(by))
    X = sp.csr_matrix(atac.X)
    halves = [X.copy() for _ in range(2)]
    for half, kept in zip(halves, (rng.random(X.nnz) < 0.7, rng.random(X.nnz) < 0.7), strict=True):
        half.data = half.data * kept
        half.eliminate_zeros()
    names = both["chrom"] + ":" + both["start"].astype(str) + "-" + both["end"].astype(str)
    order = np.lexsort((both["start"], both["chrom"]))
    X = sp.csr_matrix(sp.hstack(halves))[:, order]
    made = AnnData(X, obs=atac.obs.copy(), var=pd.DataFrame(index=names.to_numpy()[order]))
    return MuData({"atac": made, "rna": mdata["rna"].copy()})


def test_samples_with_other_peaks_give_the_bits_of_one_object_on_the_vocabulary(
    simulated, tmp_path, small_blocks
):
    one, two = shifted(simulated[:200].copy(), 3), shifted(simulated[200:].copy(), -5)
    peaks = ep.PeakVocabulary.from_var(simulated["atac"].var, genome="hg38")
    mapped = []
    for part in (one, two):
        projection = peaks.projection(ep.genome.parse_intervals(part["atac"].var_names))
        mapped.append(
            sp.csr_matrix((sp.csr_matrix(part["atac"].X) > 0).astype(np.float32) @ projection)
        )
    assert (
        max(part.data.max() for part in mapped) > 1
    )  # two open peaks of a sample in one of the vocabulary
    atac = AnnData(
        sp.vstack(mapped, format="csr"),
        obs=simulated["atac"].obs.copy(),
        var=simulated["atac"].var.copy(),
    )
    together = MuData({"atac": atac, "rna": simulated["rna"].copy()})
    expected = digest(ep.tl.pretrain(together, **OPTIONS), tmp_path / "together")
    assert (
        digest(ep.tl.pretrain([one, two], peaks=peaks, **OPTIONS), tmp_path / "memory") == expected
    )
    paths = [tmp_path / "one.h5mu", tmp_path / "two.zarr"]
    one.write(paths[0])
    two.write_zarr(paths[1])
    assert digest(ep.tl.pretrain(paths, peaks=peaks, **OPTIONS), tmp_path / "files") == expected


def test_the_format_of_the_matrices_does_not_matter(simulated, whole, tmp_path):
    data = simulated.copy()
    data["atac"].X = data["atac"].X.toarray()
    data["rna"].X = sp.csc_matrix(data["rna"].X)
    assert digest(ep.tl.pretrain(data, **OPTIONS), tmp_path / "a") == whole[1]


@pytest.mark.parametrize("at", [0, 1, 3])
def test_an_interrupted_pass_continues_to_the_same_bits(
    simulated, whole, tmp_path, small_blocks, monkeypatch, at
):
    from epifoundation.training.statistics import Statistics

    engine = ep.Engine(state=tmp_path / "state", minutes=0)
    add, done = Statistics.add, []

    def killed(self, *arguments, **options):
        if len(done) == at:
            raise KeyboardInterrupt
        done.append(1)
        add(self, *arguments, **options)

    monkeypatch.setattr(Statistics, "add", killed)
    with pytest.raises(KeyboardInterrupt):
        ep.tl.pretrain(simulated, engine=engine, **OPTIONS)
    assert (tmp_path / "state").exists() == (at > 0)
    counted = []
    monkeypatch.setattr(
        Statistics, "add", lambda self, *a, **k: (counted.append(1), add(self, *a, **k))
    )
    if at:
        with pytest.raises(ValueError, match="the state of another run: random"):
            ep.tl.pretrain(simulated, engine=engine, **OPTIONS, rng=7)
    model = ep.tl.pretrain(simulated, engine=engine, **OPTIONS)
    assert digest(model, tmp_path / "a") == whole[1]
    assert len(counted) == BLOCKS - at
    assert not (tmp_path / "state").exists()


def test_a_sample_is_enough_and_vectors_are_of_all_cells(simulated, small_blocks):
    training = ep.TrainingConfig(sample=150)
    model = ep.tl.pretrain(simulated, **OPTIONS, training=training)
    assert model.training["sampled_cells"] < 300
    assert len(model.cells["encoder"]) == 400
    vectors = model.network.encoder.vectors
    counts = np.asarray((simulated["atac"].X > 0).sum(axis=0)).ravel()
    np.testing.assert_array_equal(vectors.count.numpy(), counts[counts > 0])
    ep.tl.annotate(simulated.copy(), model)


def test_every_label_is_in_the_sample(simulated):
    data = simulated.copy()
    labels = data["atac"].obs["cell_type"].astype(str).to_numpy(dtype=object)
    labels[[3, 77]] = "rare"
    data["atac"].obs["cell_type"] = pd.Categorical(labels)
    model = ep.tl.pretrain(data, **OPTIONS, training=ep.TrainingConfig(sample=64), rng=3)
    assert "rare" in model.labels
    rare = data[[3, 77]].copy()
    assert model.training["sampled_cells"] < 200
    ep.tl.annotate(rare, model)
    assert rare["atac"].obsm["epifoundation_probabilities"]["rare"].min() > 0.01


def test_a_counted_cell_is_embedded_as_if_it_had_not_been(simulated, whole):
    """Against sums over the other cells, by hand."""
    model = whole[0]
    vectors, cells = model.network.encoder.vectors, model.cells["encoder"]
    pattern = sp.csr_matrix(simulated["atac"].X > 0, dtype=np.float64)
    pattern = pattern[:, np.asarray(pattern.sum(axis=0)).ravel() > 0].tocsr()
    known = model.known(pattern.indices, pattern.indptr)["encoder"].double().numpy()
    assert np.isfinite(known).all()
    assert len(cells) == 400
    base, pseudo = known.mean(axis=0), float(vectors.pseudocount)
    np.testing.assert_allclose(vectors.base.numpy(), base, atol=1e-6)
    for cell in (0, 17, 399):
        others = np.arange(400) != cell
        sums = pattern[others].T @ (known[others] - base)
        count = np.asarray(pattern[others].sum(axis=0)).ravel()
        mine = pattern[cell].indices
        expected = (sums[mine] / (count[mine] + pseudo)[:, None]).sum(axis=0) / np.sqrt(len(mine))
        ids, offsets = torch.from_numpy(mine.astype(np.int64)), torch.tensor([0, len(mine)])
        found = vectors(ids, offsets, torch.from_numpy(known[[cell]]).float())
        np.testing.assert_allclose(found[0].numpy(), expected, atol=2e-6)


def test_counted_cells_do_not_lie_apart():
    """Cells that were learned from are as many of the neighbours of new cells as of all cells."""
    data = ep.datasets.simulate_multiome(
        900, 3000, 60, n_types=3, n_batches=2, median_fragments=1500, rng=5
    )
    is_known = np.random.default_rng(0).random(900) < 0.5
    model = ep.tl.pretrain(data[is_known].copy(), config=ep.ModelConfig(dim=16))

    def ratio(model):
        ep.tl.embed(atac := data["atac"].copy(), model, expression=False)
        x = atac.obsm["X_epifoundation"]
        near = (
            NearestNeighbors(n_neighbors=16)
            .fit(x)
            .kneighbors(x[~is_known], return_distance=False)[:, 1:]
        )
        return is_known[near].mean() / is_known.mean()

    left_out, not_left_out = ratio(model), ratio(replace(model, cells={}))
    assert left_out > 0.88
    assert left_out - not_left_out > 0.08


def test_memberships_of_rare_peaks_are_dropped_with_min_cells(simulated, tmp_path):
    model = ep.tl.pretrain(simulated, **OPTIONS, min_cells=30)
    counts = np.asarray((simulated["atac"].X > 0).sum(axis=0)).ravel()
    assert len(model.peaks) == (counts >= 30).sum()
    simulated.write(tmp_path / "a.h5mu")
    assert ep.tl.pretrain(tmp_path / "a.h5mu", **OPTIONS, min_cells=30).revision == model.revision
    with pytest.raises(ValueError, match="No peak is open in at least `min_cells`"):
        ep.tl.pretrain(simulated, **OPTIONS, min_cells=401)


def test_what_small_data_cannot_fill(simulated):
    few = simulated[:40].copy()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = ep.tl.pretrain(
            few, label_key="cell_type", genome="hg38", config=ep.ModelConfig(dim=64)
        )
    said = " ".join(str(each.message) for each in caught)
    assert "`dim=64` asks for more clusters" in said
    assert "too few to choose widths and penalties" in said
    assert model.config.dim == 7
    ep.tl.annotate(few, model)
    assert np.isfinite(few["atac"].obsm["X_epifoundation"]).all()


def test_one_cluster(simulated):
    model = ep.tl.pretrain(simulated, genome="hg38", config=ep.ModelConfig(dim=1))
    data = simulated.copy()
    ep.tl.embed(data, model)
    np.testing.assert_allclose(data["atac"].obsm["X_epifoundation"], 1, atol=1e-5)
    assert np.isfinite(data["rna"].layers["epifoundation"]).all()


def test_labels_for_some_cells_only(simulated):
    data = simulated.copy()
    labels = data["atac"].obs["cell_type"].astype(object)
    labels.iloc[::3] = np.nan
    data["atac"].obs["cell_type"] = labels
    model = ep.tl.pretrain(data, **OPTIONS)
    assert len(model.cells["encoder"]) == 400
    assert len(model.cells["labels"]) == int(labels.notna().sum())
    ep.tl.annotate(data, model)
    found = data["atac"].obs["epifoundation_cell_type"].astype(str)
    assert (found == simulated["atac"].obs["cell_type"].astype(str)).mean() > 0.85


def test_memory_of_counted_cells_is_bounded(whole):
    n_bytes = sum(
        getattr(cells, name).nbytes
        for cells in whole[0].cells.values()
        for name in ("hashes", "codes", "weights")
    )
    assert n_bytes <= 30 * 400


def test_cells_mapped_otherwise_are_not_recognized(simulated, whole):
    """Their tokens are others: they are embedded like new cells, and nothing fails."""
    model, moved = whole[0], shifted(simulated, 3)
    atac = moved["atac"][:, ::3].copy()
    ep.tl.embed(atac, model, expression=False, mapping=ep.PeakMapping(min_coverage=0))
    assert np.isfinite(atac.obsm["X_epifoundation"]).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_measures_the_model_of_the_cpu(simulated):
    on_cpu, on_gpu, again = (
        ep.tl.pretrain(simulated, **OPTIONS, device=device) for device in ("cpu", "cuda", "cuda")
    )
    assert (on_gpu.device.type, on_gpu.revision) == ("cuda", again.revision)
    vectors = [model.network.encoder.vectors for model in (on_cpu, on_gpu)]
    assert torch.equal(vectors[0].count, vectors[1].count.cpu())
    torch.testing.assert_close(vectors[0].weight, vectors[1].weight.cpu(), atol=1e-3, rtol=0)
    found = []
    for model in (on_cpu, on_gpu):
        ep.tl.embed(simulated, model)
        found.append(simulated["atac"].obsm["X_epifoundation"].copy())
    np.testing.assert_allclose(*found, atol=1e-2)
