"""What a network needs of an encoder, and the encoders by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from torch import Tensor

from .folded import Folded
from .profile_encoder import PROFILES, ProfileEncoder
from .set_encoder import SetEncoder
from .trained_set_encoder import TrainedSetEncoder
from .transformer_encoder import TransformerEncoder

if TYPE_CHECKING:
    from .config import ModelConfig, Sizes

FORMAT_1 = "set-1"  # the set encoder of models of format 1: read, but no longer fitted


class Encoder(Protocol):
    """Encodes packed tokens (open peaks of all cells, concatenated); a :class:`torch.nn.Module`.

    An encoder fitted in closed form is a :class:`SetEncoder`, whose members are fitted by
    :mod:`epifoundation.training`. An encoder trained by gradient descent has, in addition,
    `table` and `start_from` (see :class:`TransformerEncoder`). Batch effects are removed by its
    single submodule of class :class:`Projection`.

    Attributes
    ----------
    options
        Options of :class:`ModelConfig` that the encoder has, with their defaults.
    is_measured, is_trained
        Whether it is fitted in closed form, or by gradient descent. If neither, it is only read.
    folded
        Class that prepares a network with this encoder for inference.
    """

    options: ClassVar[Mapping[str, Any]]
    is_measured: ClassVar[bool]
    is_trained: ClassVar[bool]
    folded: ClassVar[type[Folded]]

    def __init__(self, config: ModelConfig, sizes: Sizes) -> None: ...

    def __call__(self, ids: Tensor, offsets: Tensor, known: Tensor | None = None) -> Tensor:
        """Columns of packed tokens, (n_cells, width); NaN for a cell without open peaks."""
        ...

    def embed(self, features: Tensor) -> Tensor:
        """Embedding from columns, (n_cells, width)."""
        ...


ENCODERS: dict[str, type[Encoder]] = {
    "set": SetEncoder,
    "transformer": TransformerEncoder,
    PROFILES: ProfileEncoder,
    FORMAT_1: TrainedSetEncoder,
}
