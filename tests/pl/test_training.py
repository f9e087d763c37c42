"""Curves of training: what was recorded is what is drawn."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

import epifoundation as ep

SMALL = ep.ModelConfig(encoder="transformer", dim=8, n_heads=1, n_layers=1)


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def test_losses_are_plotted_and_the_best_epoch_is_marked(simulated, tmp_path):
    model = ep.tl.pretrain(
        simulated, config=SMALL, training=ep.TrainingConfig(max_epochs=3, batch_size=128)
    )
    model.save_pretrained(tmp_path / "m")
    for given in (model, tmp_path / "m"):
        train, validation, dot = ep.pl.training(given).lines
        for line, part in ((train, "train"), (validation, "validation")):
            np.testing.assert_allclose(line.get_xdata(), [1, 2, 3])
            np.testing.assert_allclose(
                line.get_ydata(), [epoch[part] for epoch in model.training["history"]]
            )
        best = int(np.argmin(validation.get_ydata()))
        assert (dot.get_xdata()[0], dot.get_ydata()[0]) == (best + 1, validation.get_ydata()[best])


def test_several_models_are_named_and_plotted_into_given_axes(simulated, tmp_path):
    _, ax = plt.subplots()
    model = ep.tl.pretrain(
        simulated, config=SMALL, training=ep.TrainingConfig(max_epochs=1, batch_size=128)
    )
    assert ep.pl.training({"old": model, "new": model}, ax=ax) is ax
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts == ["old train", "old validation", "new train", "new validation"]
    for suffix in ("png", "svg"):
        ax.figure.savefig(tmp_path / f"x.{suffix}")


def test_bad_input(simulated, model):
    with pytest.raises(ValueError, match="`models` is empty"):
        ep.pl.training({})
    with pytest.raises(
        ValueError, match="'mine' has no losses .*: a set encoder is fitted in closed form"
    ):
        ep.pl.training({"mine": model})
    trained = ep.tl.pretrain(
        simulated, config=SMALL, training=ep.TrainingConfig(max_epochs=1, batch_size=128)
    )
    trained.training.pop("history")
    with pytest.raises(ValueError, match="'mine' has no losses .*: only models trained with"):
        ep.pl.training({"mine": trained})
