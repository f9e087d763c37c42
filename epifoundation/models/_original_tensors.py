"""Tensors of an original checkpoint: the architecture, checks, and the names in our networks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..nn.query_head import WIDTH
from ._original_files import SPECIAL

LAYERS = "encoder.transformer_encoder.layers."
Shape = tuple[int | None, ...]  # None: any size


@dataclass(frozen=True)
class Architecture:
    """The architecture of a checkpoint, from the names and shapes of its tensors."""

    dim: int
    n_layers: int
    feedforward: int
    n_bins: int
    n_label_layers: int
    has_chromosomes: bool
    has_batches: bool
    has_values: bool
    has_cell_types: bool

    @classmethod
    def of(cls, state: dict[str, Tensor], path: Path) -> Architecture:
        """Raise ValueError if tensors that every checkpoint has are missing."""
        required = (
            "atac_emb.embedding.weight",
            f"{LAYERS}0.linear1.weight",
            "mvc_decoder.fc2.weight",
        )
        missing = [
            name
            for name in required
            if name not in state or state[name].ndim != 2 or not len(state[name])
        ]
        if missing:
            msg = f"{str(path)!r} is not a checkpoint of EpiFoundation: it lacks {missing}; "
            msg += f"its {len(state)} tensors are {sorted(state)[:3]}, ..."
            raise ValueError(msg)
        embedding, linear, output = (state[name] for name in required)
        layers = [re.match(rf"{re.escape(LAYERS)}(\d+)\.", name) for name in state]
        label_layer = re.compile(r"cls_decoder\._decoder\.\d+\.weight")
        prefixes = {name.split(".")[0] for name in state}
        return cls(
            dim=embedding.shape[1],
            n_layers=max(int(layer[1]) for layer in layers if layer) + 1,
            feedforward=linear.shape[0],
            n_bins=output.shape[0],
            n_label_layers=sum(
                tensor.ndim == 2 and label_layer.fullmatch(name) is not None
                for name, tensor in state.items()
            ),
            has_chromosomes="chr_emb" in prefixes,
            has_batches="batch_emb" in prefixes,
            has_values="value_decoder" in prefixes,
            has_cell_types="cls_decoder" in prefixes,
        )

    def vocabularies(self, *, labels: bool) -> list[str]:
        """The vocabularies that are needed."""
        return [
            "atac",
            "rna",
            *(("chr", "gene2chr") if self.has_chromosomes else ()),
            *(("batch",) if self.has_batches else ()),
            *(("cell",) if self.has_cell_types and labels else ()),
        ]

    @property
    def decoders(self) -> dict[str, tuple[str, int]]:
        """The query decoders: our name and number of outputs."""
        values = {"value_decoder": ("expression.values", 1)} if self.has_values else {}
        return {"mvc_decoder": ("expression.decoder", self.n_bins)} | values

    def tensors(self) -> dict[str, tuple[str, Shape]]:
        """Our name and the shape of each tensor; ``""`` if :func:`translate` rearranges it."""
        d = self.dim
        table: dict[str, tuple[str, Shape]] = {}

        def norm(theirs: str, ours: str, *statistics: str) -> None:
            for part in ("weight", "bias", *statistics):
                table[f"{theirs}.{part}"] = (ours and f"{ours}.{part}", (d,))

        def linear(theirs: str, ours: str, n_out: int | None, n_in: int) -> None:
            table[f"{theirs}.weight"] = (ours and f"{ours}.weight", (n_out, n_in))
            table[f"{theirs}.bias"] = (ours and f"{ours}.bias", (n_out,))

        for kind, ours in (("atac", "encoder.tokens"), ("rna", "expression.genes")):
            table[f"{kind}_emb.embedding.weight"] = ("", (None, d))
            norm(f"{kind}_emb.enc_norm", f"{ours}.norm")
            norm(f"bn_{kind}", f"{ours}.batch_norm", "running_mean", "running_var")
        if self.has_chromosomes:
            table["chr_emb.embedding.weight"] = ("", (None, d))
            norm("chr_emb.enc_norm", "")
        if self.has_batches:
            table["batch_emb.embedding.weight"] = ("expression.batch.weight", (None, d))
            norm("batch_emb.enc_norm", "expression.batch_norm")
        for i in range(self.n_layers):
            theirs, ours = f"{LAYERS}{i}", f"encoder.blocks.{i}"
            linear(f"{theirs}.self_attn.Wqkv", f"{ours}.qkv", 3 * d, d)
            linear(f"{theirs}.self_attn.out_proj", f"{ours}.out", d, d)
            linear(f"{theirs}.linear1", f"{ours}.linear1", self.feedforward, d)
            linear(f"{theirs}.linear2", f"{ours}.linear2", d, self.feedforward)
            norm(f"{theirs}.norm1", f"{ours}.norm1")
            norm(f"{theirs}.norm2", f"{ours}.norm2")
        norm("norm", "encoder.norm")
        for theirs, (ours, n_outputs) in self.decoders.items():
            linear(f"{theirs}.gene2query", f"{ours}.gene", WIDTH, d)
            linear(f"{theirs}.fc1", "", WIDTH, d + d * self.has_batches + WIDTH)
            table[f"{theirs}.hidden_activation.weight"] = (f"{ours}.activation.weight", (1,))
            linear(f"{theirs}.fc2", f"{ours}.output", n_outputs, WIDTH)
        if self.has_cell_types:
            for i in range(self.n_label_layers):
                linear(f"cls_decoder._decoder.{3 * i}", f"label.hidden.{3 * i}", d, d)
                norm(f"cls_decoder._decoder.{3 * i + 2}", f"label.hidden.{3 * i + 2}")
            linear("cls_decoder.out_layer", "label.linear", None, d)
        return table

    def check(self, state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
        """The tensors in float32; the error lists all that are missing, unexpected or wrong."""
        expected = {name: shape for name, (_, shape) in self.tensors().items()}
        known = {*expected, "bn_atac.num_batches_tracked", "bn_rna.num_batches_tracked"}
        problems = [f"missing {name}" for name in expected if name not in state]
        problems += [f"unexpected {name}" for name in state if name not in known]
        for name, shape in expected.items():
            tensor = state.get(name)
            if tensor is None:
                continue
            found = tuple(tensor.shape)
            if len(found) != len(shape) or any(
                size not in (None, n) for size, n in zip(shape, found, strict=True)
            ):
                wanted = tuple("any" if size is None else size for size in shape)
                problems.append(f"{name} has shape {found} rather than {wanted}")
            elif tensor.layout != torch.strided:
                problems.append(f"{name} is {tensor.layout}")
            elif not tensor.isfinite().all():
                problems.append(f"{name} has NaN or infinite values")
        if problems:
            msg = f"The tensors of {str(path)!r} are not those of EpiFoundation: "
            raise ValueError(f"{msg}{'; '.join(problems)}.")
        return {name: state[name].to(torch.float32) for name in expected}


def translate(
    state: dict[str, Tensor], architecture: Architecture, tables: Mapping[str, dict[str, Any]]
) -> dict[str, Tensor]:
    """The tensors under our names, and rows of embeddings in our order.

    The cell-type head is left out if `tables` names no cell types.
    """
    ours = {
        name: state[theirs]
        for theirs, (name, _) in architecture.tensors().items()
        if name and (tables.get("cell") or not name.startswith("label."))
    }

    def rows(kind: str, *, last: tuple[str, ...] = ()) -> Tensor:
        tokens = [token for token in tables[kind] if token not in SPECIAL]
        indices = [tables[kind][token] for token in (*tokens, *last)]
        return state[f"{kind}_emb.embedding.weight"][indices]

    ours["encoder.tokens.embedding.weight"] = rows("atac", last=("<cls>",))
    ours["expression.genes.embedding.weight"] = rows("rna")
    if architecture.has_chromosomes:
        table = state["chr_emb.embedding.weight"]
        special = table[[tables["chr"]["<pad>"], tables["chr"]["<cls>"]]]
        for name in ("encoder.tokens", "expression.genes"):
            ours[f"{name}.chromosome.weight"] = torch.cat([special, rows("chr")])
            for part in ("weight", "bias"):
                ours[f"{name}.chromosome_norm.{part}"] = state[f"chr_emb.enc_norm.{part}"]
    d = architecture.dim
    for theirs, (name, _) in architecture.decoders.items():
        weight = state[f"{theirs}.fc1.weight"]  # of cell, batch and query, in this order
        ours[f"{name}.cell.weight"], ours[f"{name}.query.weight"] = (
            weight[:, :d],
            weight[:, -WIDTH:],
        )
        ours[f"{name}.cell.bias"] = state[f"{theirs}.fc1.bias"]
        if architecture.has_batches:
            ours[f"{name}.batch.weight"] = weight[:, d : 2 * d]
    return ours
