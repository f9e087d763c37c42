"""What an atlas knows of peaks, as a prior of their vectors."""

import numpy as np
import pytest
import torch
from anndata import AnnData
from small_atlas import draw, make

import epifoundation as ep
from epifoundation.training.prior import best_pseudocount, expected_sums, shrink_to
from epifoundation.training.stages import peak_vectors

OPTIONS = {
    "objective": "peaks",
    "genome": "hg38",
    "config": ep.ModelConfig(dim=4),
    "validation": 0.25,
}


@pytest.fixture(scope="module")
def atlas():
    return make()


@pytest.fixture(scope="module")
def few(atlas):
    """Eighty labelled cells of four profiles, and many new ones."""
    rng = np.random.default_rng(3)
    parts = []
    for n in (20, 150):
        atac = draw(atlas[1], np.repeat([0, 2, 3, 5], n), 12, rng, background=0.4)
        atac.obs["label"] = atac.obs["profile"].map({0: "a", 2: "b", 3: "c", 5: "d"})
        parts.append(atac)
    return parts


def test_vectors_are_shrunk_to_a_weighted_regression_on_the_prior():
    rng = np.random.default_rng(0)
    prior, count = rng.normal(size=(200, 3)), rng.integers(0, 9, 200).astype(float)
    around = rng.normal(size=(200, 2)) * np.sqrt(count)[:, None]
    gram = prior.T @ (prior * count[:, None])
    ridge = 0.01 * np.diag(gram).mean() * np.eye(3)
    expected = prior @ np.linalg.solve(gram + ridge, prior.T @ around)
    tensors = [torch.from_numpy(each).float() for each in (around, count, prior)]
    got = expected_sums(*tensors)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_the_pseudocount_is_the_one_that_predicts_validation_cells():
    generator = torch.Generator().manual_seed(0)
    true = torch.randn(4000, 2, generator=generator)
    count = torch.full((4000,), 4.0)
    noise = torch.randn(4000, 2, generator=generator)
    around = (true + noise) * count[:, None]  # means are as uncertain as they are different
    held = true * 50, torch.full((4000,), 50.0)
    candidates = [0.1, 1.0, 4.0, 20.0, 100.0]
    assert best_pseudocount(around, count, torch.zeros(4000, 2), held, candidates) == 4.0
    assert best_pseudocount(around, count, true, held, candidates) == 100.0
    nothing = held[0] * 0, held[1] * 0
    assert best_pseudocount(around, count, true, nothing, [5, 20, 60, 200]) == 60


def test_a_cell_is_left_out_exactly_with_a_prior():
    rng = np.random.default_rng(1)
    memberships = rng.dirichlet(np.ones(3), 20)
    is_open = (rng.random((20, 15)) < 0.4).astype(float)
    expected = torch.from_numpy(rng.normal(size=(15, 3))).float()
    base = memberships.mean(axis=0)

    def fitted(cells):
        sums = torch.from_numpy(is_open[cells].T @ memberships[cells] * 255).float()
        vectors = peak_vectors(sums, (memberships * 255).sum(axis=0), 0.0)
        vectors.base.copy_(torch.from_numpy(base))
        vectors.weight.copy_(sums / 255 - vectors.count[:, None] * vectors.base)
        shrink_to(expected, vectors, 7.0)
        return vectors

    ids = torch.from_numpy(np.flatnonzero(is_open[0]))
    offsets = torch.tensor([0, len(ids)])
    known = torch.from_numpy(memberships[:1]).float()
    left = fitted(np.arange(20)).sums(ids, offsets, known)
    torch.testing.assert_close(
        left, fitted(np.arange(1, 20)).sums(ids, offsets), atol=1e-5, rtol=1e-4
    )


def test_a_prior_helps_with_few_cells_and_keeps_peaks_that_none_has_open(atlas, few):
    model, _ = atlas
    known, query = few
    scores, peaks = {}, {}
    for name, prior in (("with", model), ("without", None)):
        fitted = ep.tl.pretrain(known, label_key="label", prior=prior, rng=0, **OPTIONS)
        found = ep.tl.annotate(query, fitted, unknown=0, copy=True)
        labels = found.obs["epifoundation_cell_type"].astype(str)
        scores[name] = (labels == query.obs["label"].astype(str)).mean()
        peaks[name] = len(fitted.peaks)
        assert ("prior" in fitted.training) == (name == "with")
    assert scores["with"] > scores["without"] + 0.1
    assert peaks["with"] > peaks["without"] + 100


def test_the_prior_is_recorded_and_part_of_the_run(atlas, few, tmp_path):
    model, _ = atlas
    fitted = ep.tl.pretrain(few[0], prior=model, rng=0, **OPTIONS)
    used = fitted.training["prior"]
    assert (used["model"], used["revision"]) == (model.name, model.revision)
    assert used["peaks"] == 720  # the others are open in all profiles or in none
    assert set(used["pseudocounts"]) == {"encoder"}
    again = ep.tl.pretrain(few[0], prior=model, rng=0, **OPTIONS)
    assert again.revision == fitted.revision
    without = ep.tl.pretrain(few[0], prior=None, rng=0, **OPTIONS)
    assert without.revision != fitted.revision
    assert ep.tl.pretrain(few[0], prior="none", rng=0, **OPTIONS).revision == without.revision


def test_by_default_only_peaks_that_the_bundled_atlas_knows_have_a_prior(few, simulated):
    """Simulated peaks are not where those of the atlas are."""
    assert "prior" not in ep.tl.pretrain(few[0], rng=0, **OPTIONS).training
    blood = ep.datasets.pbmc_multiome()["atac"][:300].copy()
    fitted = ep.tl.pretrain(blood, objective="peaks", rng=0)
    assert fitted.training["prior"]["model"] == "human-atlas"


def test_priors_that_cannot_be_used_are_refused(atlas, few, model):
    model_, _ = atlas
    atac = few[0]
    for options, match in (
        ({"prior": model}, "`prior` must be an atlas"),
        ({"prior": model_, "genome": "mm10"}, "The peaks are of mm10, and the prior"),
        (
            {"prior": model_, "config": ep.ModelConfig(encoder="transformer")},
            "`prior` is for set encoders",
        ),
        ({"prior": "no-such-atlas"}, "Unknown model 'no-such-atlas'"),
    ):
        with pytest.raises(ValueError, match=match):
            ep.tl.pretrain(atac, **(OPTIONS | options))
    far = AnnData(atac.X, obs=atac.obs)
    far.var_names = [f"chr2:{i * 1000}-{i * 1000 + 500}" for i in range(atac.n_vars)]
    with pytest.raises(ValueError, match="knows none of the 900 peaks, first chr2:0-500"):
        ep.tl.pretrain(far, prior=model_, **OPTIONS)


@pytest.mark.parametrize(
    "option", [{"config": ep.ModelConfig(encoder="profiles")}, {"init": "human-atlas"}]
)
def test_an_atlas_is_not_trained(few, option):
    options = {name: value for name, value in OPTIONS.items() if name != "config"}
    with pytest.raises(ValueError, match=r"`encoder='set'`|as `prior=`"):
        ep.tl.pretrain(few[0], **options, **option)
