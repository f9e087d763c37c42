"""The tensors of an original checkpoint: which there are, what they tell, and what we call them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..nn.query_head import WIDTH

SPECIAL = ("<pad>", "<mask>", "<cls>", "<eos>")
BLOCK = "encoder.transformer_encoder.layers."


@dataclass(frozen=True)
class Dimensions:
    """What the tensors tell of the architecture."""

    dim: int
    n_layers: int
    feedforward: int
    n_bins: int
    n_label_layers: int
    chromosomes: bool
    batches: bool
    values: bool
    cell_types: bool

    @classmethod
    def of(cls, state: dict[str, Tensor], path: Path) -> Dimensions:
        telling = [
            "atac_emb.embedding.weight",
            f"{BLOCK}0.linear1.weight",
            "mvc_decoder.fc2.weight",
        ]
        missing = [
            name
            for name in telling
            if name not in state or state[name].ndim != 2 or not len(state[name])
        ]
        if missing:
            msg = (
                f"{str(path)!r} is no checkpoint of EpiFoundation: it lacks {missing}; its {len(state)} tensors are "
                f"{sorted(state)[:3]}, ..."
            )
            raise ValueError(msg)
        layers = {
            int(name.removeprefix(BLOCK).split(".")[0])
            for name in state
            if re.match(re.escape(BLOCK) + r"\d+\.", name)
        }

        def has(prefix: str) -> bool:
            return any(name.startswith(prefix) for name in state)

        return cls(
            dim=state["atac_emb.embedding.weight"].shape[1],
            n_layers=max(layers) + 1,
            feedforward=state[f"{BLOCK}0.linear1.weight"].shape[0],
            n_bins=state["mvc_decoder.fc2.weight"].shape[0],
            n_label_layers=sum(
                bool(re.fullmatch(r"cls_decoder\._decoder\.\d+\.weight", name)) and tensor.ndim == 2
                for name, tensor in state.items()
            ),
            chromosomes=has("chr_emb."),
            batches=has("batch_emb."),
            values=has("value_decoder."),
            cell_types=has("cls_decoder."),
        )

    def kinds(self, *, labels: bool) -> list[str]:
        """The vocabularies that are needed."""
        return [
            "atac",
            "rna",
            *(("chr", "gene2chr") if self.chromosomes else ()),
            *(("batch",) if self.batches else ()),
            *(("cell",) if self.cell_types and labels else ()),
        ]

    def check(self, state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
        """The tensors in float32, or an error that names each one that is missing, unexpected or ill-shaped."""
        expected = self._shapes()
        optional = {"bn_atac.num_batches_tracked", "bn_rna.num_batches_tracked"}
        problems = [f"missing {name}" for name in expected if name not in state]
        problems += [
            f"unexpected {name}" for name in state if name not in expected and name not in optional
        ]
        for name, shape in expected.items():
            found = tuple(state[name].shape) if name in state else shape
            if len(found) != len(shape) or any(
                want is not None and want != got for want, got in zip(shape, found, strict=True)
            ):
                wanted = tuple("any" if size is None else size for size in shape)
                problems.append(f"{name} has shape {found} rather than {wanted}")
            elif name in state and state[name].layout != torch.strided:
                problems.append(f"{name} is {state[name].layout}")
            elif name in state and not state[name].isfinite().all():
                problems.append(f"{name} holds NaN or infinite values")
        if problems:
            msg = f"The tensors of {str(path)!r} are not those of EpiFoundation: {'; '.join(problems)}."
            raise ValueError(msg)
        return {name: state[name].to(torch.float32) for name in expected}

    def _shapes(self) -> dict[str, tuple[int | None, ...]]:
        d = self.dim
        shapes: dict[str, tuple[int | None, ...]] = {}

        def norm(name: str) -> None:
            shapes.update({f"{name}.weight": (d,), f"{name}.bias": (d,)})

        def linear(name: str, n_out: int | None, n_in: int) -> None:
            shapes.update({f"{name}.weight": (n_out, n_in), f"{name}.bias": (n_out,)})

        embeddings = [
            "atac_emb",
            "rna_emb",
            *(["chr_emb"] * self.chromosomes),
            *(["batch_emb"] * self.batches),
        ]
        for name in embeddings:
            shapes[f"{name}.embedding.weight"] = (None, d)
            norm(f"{name}.enc_norm")
        for name in ("bn_atac", "bn_rna"):
            norm(name)
            shapes.update({f"{name}.running_mean": (d,), f"{name}.running_var": (d,)})
        for i in range(self.n_layers):
            linear(f"{BLOCK}{i}.self_attn.Wqkv", 3 * d, d)
            linear(f"{BLOCK}{i}.self_attn.out_proj", d, d)
            linear(f"{BLOCK}{i}.linear1", self.feedforward, d)
            linear(f"{BLOCK}{i}.linear2", d, self.feedforward)
            norm(f"{BLOCK}{i}.norm1")
            norm(f"{BLOCK}{i}.norm2")
        norm("norm")
        for name, n_outputs in (
            ("mvc_decoder", self.n_bins),
            *([("value_decoder", 1)] * self.values),
        ):
            linear(f"{name}.gene2query", WIDTH, d)
            linear(f"{name}.fc1", WIDTH, d + d * self.batches + WIDTH)
            shapes[f"{name}.hidden_activation.weight"] = (1,)
            linear(f"{name}.fc2", n_outputs, WIDTH)
        if self.cell_types:
            for i in range(self.n_label_layers):
                linear(f"cls_decoder._decoder.{3 * i}", d, d)
                norm(f"cls_decoder._decoder.{3 * i + 2}")
            linear("cls_decoder.out_layer", None, d)
        return shapes


def translate(
    state: dict[str, Tensor], dims: Dimensions, tables: dict[str, dict[str, Any]], *, labels: bool
) -> dict[str, Tensor]:
    """Tensors of the original under our names, in our order of rows and parts."""
    ours: dict[str, Tensor] = {}

    def move(theirs: str, name: str, parts: Iterable[str] = ("weight", "bias")) -> None:
        ours.update({f"{name}.{part}": state[f"{theirs}.{part}"] for part in parts})

    def rows(kind: str, *, cls: bool) -> Tensor:
        table = tables[kind]
        tokens = [index for token, index in table.items() if token not in SPECIAL]
        return state[f"{kind}_emb.embedding.weight"][tokens + [table["<cls>"]] * cls]

    for kind, name in (("atac", "encoder.tokens"), ("rna", "expression.genes")):
        ours[f"{name}.embedding.weight"] = rows(kind, cls=kind == "atac")
        move(f"{kind}_emb.enc_norm", f"{name}.norm")
        move(f"bn_{kind}", f"{name}.batch_norm", ("weight", "bias", "running_mean", "running_var"))
        if dims.chromosomes:
            table = state["chr_emb.embedding.weight"]
            special = table[[tables["chr"]["<pad>"], tables["chr"]["<cls>"]]]
            ours[f"{name}.chromosome.weight"] = torch.cat([special, rows("chr", cls=False)])
            move("chr_emb.enc_norm", f"{name}.chromosome_norm")
    for i in range(dims.n_layers):
        move(f"{BLOCK}{i}.self_attn.Wqkv", f"encoder.blocks.{i}.qkv")
        move(f"{BLOCK}{i}.self_attn.out_proj", f"encoder.blocks.{i}.out")
        for part in ("linear1", "linear2", "norm1", "norm2"):
            move(f"{BLOCK}{i}.{part}", f"encoder.blocks.{i}.{part}")
    move("norm", "encoder.norm")
    if dims.batches:
        move("batch_emb.embedding", "expression.batch", ["weight"])
        move("batch_emb.enc_norm", "expression.batch_norm")
    for theirs, name in (
        ("mvc_decoder", "expression.decoder"),
        *([("value_decoder", "expression.values")] * dims.values),
    ):
        first = state[f"{theirs}.fc1.weight"]
        move(f"{theirs}.gene2query", f"{name}.gene")
        ours[f"{name}.cell.weight"], ours[f"{name}.query.weight"] = (
            first[:, : dims.dim],
            first[:, -WIDTH:],
        )
        ours[f"{name}.cell.bias"] = state[f"{theirs}.fc1.bias"]
        if dims.batches:
            ours[f"{name}.batch.weight"] = first[:, dims.dim : 2 * dims.dim]
        move(f"{theirs}.hidden_activation", f"{name}.activation", ["weight"])
        move(f"{theirs}.fc2", f"{name}.output")
    if labels:
        for i in range(dims.n_label_layers):
            for k in (3 * i, 3 * i + 2):
                move(f"cls_decoder._decoder.{k}", f"label.hidden.{k}")
        move("cls_decoder.out_layer", "label.linear")
    return ours
