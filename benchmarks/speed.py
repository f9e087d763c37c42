"""Speed and memory of `ep.tl.embed`, and of the transformer against a plain implementation.

    PYTHONPATH=tests python benchmarks/speed.py  # both
    PYTHONPATH=tests python benchmarks/speed.py --cells 2000 --peaks 50000
    PYTHONPATH=tests python benchmarks/speed.py --only transformer --device cuda

**Set encoder.** 20,000 simulated cells (200,000 peaks, median of 4,000 open) are written once. A
quarter, a half and all of them are read and embedded, each in a separate process, whose peak
resident memory is reported (Python, torch, cells and results included). For comparison, the same
process runs `embedding_bag` on the same tokens. The model has random weights, width 64, 1,000
landmarks and 2,000 genes.

**Transformer.** Eight cells with a median of 4,000 open peaks and the model size of the paper, in
separate processes: `tests/oracles/original.py` (every cell padded to 12,000 tokens, all layers, the
full decoder on 8,000 genes) and a converted copy of the same weights. `padded` masks the padding in
the attention. In `padded, attention unpadded`, the attention skips the padding, as flash-attn does
in the original. Memory is the peak while cells are embedded, in total and above the loaded model.
"""

import argparse
import resource
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from oracles.original import SPECIAL, Original, pad
from processes import apart

import epifoundation as ep
import epifoundation.tl  # imported before timing
from epifoundation.nn import Network, Sizes, add_up


def main():
    """Run the selected benchmarks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=["set", "transformer"])
    parser.add_argument("--cells", type=int, default=20_000)
    parser.add_argument("--peaks", type=int, default=200_000)
    parser.add_argument("--genes", type=int, default=2_000)
    parser.add_argument("--open", type=int, default=4_000, help="median number of open peaks")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--transformer-cells", type=int, default=8)
    parser.add_argument("--length", type=int, default=12_000, help="number of tokens after padding")
    parser.add_argument("--preset", default="paper")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.only != "transformer":
            measure_set(folder, args)
        if args.only != "set":
            measure_transformer(folder, args)


def measure_set(folder, args):
    """Simulate, then measure each size."""
    apart(prepare, folder, args)
    rows = [
        apart(measure, folder, n_cells, args)
        for n_cells in (args.cells // 4, args.cells // 2, args.cells)
    ]
    table = pd.DataFrame(rows).set_index("cells")
    print(
        f"{args.peaks:,} peaks, {args.genes:,} genes, d = {args.dim}, {args.threads} threads, "
        f"{args.device}"
    )
    print(table.to_string(float_format="{:,.2f}".format))
    print("seconds per cell, largest size over smallest:", end=" ")
    per_cell = table["embed s"] / table.index
    print(f"{per_cell.iloc[-1] / per_cell.iloc[0]:.2f}")


def prepare(folder, args):
    """Write cells and a model."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    # Some fragments fall on the same peak
    mdata = ep.datasets.simulate_multiome(
        args.cells, args.peaks, 2, median_fragments=int(1.05 * args.open)
    )
    atac = mdata["atac"]
    atac.write_h5ad(Path(folder) / "atac.h5ad")
    genes = ep.GeneVocabulary([f"gene{i}" for i in range(args.genes)])
    random_model(ep.PeakVocabulary.from_var(atac.var), genes, args.dim).save_pretrained(
        Path(folder) / "model"
    )


def random_model(peaks, genes, dim):
    """A set encoder with random weights, and landmarks as for 10,000 cells."""
    sizes = Sizes(len(peaks), len(genes), n_encoder_landmarks=1_000, has_measured=True)
    network = Network(ep.ModelConfig(dim=dim), sizes)
    generator = torch.Generator().manual_seed(0)
    for name in ("vectors.weight", "readout.landmarks", "readout.weight"):
        network.encoder.get_buffer(name).normal_(generator=generator)
    network.encoder.readout.width.fill_(2 * dim)  # mean squared distance of cells and landmarks
    return ep.EpiFoundation(network.eval(), peaks, genes)


def measure(folder, n_cells, args):
    """Embed the first cells: time, memory, and time of `embedding_bag` on the same tokens."""
    import anndata

    torch.set_num_threads(args.threads)
    ep.settings.progress = False
    atac = anndata.read_h5ad(Path(folder) / "atac.h5ad", backed="r")[:n_cells].to_memory()
    model = ep.models.from_pretrained(Path(folder) / "model", device=args.device)
    began = time.perf_counter()
    ep.tl.embed(atac, model, device=args.device)
    seconds = time.perf_counter() - began
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6

    tokens = atac.X.indptr
    table = model.network.encoder.vectors.weight
    bare = 0.0
    for start in range(0, n_cells, 2048):
        stop = min(start + 2048, n_cells)
        ids = torch.from_numpy(atac.X.indices[tokens[start] : tokens[stop]]).to(args.device)
        offsets = torch.from_numpy(tokens[start : stop + 1] - tokens[start]).to(args.device)
        began = time.perf_counter()
        sums = add_up(table, ids, offsets)
        if sums.is_cuda:
            torch.cuda.synchronize()
        bare += time.perf_counter() - began

    some = slice(0, 64)  # compare with the training path on a few cells
    ids = torch.from_numpy(atac.X.indices[: tokens[64]].astype(np.int64)).to(args.device)
    offsets = torch.from_numpy(tokens[:65].astype(np.int64)).to(args.device)
    with torch.inference_mode():
        unfolded = model.network.encode(ids, offsets).cpu().numpy()
    difference = np.abs(unfolded - atac.obsm["X_epifoundation"][some]).max()
    return {
        "cells": n_cells,
        "median open": float(np.median(np.diff(tokens))),
        "embed s": seconds,
        "cells/s": n_cells / seconds,
        "embedding_bag cells/s": n_cells / bare,
        "relative to embedding_bag": bare / seconds,
        "peak GB": memory,
        "folded - training path": f"{difference:.1e}",
    }


GENES = 8_000  # of the decoder of the paper
PADDED, UNPADDED, OURS, SET = (
    "padded",
    "padded, attention unpadded",
    "ep, transformer",
    "ep, set encoder",
)


def measure_transformer(folder, args):
    """Run the same cells and weights in each implementation and precision."""
    apart(prepare_transformer, folder, args)
    rows, results = [], {}
    for dtype in ("float32", "bfloat16"):
        for kind in (PADDED, UNPADDED, OURS, SET):
            row, results[kind, dtype] = apart(run_transformer, folder, kind, dtype, args)
            rows.append({"dtype": dtype, "implementation": kind, **row})
    table = pd.DataFrame(rows).set_index(["dtype", "implementation"])
    lengths = torch.load(Path(folder) / "cells.pt")["offsets"].diff()
    print(
        f"\n{len(lengths)} cells, {lengths.min():,} to {lengths.max():,} open peaks "
        f"(median {lengths.float().quantile(0.5):,.0f}), preset {args.preset!r}, {GENES:,} genes, "
        f"{args.threads} threads, {args.device}"
    )
    print(table.to_string(float_format="{:,.2f}".format))
    for dtype in ("float32", "bfloat16"):
        part, ours = table.loc[dtype], table.loc[(dtype, OURS)]
        for kind in (PADDED, UNPADDED):
            other = part.loc[kind]
            ratios = {name: ours[name] / other[name] for name in ("peak GB", "above model GB")}
            print(
                f"{dtype}, {OURS} over {kind}: speed x {other['s'] / ours['s']:.2f}, "
                + ", ".join(f"{name} x {ratio:.2f}" for name, ratio in ratios.items())
            )
        print(f"{dtype}, {SET} over {OURS}: speed x {ours['s'] / part.loc[SET, 's']:,.0f}")
    embedding, expression = results[PADDED, "float32"]
    for key in ((OURS, "float32"), (OURS, "bfloat16"), (PADDED, "bfloat16")):
        cosine = torch.cosine_similarity(results[key][0], embedding).min()
        print(
            f"{key[0]}, {key[1]}, against padded float32: largest difference of embeddings "
            f"{(results[key][0] - embedding).abs().max():.1e} (lowest cosine {cosine:.6f}), of "
            f"probabilities {(results[key][1] - expression).abs().max():.1e}"
        )


def prepare_transformer(folder, args):
    """Write cells, the weights of the plain model, and the converted model."""
    generator = torch.Generator().manual_seed(0)
    config = ep.ModelConfig.preset(args.preset)
    # The median is `--open`; the largest still fits the padding
    spread = torch.linspace(-1, 1, args.transformer_cells).mul(0.6).exp()
    lengths = (spread * args.open).long().clamp(max=args.length - 1)
    cells = [
        torch.randperm(args.peaks, generator=generator)[:n].sort().values for n in lengths.tolist()
    ]
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    torch.save({"ids": torch.cat(cells), "offsets": offsets}, Path(folder) / "cells.pt")
    torch.manual_seed(0)
    model = plain(args, unpad=False).randomise(0)
    torch.save({"model": model.state_dict()}, Path(folder) / "plain.pth")
    special = {token: i for i, token in enumerate(SPECIAL)}
    peaks = {f"chr1-{1000 * i}-{1000 * i + 500}": i + 4 for i in range(args.peaks)}
    genes = {f"gene{i}": i + 4 for i in range(GENES)}
    converted = ep.models.convert_original(
        Path(folder) / "plain.pth",
        {"atac": special | peaks, "rna": special | genes},
        n_heads=config.n_heads,
        max_peaks=args.length,
    )
    converted.save_pretrained(Path(folder) / "converted")
    random_model(converted.peaks, converted.genes, args.dim).save_pretrained(Path(folder) / "sets")


def plain(args, *, unpad):
    """A plain implementation of the architecture of the paper."""
    config = ep.ModelConfig.preset(args.preset)
    sizes = {"dim": config.dim, "n_heads": config.n_heads, "n_layers": config.n_layers}
    return Original(args.peaks, GENES, **sizes, feedforward=config.feedforward, unpad=unpad)


def run_transformer(folder, kind, dtype, args):
    """Embed the cells and predict all genes: time, memory, embeddings and expression."""
    torch.set_num_threads(args.threads)
    device, precision = torch.device(args.device), getattr(torch, dtype)
    cells = torch.load(Path(folder) / "cells.pt")
    ids, offsets = cells["ids"].to(device), cells["offsets"].to(device)
    if kind in (OURS, SET):
        model = ep.models.from_pretrained(
            Path(folder) / ("converted" if kind == OURS else "sets"), device=device
        )
        with torch.inference_mode():
            encoder, predict = model.network.folded(precision), model.network.expression.predictor()

            def call(ids, offsets):
                embedding = encoder.encode(ids, offsets)
                return embedding, predict(embedding, None)
    else:
        with torch.device("meta"):
            model = plain(args, unpad=kind == UNPADDED)
        model.load_state_dict(
            torch.load(Path(folder) / "plain.pth", mmap=True)["model"], assign=True
        )
        model.to(device, precision)

        def call(ids, offsets):
            outputs = model(pad(ids, offsets, args.length).to(device))
            return outputs["cell_emb"].float(), outputs["mvc_pred"].float().softmax(-1)[..., 1]

    with torch.inference_mode():
        call(ids[: offsets[1]], offsets[:2])  # warm-up
        before = reset_peak(device)
        times = []
        for _ in range(3 if kind in (OURS, SET) else 1):
            began = time.perf_counter()
            results = call(ids, offsets)
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
    peak = peak_of(device)
    seconds = float(np.median(times))
    row = {
        "s": seconds,
        "cells/s": len(offsets[1:]) / seconds,
        "peak GB": peak,
        "above model GB": peak - before,
    }
    return row, tuple(result.cpu() for result in results)


def reset_peak(device):
    """Reset the peak and return the memory in use, in GB."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 1e9
    Path("/proc/self/clear_refs").write_text("5")
    return status_of("VmRSS")


def peak_of(device):
    """Peak memory since the reset, in GB."""
    return torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else status_of("VmHWM")


def status_of(field):
    """A field of `/proc/self/status` in GB."""
    line = next(
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith(field)
    )
    return int(line.split()[1]) / 1e6


if __name__ == "__main__":
    main()
