"""Model cards: that of a model that has none, and metadata for Hugging Face."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._model import EpiFoundation

TAGS = ("epifoundation", "biology", "single-cell", "scATAC-seq")


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


def with_metadata(text: str, genome: str, *, license_id: str | None, base: str | None) -> str:
    """A card with metadata of Hugging Face; those that it has already take precedence.

    Only `license_id` replaces an earlier one. `base` is the base model of an adapter.
    """
    from huggingface_hub import CardData, ModelCard, ModelCardData

    data: CardData = ModelCardData()
    content = text
    if text.lstrip().startswith("---"):
        try:
            card = ModelCard(text, ignore_metadata_errors=False)
        except Exception as error:  # of yaml, or ValueError
            reason = " ".join(str(error).split())
            msg = f"The metadata at the beginning of `model.card` are not valid YAML: {reason}."
            raise ValueError(msg) from error
        data, content = card.data, card.text
    tags = data.get("tags") or []
    tags = [tags] if isinstance(tags, str) else [*map(str, tags)]
    tags += [*TAGS, *([] if genome == "unknown" else [genome])]
    data["tags"] = list(dict.fromkeys(tags))
    data["library_name"] = data.get("library_name") or "epifoundation"
    data["license"] = license_id or data.get("license")
    data["base_model"] = data.get("base_model") or base
    return f"---\n{data.to_yaml()}\n---\n\n{content.lstrip()}"
