"""Training by gradient: schedules, what enters the loss, and what is kept."""

from itertools import pairwise

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from epifoundation import ModelConfig, TrainingConfig
from epifoundation.nn import Network, Sizes
from epifoundation.paper.callbacks import KeepBest
from epifoundation.paper.minibatches import Batch
from epifoundation.paper.pretraining import (
    Pretraining,
    hold_out,
    keep_one,
    peak_tables,
    warm_restarts,
)


def test_the_rate_rises_falls_and_begins_again_as_in_the_paper():
    """Cycles of 15, 25, 45 epochs with 5 of warm-up, each at 0.9 of the last."""
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


TRANSFORMER = {"encoder": "transformer", "dim": 16, "n_layers": 1, "dropout": 0.0}


def step(config, training, target):
    torch.manual_seed(0)
    network = Network(config, Sizes(20, target.shape[1]))
    module = Pretraining(network, training)
    module.trainer = pl.Trainer(logger=False, enable_checkpointing=False)
    ids, offsets = torch.arange(20), torch.tensor([0, 10, 20])
    return module, module.training_step(Batch(ids, offsets, target, None), 0)


def test_the_papers_loss_reads_all_peaks_and_predicts_none():
    config = ModelConfig(**TRANSFORMER, objective="binary", decoder="query")
    training = TrainingConfig(peak_dropout=0.0, balanced_genes=6, n_neighbors=1)
    target = torch.tensor([[1.0, 0, 0, 1, 0, 0], [1, 1, 1, 1, 1, 0]])
    module, loss = step(config, training, target)
    assert module.network.peaks is None
    assert loss.isfinite()
    loss.backward()
    rows = module.network.get_submodule(f"encoder.{module.network.encoder.table}").weight.grad
    assert (rows[:20].abs().sum(1) > 0).all()


def test_cells_without_a_silent_gene_add_nothing_to_a_balanced_loss():
    config = ModelConfig(**TRANSFORMER, objective="binary")
    training = TrainingConfig(balanced_genes=6, n_neighbors=1)
    _, loss = step(config, training, torch.ones(2, 6))
    assert loss == 0


def test_held_out_peaks_enter_the_loss_by_their_weight():
    target = torch.ones(2, 6)
    losses = []
    for weight in (0.0, 0.5, 1.0):
        training = TrainingConfig(peak_dropout=0.5, peak_weight=weight)
        module, loss = step(ModelConfig(**TRANSFORMER), training, target)
        losses.append(float(loss.detach()))
        loss.backward()
        grad = module.network.peaks.linear.weight.grad
        assert (grad is not None and bool(grad.abs().sum() > 0)) == (weight > 0)
    assert losses[2] - losses[1] == pytest.approx(losses[1] - losses[0], abs=1e-4)
    assert losses[1] - losses[0] > 1  # half the logarithm of 20 peaks


def test_peak_vectors_do_not_learn_at_a_rate_of_zero():
    for rate, learns in ((0.0, False), (0.1, True)):
        training = TrainingConfig(peak_lr=rate)
        module, loss = step(ModelConfig(**TRANSFORMER), training, torch.ones(2, 6))
        loss.backward()
        (table,) = peak_tables(module.network)
        assert table.requires_grad == learns == (table.grad is not None)
        groups = module.configure_optimizers()["optimizer"].param_groups
        assert [len(group["params"]) for group in groups][1] == int(learns)
        assert groups[1]["weight_decay"] == 0


@pytest.mark.parametrize("most", [0.0, 0.3, 1.0])
def test_peaks_are_held_out_up_to_a_rate_and_one_stays(most):
    torch.manual_seed(0)
    offsets = torch.tensor([0, 1, 3, 2003, 4003])
    keep = torch.stack([hold_out(torch.arange(4003), offsets, most) for _ in range(200)]).float()
    kept = torch.stack([keep[:, a:b].mean(dim=1) for a, b in pairwise(offsets)])
    assert (kept[0] == 1).all()
    assert (kept[1] >= 0.5).all()
    held = 1 - kept[2:]
    assert held.min() >= 0
    assert held.max() <= most + 0.05
    assert float(held.mean()) == pytest.approx(most / 2, abs=0.05)
    assert most == 0 or held[0].std() > most / 10  # another rate for each cell each time


def test_the_first_peak_of_a_cell_that_would_lose_all_is_kept():
    keep = torch.tensor([False, False, True, False, False, False, True])
    offsets = torch.tensor([0, 2, 4, 6, 7])
    found = keep_one(keep, offsets)
    assert found.tolist() == [True, False, True, False, True, False, True]
    assert not keep[0]  # not changed


class Losses:
    """As much of a trainer as :class:`KeepBest` reads."""

    loggers = ()
    should_stop = False

    class strategy:  # noqa: N801
        reduce = staticmethod(lambda tensor, reduce_op: tensor)


def test_the_best_epoch_is_kept_and_training_stops_after_too_many_without_one():
    network = Network(ModelConfig(**TRANSFORMER), Sizes(5, 3))
    better, trainer = [], Losses()
    keep = KeepBest(network, 2, lambda network, epoch: better.append(epoch))
    module = Pretraining(network, TrainingConfig())
    for epoch, loss in enumerate([3.0, 1.0, 2.0, 1.5]):
        assert not trainer.should_stop
        with torch.no_grad():
            network.expression.linear.bias.fill_(epoch)
        module.summed = [10.0 * loss, 10]
        trainer.callback_metrics = {"validation": loss}
        keep.on_train_epoch_end(trainer, module)
    assert trainer.should_stop
    assert better == [0, 1]
    assert (keep.network.expression.linear.bias == 1).all()
    assert [each["train"] for each in keep.history] == [3.0, 1.0, 2.0, 1.5]
    trainer.callback_metrics = {"validation": float("nan")}
    module.summed = [1.0, 1]
    with pytest.raises(FloatingPointError, match="Training diverged in epoch 4.*Lower `lr`"):
        keep.on_train_epoch_end(trainer, module)
