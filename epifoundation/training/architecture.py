"""Architecture of a new model, from options or from the model that it starts from."""

from __future__ import annotations

from dataclasses import replace

from ..models import EpiFoundation
from ..nn import PROFILES, ModelConfig
from ..nn.encoders import FORMAT_1


def architecture(
    config: ModelConfig | None, init: EpiFoundation | None, objective: str
) -> ModelConfig:
    """Configuration of the new model.

    Raises
    ------
    ValueError
        An encoder or a decoder that cannot be trained, or options that do not match `init`.
    """
    if config is not None and config.encoder in (FORMAT_1, PROFILES):
        kind = "models of format 1" if config.encoder == FORMAT_1 else "atlases"
        msg = (
            f"`encoder={config.encoder!r}` is for {kind}, which can be read but not trained: pass "
        )
        msg += "`encoder='set'`."
        raise ValueError(msg)
    if config is not None and config.values:
        msg = (
            "`config.values` is for converted models: that decoder cannot be trained. Leave it out."
        )
        raise ValueError(msg)
    if init is None:
        return replace(config or ModelConfig(), objective=objective)
    if config is not None:
        msg = "`config` and `init` cannot be combined: the architecture is that of `init`."
        raise ValueError(msg)
    if init.config.encoder == FORMAT_1:
        msg = (
            f"`init`, {init.name!r}, is a set encoder of format 1, which was trained by gradient "
            "descent, and cannot be trained further. Pretrain a new model; with "
            "`peaks=init.peaks` it reads the same peaks."
        )
        raise ValueError(msg)
    if init.config.encoder == PROFILES:
        msg = f"`init`, {init.name!r}, is an atlas, and cannot be trained on cells: pass it as "
        msg += "`prior=`."
        raise ValueError(msg)
    if objective not in (init.config.objective, "peaks"):
        msg = (
            f"`init` was trained with objective {init.config.objective!r}, not {objective!r}; pass "
            f"`objective={init.config.objective!r}`."
        )
        raise ValueError(msg)
    if objective == "peaks" and init.config.is_trained and not init.config.predicts_peaks:
        msg = (
            "`init` has no head for held-out peaks (its decoder is the paper's), so it cannot be "
            "trained with `objective='peaks'`."
        )
        raise ValueError(msg)
    if init.config.is_measured:
        return replace(init.config, objective=objective)
    # A decoder that is not trained would not fit the encoder any more
    return replace(init.config, values=False)
