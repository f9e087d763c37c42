"""The model card of a model that has none."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._model import EpiFoundation


def default_card(model: EpiFoundation) -> str:
    """The README of a model that has none."""
    rows = [
        f"| {key} | {value} |\n"
        for key, value in model.training.items()
        if not isinstance(value, dict | list)
    ]
    about_cells = ""
    n_cells = max((len(cells) for cells in model.cells.values()), default=0)
    if model.config.is_measured and n_cells:
        about_cells = (
            f"It recognizes its {n_cells:,} training cells by a hash of their open peaks, and "
            "leaves each out of the vectors of its own peaks.\n\n"
        )
    elif model.config.is_measured:
        about_cells = (
            "It was saved without its training cells (`cells=False`): if they are embedded again, "
            "they are not recognized and are separated from new cells.\n\n"
        )
    return (
        f"# EpiFoundation model\n\nEncoder `{model.config.encoder}` (d = {model.config.dim}), "
        f"{len(model.peaks):,} peaks ({model.peaks.genome}), {len(model.genes):,} genes "
        f"(objective `{model.config.objective}`), {len(model.labels)} labels. "
        "Embeds scATAC-seq with `epifoundation.tl.embed`.\n\n"
        f"{about_cells}## Training\n\n| | |\n|---|---|\n{''.join(rows)}"
    )
