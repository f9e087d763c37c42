"""Architecture of a network: frozen dataclasses of plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from .checks import NamesRemoved, check_flag, check_number, check_option, preset
from .encoders import ENCODERS, FORMAT_1
from .profile_encoder import PROFILES

DECODERS = ("linear", "query")
OBJECTIVES = ("counts", "binary", "gaussian", "peaks")
DIM = 128
# Integers of at least 1, and their limits: a network of this size can be described before it is
# compared with the weights, and takes memory only then
WHOLE = {
    "dim": 2**16,
    "n_heads": 2**16,
    "n_layers": 1_000,
    "feedforward": 2**20,
    "max_peaks": 2**31,
}
MAX_SIZE, MAX_LAYERS = 2**28, 1_000  # of a part of a network


@dataclass(frozen=True)
class ModelConfig(NamesRemoved):
    """Architecture of an :class:`~epifoundation.EpiFoundation` model.

    Parameters
    ----------
    encoder
        ``"set"``: sums of peak vectors over a cell's open peaks, fitted in closed form.
        ``"transformer"``: the paper's, trained by gradient descent. ``"profiles"``: of an atlas of
        bulk samples; models with it are read, and not fitted to cells.
    dim
        Width of peak vectors and embedding. ``"set"``: the number of clusters of cells; if None,
        computed from the number of cells in pretraining, see Notes. ``"transformer"``: divisible
        by `n_heads`; if None, 128.
    n_heads
        ``"transformer"``: number of attention heads; if None, 2.
    n_layers
        ``"transformer"``: number of blocks; if None, 2.
    dropout
        ``"transformer"``: dropout in the blocks and before the heads; if None, 0.1.
    objective
        Likelihood of the expression head: ``"counts"`` (multinomial), ``"binary"`` (Bernoulli, the
        paper's) or ``"gaussian"``; ``"peaks"`` has no expression head.
    feedforward
        ``"transformer"``: width of the hidden layer of a block; if None, ``2 * dim``.
    max_peaks
        ``"transformer"``: maximum number of open peaks per cell; of more, a fixed subset is used.
        If None, all are used.
    decoder
        ``"linear"``, or, for a transformer, ``"query"``: the paper's, in which gene vectors query a
        small network of the cell.
    values
        Adds the paper's second query decoder, which predicts values. Set by
        :func:`epifoundation.models.convert_original` only.

    Notes
    -----
    By default, a set encoder has a cluster for each 20 sampled training cells with RNA, or for each
    200 with ATAC alone, whose components are noisier; at least 16 and at most 128.

    Examples
    --------
    >>> import epifoundation as ep
    >>> ep.ModelConfig.preset("paper").encoder
    'transformer'
    """

    encoder: str = "set"
    dim: int | None = None
    n_heads: int | None = None
    n_layers: int | None = None
    dropout: float | None = None
    objective: str = "counts"
    feedforward: int | None = None
    max_peaks: int | None = None
    decoder: str = "linear"
    values: bool = False

    def __post_init__(self) -> None:
        if self.encoder != FORMAT_1:
            check_option(self, "encoder", [name for name in ENCODERS if name != FORMAT_1])
        check_option(self, "objective", OBJECTIVES)
        check_option(self, "decoder", DECODERS)
        options = ENCODERS[self.encoder].options
        for name in (*WHOLE, "dropout", "decoder"):
            value, default = getattr(self, name), "linear" if name == "decoder" else None
            if name in options and value is None:
                object.__setattr__(self, name, options[name])
            elif name not in options and value != default:
                msg = f"`{name}={value!r}` does not apply to the encoder {self.encoder!r}, "
                msg += "which is fitted in closed form: "
                msg += "leave it out, or pass `encoder='transformer'`."
                raise ValueError(msg)
        for name, limit in WHOLE.items():
            # A trained set encoder of format 1 may have no layers
            check_number(self, name, int, 0 if self.encoder == FORMAT_1 else 1, limit)
        if self.n_heads and self.width % self.n_heads:
            msg = f"`dim` ({self.dim}) must be divisible by `n_heads` ({self.n_heads})."
            raise ValueError(msg)
        check_number(self, "dropout", float, 0, 1)
        if self.dropout == 1:
            msg = "`dropout` must be less than 1, got 1: nothing would be left."
            raise ValueError(msg)
        check_flag(self, "values")
        if self.values and self.decoder != "query":
            msg = f"`values` needs `decoder='query'`, got {self.decoder!r}."
            raise ValueError(msg)

    @property
    def width(self) -> int:
        """Columns of the encoder: `dim`, which is set in every fitted model."""
        return self.dim or DIM

    @property
    def heads(self) -> int:
        """Number of attention heads."""
        return self.n_heads or 0

    @property
    def is_measured(self) -> bool:
        """Whether the encoder is fitted in closed form."""
        return ENCODERS[self.encoder].is_measured

    @property
    def is_trained(self) -> bool:
        """Whether the encoder is trained by gradient descent; False for one of format 1."""
        return ENCODERS[self.encoder].is_trained

    @property
    def predicts_peaks(self) -> bool:
        """Whether there is a head for held-out peaks; the paper's objective has none."""
        return (self.decoder == "linear" or self.objective == "peaks") and (
            self.encoder != PROFILES
        )

    @classmethod
    def preset(cls, name: str) -> ModelConfig:
        """A named architecture: ``"default"``, or ``"paper"`` (Wu et al. 2025).

        The paper's has 6 blocks of 8 heads and is 512 wide.
        """
        return cls(**preset(name, MODEL_PRESETS))

    def to_dict(self) -> dict[str, Any]:
        """Plain types, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any], *, format_version: int = 2) -> ModelConfig:
        """The inverse of :meth:`to_dict`; missing keys take their default.

        Raises
        ------
        ValueError
            Unknown keys, or a set encoder of format 1 with attention, which is no longer read.
        """
        if format_version == 1:
            values = dict(values)
            n_heads, n_seeds = values.get("n_heads"), values.pop("n_seeds", 1)
            if values.get("encoder", "set") == "set":
                if n_heads or n_seeds not in (0, 1):
                    msg = f"A set encoder with attention (`n_heads={n_heads}`, "
                    msg += f"`n_seeds={n_seeds}`) is not read any more: it was an experiment of "
                    msg += "version 0.1. Pretrain the model again, or read it with "
                    msg += "epifoundation 0.1.0."
                    raise ValueError(msg)
                values["encoder"] = FORMAT_1
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            msg = f"Unknown configuration keys {unknown}; this version knows {sorted(known)}."
            raise ValueError(msg)
        return cls(**values)


@dataclass(frozen=True)
class Sizes:
    """Sizes of a network that come from the data, or from the checkpoint that was converted.

    Parameters
    ----------
    n_peaks, n_genes, n_labels, n_batches
        Peaks, genes, labels and batches.
    n_chromosomes
        Chromosomes that have a vector, in a transformer and a query decoder; 0 for none.
    n_bins
        Bins of expression of a binary query decoder; the first is "not expressed".
    n_label_layers
        Hidden layers of the label head.
    n_calibration, n_reference
        Cells saved in a calibrated label head: scores of validation cells, and embeddings of
        training cells.
    peaks_by_batch
        Whether the trained head for held-out peaks has a vector for each batch.
    n_removed
        Directions of batch effects that are projected out.
    n_landmarks
        Landmarks of the kernel head for the measured scale; 0 for none.
    n_encoder_landmarks, n_label_landmarks
        Landmarks of the readouts of the set encoder and of the label columns; 0 for none.
    has_measured
        Whether there is a linear head for the measured scale.
    heads
        Size of each other head, by its name in :data:`.heads.HEADS`: ``heads.get("name")``.
    """

    n_peaks: int
    n_genes: int = 0
    n_labels: int = 0
    n_batches: int = 0
    n_chromosomes: int = 0
    n_bins: int = 2
    n_label_layers: int = 0
    n_calibration: int = 0
    n_reference: int = 0
    peaks_by_batch: bool = False
    n_removed: int = 0
    n_landmarks: int = 0
    n_encoder_landmarks: int = 0
    n_label_landmarks: int = 0
    has_measured: bool = False
    heads: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for each in fields(self):
            if isinstance(each.default, bool):
                check_flag(self, each.name)
            elif each.name != "heads":
                limit = MAX_LAYERS if each.name == "n_label_layers" else MAX_SIZE
                check_number(self, each.name, int, 2 if each.name == "n_bins" else 0, limit)
        sizes = self.heads.values() if isinstance(self.heads, Mapping) else [None]
        if not all(type(size) is int and 0 <= size <= MAX_SIZE for size in sizes):
            msg = f"`heads` must be integers between 0 and {MAX_SIZE} by name, got {self.heads!r}."
            raise ValueError(msg)
        if self.n_calibration and not self.n_reference:
            msg = f"`n_calibration` ({self.n_calibration}) needs cells to compare with: "
            msg += "`n_reference` must be at least 1, got 0."
            raise ValueError(msg)

    def updated(self, sizes: Mapping[str, Any]) -> Sizes:
        """Sizes of which some are replaced; those without a field are added to `heads`."""
        names = {each.name for each in fields(self)}
        heads = {name: size for name, size in sizes.items() if name not in names}
        known = {name: size for name, size in sizes.items() if name in names}
        return replace(self, **known, heads={**self.heads, **heads})

    def to_dict(self) -> dict[str, Any]:
        """Plain types, ready for JSON; `heads` only if there are any."""
        values = asdict(self)
        return values if self.heads else {k: v for k, v in values.items() if k != "heads"}


MODEL_PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "paper": {
        "encoder": "transformer",
        "dim": 512,
        "n_heads": 8,
        "n_layers": 6,
        "feedforward": 1024,
        "dropout": 0.15,
        "objective": "binary",
        "decoder": "query",
        "max_peaks": 12_000,
    },
}
