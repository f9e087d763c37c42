"""``ep.pl.training``: training curves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .._docs import documented
from ..models import EpiFoundation
from ..models._registry import resolve_model


@documented
def training(
    models: EpiFoundation | str | Path | Mapping[str, EpiFoundation | str | Path], *, ax: Any = None
) -> Any:
    """Plot training and validation loss by epoch, for models trained by gradient descent.

    Parameters
    ----------
    models
        A model, its name or directory; or a mapping from names to several models to compare.
    {ax}

    Returns
    -------
    The axes. A dot marks the epoch with the lowest validation loss. Losses of models are comparable
    only if they have the same objective, genes and peaks.

    Raises
    ------
    ValueError
        `models` is empty, or a model has no losses: set encoders are fitted in closed form, and
        converted models have no history.

    Notes
    -----
    In training, some peaks of each cell are hidden and the loss of predicting them is added, so the
    two losses of a model differ even on the same cells. The losses are in
    ``model.training["history"]``.

    Examples
    --------
    >>> import epifoundation as ep
    >>> mdata = ep.datasets.simulate_multiome(100, 200, 10)
    >>> config = ep.ModelConfig(encoder="transformer", dim=16, n_layers=1)
    >>> model = ep.tl.pretrain(mdata, config=config, training=ep.TrainingConfig(max_epochs=2))
    >>> ax = ep.pl.training(model)
    """
    import matplotlib.pyplot as plt

    named = dict(models) if isinstance(models, Mapping) else {"": models}
    if not named:
        msg = "`models` is empty: pass at least one model to plot."
        raise ValueError(msg)
    histories: dict[str, list[dict[str, float]]] = {}
    for name, each in named.items():
        model = resolve_model(each, None)
        histories[name] = model.training.get("history", [])
        if not histories[name]:
            why = (
                "only models trained with `ep.tl.pretrain` or `ep.tl.finetune` have them"
                if model.config.is_trained
                else "a set encoder is fitted in closed form, not trained by gradient descent"
            )
            msg = f"The model {name or model.name!r} has no losses "
            msg += f"(`model.training['history']`): {why}."
            raise ValueError(msg)
    if ax is None:
        _, ax = plt.subplots(figsize=(5.5, 3.6), layout="constrained")
    for i, (name, history) in enumerate(histories.items()):
        epochs = np.arange(1, len(history) + 1)
        losses = {part: [epoch[part] for epoch in history] for part in ("train", "validation")}
        marker = "." if len(epochs) == 1 else None
        for part, style in (("train", "--"), ("validation", "-")):
            label = f"{name} {part}".strip()
            ax.plot(epochs, losses[part], style, color=f"C{i}", marker=marker, label=label)
        best = int(np.argmin(losses["validation"]))
        ax.plot(epochs[best], losses["validation"][best], "o", color=f"C{i}")
    ax.set(xlabel="epoch", ylabel="loss")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(frameon=False, fontsize="small")
    ax.spines[["top", "right"]].set_visible(False)
    return ax
