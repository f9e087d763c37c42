"""Losses of fine-tuning by gradient: that of labels beside the others, and what is validated on."""

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from epifoundation import ModelConfig, TrainingConfig
from epifoundation.nn import Network, Sizes
from epifoundation.paper.minibatches import Batch
from epifoundation.paper.pretraining import TEMPERATURES, Pretraining
from epifoundation.training.label_head import balanced_weights

IDS, OFFSETS = torch.arange(20), torch.tensor([0, 6, 10, 20])
TARGET = torch.ones(3, 6)
COUNTS = np.array([10, 2])


def module(label_counts=COUNTS, **options):
    torch.manual_seed(0)
    config = ModelConfig(encoder="transformer", dim=16, n_layers=1, dropout=0.0)
    options = {"peak_dropout": 0.0, "peak_weight": 0.0} | options
    network = Network(config, Sizes(20, 6))
    made = Pretraining(network, TrainingConfig(**options), label_counts=label_counts)
    made.trainer = pl.Trainer(logger=False, enable_checkpointing=False)
    return made


def batch(label=(1, -1, 0)):
    codes = None if label is None else torch.tensor(label)
    return Batch(IDS, OFFSETS, TARGET, None, codes)


@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
def test_the_loss_of_labels_is_added_with_its_weight(weight):
    """Of the cells that have one; smoothed, and rare labels weigh more."""
    made = module(label_weight=weight, label_smoothing=0.2, label_balance=1.0)
    plain = module(label_weight=0.0).training_step(batch(), 0)
    loss = made.training_step(batch(), 0)
    made.eval()
    logits = made.classifier(module().network.encode(IDS, OFFSETS))
    known = torch.tensor([0, 2])
    weights = torch.from_numpy(balanced_weights(COUNTS, 1.0)).float()
    expected = F.cross_entropy(logits[known], torch.tensor([1, 0]), weights, label_smoothing=0.2)
    torch.testing.assert_close(loss - plain, weight * expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("label", [None, (-1, -1, -1)])
def test_without_labels_the_loss_is_that_of_pretraining(label):
    made = module()
    loss = made.training_step(batch(label), 0)
    without = module(label_counts=None).training_step(batch(None), 0)
    torch.testing.assert_close(loss, without)
    loss.backward()
    if label is not None:  # processes share gradients, also where no cell has a label
        assert not made.classifier.weight.grad.any()


def test_the_validation_loss_is_that_of_labels_at_the_best_temperature(monkeypatch):
    made = module().eval()
    logged = {}
    monkeypatch.setattr(made, "log", lambda name, value, **options: logged.update({name: value}))
    with torch.no_grad():
        for label in ((1, -1, 0), (0, 0, -1)):
            made.validation_step(batch(label), 0)
        assert not logged
        made.on_validation_epoch_end()
        logits = made.classifier(made.network.encode(IDS, OFFSETS))[[0, 2, 0, 1]]
    codes = torch.tensor([1, 0, 0, 0])
    losses = [float(F.cross_entropy(logits / each, codes)) for each in TEMPERATURES]
    assert float(logged["validation"]) == pytest.approx(min(losses), rel=1e-5)
    assert max(losses) > 1.01 * min(losses)
    logged.clear()
    made.on_validation_epoch_end()  # nothing was seen since
    assert not logged
