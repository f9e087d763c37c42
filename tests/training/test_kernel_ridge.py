"""Kernel ridge regression with landmarks: against scikit-learn's and dense algebra; its penalty."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.kernel_ridge import KernelRidge
from thread_counts import in_one_and_two_threads

from epifoundation.training import kernel_ridge
from epifoundation.training.kernel_ridge import (
    CELLS_PER_LANDMARK,
    DEFAULT,
    MIN_LANDMARKS,
    PENALTIES,
    WIDTHS,
    choose,
    fit_kernel_ridge,
)


def cells(n, n_inputs=4, noise=0.1, seed=0):
    """Inputs on different scales, and targets that are no linear function of them."""
    rng = np.random.default_rng(seed)
    standard = rng.standard_normal((n, n_inputs))
    targets = np.stack([np.sin(2 * standard[:, 0]), standard[:, 0] * standard[:, 1] + 3], axis=1)
    targets += noise * rng.standard_normal(targets.shape)
    inputs = standard * np.logspace(-1, 2, n_inputs) + 7
    return tuple(torch.from_numpy(each.astype(np.float32)) for each in (inputs, targets))


def fit(inputs, targets, n_landmarks=10_000, width=1.0, penalty=1.0, seed=0):
    """With as many landmarks as there are cells, if that many are wanted."""
    options = {"n_landmarks": n_landmarks, "width": width, "rng": np.random.default_rng(seed)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel_ridge, "CELLS_PER_LANDMARK", 1)
        return fit_kernel_ridge(inputs, targets, [penalty], **options)[0]


def oracle(inputs, targets, width, penalty):
    """A function that predicts by the regression of scikit-learn with all cells, in float64."""
    learned, wanted = inputs.numpy().astype(float), targets.numpy().astype(float)
    center, scale, base = learned.mean(axis=0), learned.std(axis=0), wanted.mean(axis=0)
    fitted = KernelRidge(alpha=penalty, kernel="rbf", gamma=1 / (width * learned.shape[1]))
    fitted.fit((learned - center) / scale, wanted - base)
    return lambda some: base + fitted.predict((some.numpy() - center) / scale)


@given(
    n=st.integers(2, 60),
    width=st.floats(0.2, 4),
    penalty=st.floats(0.1, 100),
    seed=st.integers(0, 2**31),
)
def test_with_all_cells_as_landmarks_it_is_kernel_ridge_regression(n, width, penalty, seed):
    inputs, targets = cells(n, seed=seed)
    readout = fit(inputs, targets, width=width, penalty=penalty)
    assert len(readout.landmarks) == n
    expected = oracle(inputs, targets, width, penalty)
    for some in (inputs, cells(20, seed=seed + 1)[0]):
        np.testing.assert_allclose(readout(some), expected(some), atol=0.01)


@pytest.mark.parametrize("n_landmarks", [1, 15, 50])
def test_with_landmarks_it_minimizes_what_it_says(n_landmarks, monkeypatch):
    """``|K W - Y|^2 + penalty tr(W' K_LL W)``, solved here as stacked least squares."""
    monkeypatch.setattr(kernel_ridge, "RIDGE_CHUNK", 64)  # sums over several chunks of cells
    inputs, targets = cells(300)
    readout = fit(inputs, targets, n_landmarks, penalty=3.0)
    assert readout.landmarks.shape == (n_landmarks, 4)
    similar = readout.similarities(inputs).double().numpy()
    at = readout.landmarks * readout.scale + readout.center
    between = readout.similarities(at).double().numpy()
    values, vectors = np.linalg.eigh(between)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    stacked = np.concatenate([similar, np.sqrt(3) * root])
    wanted = np.concatenate([(targets - readout.base).double().numpy(), np.zeros((n_landmarks, 2))])
    expected = similar @ np.linalg.lstsq(stacked, wanted)[0]
    np.testing.assert_allclose(readout(inputs) - readout.base, expected, atol=5e-3)


@pytest.mark.parametrize("n", [10, MIN_LANDMARKS, 100, 500, 2000])
def test_there_are_many_cells_for_each_landmark(n):
    """Else cells that it was fitted to would lie apart from others."""
    options = {"n_landmarks": 100, "width": 1.0, "rng": np.random.default_rng(0)}
    (found,) = fit_kernel_ridge(*cells(n), [1.0], **options)
    assert len(found.landmarks) == min(n, max(n // CELLS_PER_LANDMARK, MIN_LANDMARKS), 100)
    assert CELLS_PER_LANDMARK >= 4


def test_landmarks_are_cells_each_of_them_once():
    inputs, targets = cells(80)
    readout = fit(inputs, targets, 30)
    at = readout.landmarks * readout.scale + readout.center
    nearest = torch.cdist(at / readout.scale, inputs / readout.scale).min(dim=1)
    assert nearest.values.max() < 1e-4
    assert len(set(nearest.indices.tolist())) == 30


def test_the_choice_is_that_of_the_least_squared_error_on_validation_cells():
    learned, held = cells(200, noise=0.5), cells(80, noise=0.5, seed=1)
    found = choose(learned, held, n_landmarks=1000, rng=np.random.default_rng(3))
    losses = {}
    for width in WIDTHS:
        for penalty in PENALTIES:
            readout = fit(*learned, width=width, penalty=penalty)
            losses[width, penalty] = float((readout(held[0]) - held[1]).square().sum())
    assert losses[found] == pytest.approx(min(losses.values()), rel=1e-4)
    assert max(losses.values()) > 1.05 * losses[found]


def test_noise_asks_for_a_larger_penalty_than_a_function():
    rng = np.random.default_rng(0)
    penalties = []
    for noise in (0.0, 10.0):
        parts = cells(200, noise=noise), cells(80, noise=noise, seed=1)
        penalties.append(choose(*parts, n_landmarks=1000, rng=rng)[1])
    assert penalties == [PENALTIES[0], PENALTIES[-1]]


@pytest.mark.parametrize("n_held", [0, 9])
def test_too_few_validation_cells_to_choose(n_held):
    held = tuple(part[:n_held] for part in cells(20, seed=1))
    assert choose(cells(50), held, n_landmarks=10, rng=np.random.default_rng(0)) == DEFAULT
    assert DEFAULT[0] in WIDTHS
    assert DEFAULT[1] in PENALTIES


def test_columns_and_cells_that_are_equal():
    """A column that is the same in all cells says nothing, and equal landmarks are solved for."""
    inputs, targets = cells(40)
    constant = torch.cat([inputs, torch.full((40, 1), 3.0)], dim=1)
    twice = [torch.cat([part, part]) for part in (constant, targets)]
    readout = fit(*twice, penalty=2.0)
    assert all(tensor.isfinite().all() for tensor in readout.state_dict().values())
    assert readout.scale[4] == 1
    # Twice each cell is each cell once with half the penalty, at the same width of the kernel
    once = fit(constant, targets, penalty=1.0)
    torch.testing.assert_close(readout(constant), once(constant), atol=1e-3, rtol=0)
    same = fit(torch.ones(30, 3), targets[:30])
    torch.testing.assert_close(same(torch.ones(2, 3)), targets[:30].mean(dim=0).expand(2, -1))


@pytest.mark.parametrize("n_inputs", [1, 2, 3])
def test_few_inputs_make_similarities_that_depend_on_each_other(n_inputs):
    """And rounding in float32 leaves their matrix indefinite, but for what is added."""
    rng = np.random.default_rng(0)
    inputs = torch.from_numpy(rng.standard_normal((800, n_inputs)).astype(np.float32))
    targets = torch.sin(inputs[:, :1])
    for width in WIDTHS:
        for penalty in PENALTIES:
            options = {"width": width, "penalty": penalty}
            some = inputs[:150], targets[:150]
            found, expected = fit(*some, **options), oracle(*some, **options)
            np.testing.assert_allclose(found(inputs), expected(inputs), atol=0.02)
            (found,) = fit_kernel_ridge(
                inputs, targets, [penalty], n_landmarks=100, width=width, rng=rng
            )
            assert (found(inputs) - targets).square().mean() < 0.5 * targets.var()
    held = torch.linspace(-2, 2, 50)[:, None].expand(-1, n_inputs)
    wanted = torch.sin(held[:, :1])
    chosen = choose((inputs, targets), (held, wanted), n_landmarks=100, rng=rng)
    assert chosen[1] == PENALTIES[0]


def test_the_same_seed_gives_the_same_bits_whatever_the_number_of_threads():
    inputs, targets = cells(500, n_inputs=30)
    one, two = in_one_and_two_threads(lambda: fit(inputs, targets, 100))
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, two.state_dict()[name]), name
    other = fit(inputs, targets, 100, seed=1)
    assert not torch.equal(other.landmarks, one.landmarks)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees_with_the_cpu():
    inputs, targets = cells(3000, n_inputs=20)
    readout = fit(inputs, targets, 300)
    there = fit(inputs.cuda(), targets.cuda(), 300)
    assert there.weight.is_cuda
    torch.testing.assert_close(there(inputs.cuda()).cpu(), readout(inputs), atol=2e-5, rtol=1e-5)
    parts = cells(3000, n_inputs=20), cells(100, n_inputs=20, seed=1)
    on_gpu = [tuple(part.cuda() for part in pair) for pair in parts]
    one = choose(*parts, n_landmarks=300, rng=np.random.default_rng(0))
    assert choose(*on_gpu, n_landmarks=300, rng=np.random.default_rng(0)) == one
