"""Training: schedules and what enters the loss."""

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from epifoundation import ModelConfig, TrainingConfig
from epifoundation.batches import Batch
from epifoundation.nn import Network, Sizes
from epifoundation.training import Pretraining, warm_restarts


def test_the_rate_rises_falls_and_begins_again_as_in_the_paper():
    """Cycles of 15, 25, 45 epochs with 5 of warm-up, each at 0.9 of the last, from a hundredth of the rate."""
    rate = np.array([warm_restarts(epoch) for epoch in range(85)])
    starts = [0, 15, 40]
    np.testing.assert_allclose(rate[starts], 0.01)
    np.testing.assert_allclose(rate[[5, 20, 45]], [1, 0.9, 0.81])
    assert rate.max() == 1
    for start, stop in zip(starts, [15, 40, 85], strict=True):
        cycle = rate[start:stop]
        assert (np.diff(cycle[:6]) > 0).all()
        assert (np.diff(cycle[5:]) < 0).all()
    np.testing.assert_allclose(rate[10], 0.01 + 0.99 / 2)


def step(config, training, target):
    torch.manual_seed(0)
    network = Network(config, Sizes(20, target.shape[1]))
    module = Pretraining(network, training)
    module.trainer = pl.Trainer(logger=False, enable_checkpointing=False)
    ids, offsets = torch.arange(20), torch.tensor([0, 10, 20])
    return module, module.training_step(Batch(ids, offsets, target, None), 0)


@pytest.mark.parametrize("encoder", ["set", "transformer"])
def test_the_papers_loss_reads_all_peaks_and_predicts_none(encoder):
    config = ModelConfig(encoder=encoder, dim=16, n_layers=1, dropout=0.0, objective="binary", decoder="query")
    training = TrainingConfig(peak_dropout=0.0, balanced_genes=6, n_neighbors=1)
    module, loss = step(config, training, torch.tensor([[1.0, 0, 0, 1, 0, 0], [1, 1, 1, 1, 1, 0]]))
    assert module.network.peaks is None
    assert loss.isfinite()
    loss.backward()
    rows = module.network.get_submodule(f"encoder.{module.network.encoder.table}").weight.grad.abs().sum(1)
    assert (rows[:20] > 0).all()


def test_cells_without_a_silent_gene_add_nothing_to_a_balanced_loss():
    config = ModelConfig(encoder="set", dim=16, n_layers=1, dropout=0.0, objective="binary")
    _, loss = step(config, TrainingConfig(peak_weight=0.0, balanced_genes=6, n_neighbors=1), torch.ones(2, 6))
    assert loss == 0
