"""How a model is fitted: a frozen dataclass of plain values."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import ceil, inf
from typing import Any

from .checks import NamesRemoved, check_flag, check_number, check_option, preset
from .config import ModelConfig

SCHEDULES = ("one-cycle", "cosine-restarts")
MEASURED = ("sample", "softness", "pseudocount", "landmarks")  # options of encoders in closed form
# Type and range of the numbers
NUMBERS: dict[str, tuple[type, float, float]] = {
    "sample": (int, 10, inf),
    "softness": (float, 1e-3, 1e3),
    "pseudocount": (float, 1, inf),
    "landmarks": (int, 1, inf),
    "max_epochs": (int, 1, inf),
    "batch_size": (int, 1, inf),
    "lr": (float, 0, inf),
    "peak_lr": (float, 0, inf),
    "weight_decay": (float, 0, inf),
    "peak_dropout": (float, 0, 1),
    "peak_weight": (float, 0, inf),
    "n_neighbors": (int, 1, inf),
    "patience": (int, 1, inf),
    "accumulate": (int, 1, inf),
    "balanced_genes": (int, 2, inf),
    "buffer": (int, 1, inf),
    "label_weight": (float, 0, inf),
    "label_smoothing": (float, 0, 1),
    "label_balance": (float, 0, 1),
}


@dataclass(frozen=True)
class TrainingConfig(NamesRemoved):
    """How a model is fitted.

    The first four options are for the set encoder, which is fitted in closed form. All others are
    for a transformer, which is trained by gradient descent. Options of the other kind are refused.

    Parameters
    ----------
    sample
        Number of training cells, drawn at random, to which components, clusters and readouts are
        fitted; half as many validation cells are used to choose penalties and to calibrate. If
        None, 16,384, or fewer if these have more than 15 million open peaks, but at least 1,000.
        Peak vectors are computed from all cells.
    softness
        Temperature of the memberships in clusters, in median squared distances to the nearest
        center.
    pseudocount
        Pseudocount of cells by which peak vectors are shrunk to zero.
    landmarks
        Landmarks of the kernel readouts, at most a tenth of the cells to which they are fitted.
    max_epochs
        Maximum number of passes over the training cells; the best epoch on the validation cells is
        kept. If None, enough epochs to process about 80,000 cells (4 to 50).
    batch_size
        Cells per batch, over all processes.
    lr
        Maximum learning rate, of either `schedule`.
    peak_lr
        Learning rate of the peak vectors, as a fraction of `lr`. If None, 0.05. Low-rank updates
        (``finetune(rank=...)``) have the learning rate `lr`.
    weight_decay
        Weight decay of all parameters except the peak vectors.
    peak_dropout
        Maximum fraction of held-out peaks: each time a cell is read, a fraction drawn uniformly
        from 0 to `peak_dropout` of its peaks is held out.
    peak_weight
        Weight of the loss that predicts the held-out peaks of 8 cells per batch, added to the
        expression loss. Ignored without RNA, where held-out peaks are the only loss.
    n_neighbors
        Number of nearest training cells, itself included, over which RNA is pooled; 1: no pooling.
    patience
        Stop after this many epochs without a better validation loss.
    accumulate
        Batches whose gradients are summed before a step.
    schedule
        ``"one-cycle"``, or ``"cosine-restarts"``: cosine from `lr` to a hundredth of it after a
        linear warm-up of 5 epochs, restarted after 15, 25, 45, ... epochs with 0.9 of the last rate
        (Wu et al. 2025).
    balanced_genes
        With ``objective="binary"``, the loss uses at most this many genes of a cell, half of them
        expressed and half silent, drawn each time (Wu et al. 2025). If None, all genes. Needs
        ``n_neighbors=1``, as pooled cells express nearly every gene.
    buffer
        For files, the number of cells that are read at a time and shuffled. Memory contains twice
        as many; at most this many validation cells are used.
    warm_start
        Start from the peak vectors of a set encoder. If False, from random ones.
    label_weight
        In fine-tuning: weight of the label loss.
    label_smoothing
        In fine-tuning: fraction of the target that is spread evenly over all labels.
    label_balance
        In fine-tuning: class weights are ``n_label ** -label_balance``; 1 gives each label the same
        weight, 0 each cell.

    Examples
    --------
    >>> import epifoundation as ep
    >>> ep.TrainingConfig.preset("paper").lr
    0.0001
    """

    sample: int | None = None
    softness: float = 0.5
    pseudocount: float = 5.0
    landmarks: int = 1_000
    max_epochs: int | None = None
    batch_size: int = 64
    lr: float = 1e-3
    peak_lr: float | None = None
    weight_decay: float = 0.01
    peak_dropout: float = 0.3
    peak_weight: float = 0.0
    n_neighbors: int = 15
    patience: int = 10
    accumulate: int = 1
    schedule: str = "one-cycle"
    balanced_genes: int | None = None
    buffer: int = 8192
    warm_start: bool = True
    label_weight: float = 1.0
    label_smoothing: float = 0.1
    label_balance: float = 0.5

    def __post_init__(self) -> None:
        check_option(self, "schedule", SCHEDULES)
        for name, limits in NUMBERS.items():
            check_number(self, name, *limits)
        check_flag(self, "warm_start")
        if self.balanced_genes is not None and self.n_neighbors > 1:
            msg = "`balanced_genes` needs cells that are not pooled: "
            msg += f"pass `n_neighbors=1`, not {self.n_neighbors}."
            raise ValueError(msg)

    def check(self, model: ModelConfig) -> None:
        """Raise ValueError if an option was given that does not apply to this kind of model."""
        default, meant = asdict(TrainingConfig()), self.options(model)
        for name, value in asdict(self).items():
            if value == default[name] or name in meant:
                continue
            why, cure = "it is an option of the set encoder", "leave it out"
            if model.is_measured:
                why = "it is fitted in closed form, without epochs, steps or losses"
                cure += f" (its options are {', '.join(MEASURED)}), or pass `encoder='transformer'`"
            msg = f"`{name}={value!r}` does not apply to the encoder {model.encoder!r}: "
            msg += f"{why}; {cure}."
            raise ValueError(msg)

    def options(self, model: ModelConfig) -> dict[str, Any]:
        """Options that apply to this kind of model, by name."""
        measured = model.is_measured
        return {n: value for n, value in asdict(self).items() if (n in MEASURED) == measured}

    def epochs(self, n_cells: int) -> int:
        """Number of passes over `n_cells` training cells."""
        return self.max_epochs or min(max(ceil(80_000 / n_cells), 4), 50)

    @classmethod
    def preset(cls, name: str) -> TrainingConfig:
        """A named recipe: ``"default"``, ``"finetune"``, or ``"paper"`` (Wu et al. 2025)."""
        return cls(**preset(name, TRAINING_PRESETS))


TRAINING_PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # For a transformer: training the head for peaks too keeps the embedding in place
    "finetune": {
        "max_epochs": 8,
        "peak_lr": 0.2,
        "peak_weight": 0.1,
        "warm_start": False,
        "patience": 3,
    },
    "paper": {
        "max_epochs": 140,
        "batch_size": 8,
        "accumulate": 20,
        "lr": 1e-4,
        "peak_lr": 1.0,
        "weight_decay": 0.0,
        "peak_dropout": 0.0,
        "peak_weight": 0.0,
        "n_neighbors": 1,
        "patience": 140,
        "schedule": "cosine-restarts",
        "balanced_genes": 8_000,
        "warm_start": False,
    },
}
