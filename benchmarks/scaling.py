"""Speed and memory of embedding and pretraining from a zarr store of simulated cells.

    python benchmarks/scaling.py            # by cells, open peaks, peaks, width, encoder, processes
    python benchmarks/scaling.py --million  # pretrain on and embed 100,000 and a million cells
    python benchmarks/scaling.py --page     # write tables and figure of docs/scaling.md

Results are stored in benchmarks/results/scaling.json. Each run is a separate process, so its peak
memory is measured alone. Since the machine is shared, speed is also given relative to
`embedding_bag` on the tokens of the same cells in the same process.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

BLOCK = 16_384
RESULTS = Path(__file__).parent / "results"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--million", action="store_true")
    parser.add_argument("--page", action="store_true")
    parser.add_argument(
        "--folder", help="folder that keeps the simulated cells; default: temporary"
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        task = json.loads(options.worker)
        print(json.dumps(WORKERS[task.pop("task")](**task)))
        return
    if options.page:
        page()
        return
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(options.folder or folder)
        folder.mkdir(exist_ok=True)
        if options.million:
            million(folder)
        else:
            curves(folder)


def million(folder):
    found = []
    for n_cells in (100_000, 1_000_000):
        cells = simulated(folder, n_cells)
        trained = measure("pretrain", cells=str(cells), output=str(folder / f"model_{n_cells}"))
        run = measure("embed", cells=str(cells), model=str(folder / f"model_{n_cells}"))
        run |= {"pretrain_seconds": trained["seconds"], "pretrain_peak_gb": trained["peak_gb"]}
        run["pretrain_ratio"] = trained["seconds"] / run["seconds"]
        found.append(run)
        print(
            f"{n_cells:,} cells x 200,000 peaks, median {run['median_open']:,} open: pretrained in "
            f"{trained['seconds']:.0f} s, peak memory {trained['peak_gb']:.2f} GB; embedded in "
            f"{run['seconds']:.0f} s, {run['cells_per_s']:,.0f} cells/s, {run['peak_gb']:.2f} GB; "
            f"pretraining takes {run['pretrain_ratio']:.2f} times as long as embedding. "
            f"embedding_bag: {run['bare_cells_per_s']:,.0f} cells/s, ratio {run['ratio']:.2f}",
            flush=True,
        )
    save("million", found)


def curves(folder):
    """Vary cells, open peaks, peaks of the model, width, encoder and processes, one at a time."""
    cells = simulated(folder, 100_000)
    runs = [{"cells": str(cells)}]
    runs += [{"cells": str(simulated(folder, n))} for n in (12_500, 25_000, 50_000, 200_000)]
    runs += [{"cells": str(simulated(folder, 25_000, median_open=n))} for n in (500, 4_000)]
    runs += [{"cells": str(simulated(folder, 25_000, n_peaks=n))} for n in (50_000, 800_000)]
    runs += [{"cells": str(simulated(folder, 25_000)), "dim": dim} for dim in (64, 256)]
    runs += [{"cells": str(simulated(folder, 25_000)), "n_genes": 2_000}]
    runs += [{"cells": str(cells), "threads": 1}]
    runs += [{"cells": str(cells), "threads": 1, "processes": 2}]
    runs += [{"cells": str(simulated(folder, 128)), "encoder": "transformer"}]
    found = []
    for run in runs:
        found.append(measure("embed", **run))
        print(
            {
                name: round(value, 2) if isinstance(value, float) else value
                for name, value in found[-1].items()
            },
            flush=True,
        )
    save("embed", found)


def save(name, runs):
    """Add runs to the file of results."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "scaling.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    about = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}",
    }
    about |= {
        each: version(each) for each in ("epifoundation", "torch", "numpy", "anndata", "zarr")
    }
    path.write_text(json.dumps(results | {name: runs, "about": about}, indent=1) + "\n")


def page():
    """Write the tables and the figure from the results."""
    results = json.loads((RESULTS / "scaling.json").read_text())
    columns = {
        "cells": ("cells", ",.0f"),
        "peaks": ("peaks", ",.0f"),
        "median_open": ("median open", ",.0f"),
        "dim": ("d", ".0f"),
        "genes": ("genes", ",.0f"),
        "encoder": ("encoder", "s"),
        "processes": ("processes", ".0f"),
        "threads": ("threads per process", ".0f"),
        "seconds": ("seconds", ".1f"),
        "cells_per_s": ("cells/s", ",.0f"),
        "peak_gb": ("peak memory, GB", ".2f"),
        "ratio": ("relative to embedding_bag", ".2f"),
        "pretrain_seconds": ("pretraining, s", ".0f"),
        "pretrain_peak_gb": ("pretraining, peak GB", ".2f"),
        "pretrain_ratio": ("pretraining / embedding", ".2f"),
    }
    docs = Path(__file__).parents[1] / "docs"
    for name in ("million", "embed"):
        kept = [key for key in columns if any(key in run for run in results[name])]
        if name == "million":
            kept = [
                "cells",
                "dim",
                "pretrain_seconds",
                "pretrain_peak_gb",
                "pretrain_ratio",
                "seconds",
                "cells_per_s",
                "peak_gb",
                "ratio",
            ]
        heads = [columns.get(key, (key, ""))[0] for key in kept]
        lines = [heads, ["---"] * len(kept)]
        lines += [
            [format(run[key], columns.get(key, ("", ""))[1]) if key in run else "–" for key in kept]
            for run in results[name]
        ]
        text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        (docs / "measured" / f"scaling_{name}.md").write_text(text + "\n")
    draw(results, docs / "_static" / "scaling.png")


def draw(results, path):
    """Draw seconds and memory against cells, open peaks, peaks of the model, and width."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    runs = results["embed"]
    base = next(run for run in runs if run["cells"] == 25_000)

    def like(key):
        same = [
            each
            for each in ("peaks", "median_open", "dim", "genes", "encoder", "processes", "threads")
            if each != key
        ]
        near = {"median_open": 0.1 * base["median_open"]}
        return sorted(
            (
                run
                for run in runs
                if all(
                    run[each] == base[each]
                    if each not in near
                    else abs(run[each] - base[each]) < near[each]
                    for each in same
                )
                and (key == "cells" or run["cells"] == base["cells"])
            ),
            key=lambda run: run[key],
        )

    figure, axes = plt.subplots(2, 4, figsize=(11, 4.4), layout="constrained", sharex="col")
    titles = {
        "cells": "cells",
        "median_open": "median open peaks",
        "peaks": "peaks of the model",
        "dim": "d",
    }
    for (upper, lower), (key, title) in zip(axes.T, titles.items(), strict=True):
        some = like(key) + (results["million"][1:] if key == "cells" else [])
        x = [run[key] for run in some]
        upper.plot(x, [run["seconds"] for run in some], "o-", color="C0")
        lower.plot(x, [run["peak_gb"] for run in some], "o-", color="C1")
        upper.set(
            xscale="log",
            yscale="log" if key == "cells" else "linear",
            ylim=(1 if key == "cells" else 0, None),
        )
        shown = x[1::2] if len(x) > 3 else x
        lower.set(xlabel=title, ylim=(0, 3.6))
        lower.set_xticks(shown, [f"{value:,}" for value in shown])
        lower.minorticks_off()
    axes[0, 0].set_ylabel("seconds")
    axes[1, 0].set_ylabel("peak memory, GB")
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=150)


def simulated(folder, n_cells, n_peaks=200_000, median_open=1_500):
    path = folder / f"{n_cells}x{n_peaks}x{median_open}.zarr"
    if not path.exists():
        started = time.perf_counter()
        simulate(path, n_cells, n_peaks, median_open)
        print(f"simulated {path.name} in {time.perf_counter() - started:.0f} s", file=sys.stderr)
    return path


def simulate(path, n_cells, n_peaks, median_open, seed=0):
    """Write cells x peaks by chunks; peaks differ in frequency, cells in (log-normal) depth."""
    import pandas as pd
    import scipy.sparse as sp
    import zarr
    from anndata import AnnData
    from anndata.io import sparse_dataset, write_elem

    rng = np.random.default_rng(seed)
    often = rng.gamma(0.7, size=n_peaks)
    guide = np.searchsorted(
        np.cumsum(often) / often.sum(), (np.arange(2**22) + 0.5) / 2**22
    ).astype(np.int32)
    drawn = median_open * 1.08  # duplicate draws of a peak count once

    def chunk(k):
        size = np.clip(rng.lognormal(np.log(drawn), 0.5, k), 50, 20 * drawn).astype(np.int64)
        step = rng.standard_exponential(size.sum() + k, dtype=np.float32).astype(np.float64)
        ends = np.cumsum(size + 1)
        cell = np.repeat(np.arange(k), size + 1)
        place = np.cumsum(step)  # sums of exponentials are uniform draws in ascending order
        first = np.concatenate([[0.0], place[ends[:-1] - 1]])
        place = (place - first[cell]) / (place[ends - 1] - first)[cell]
        inner = np.ones(len(place), bool)
        inner[ends - 1] = False
        cell, peak = (
            cell[inner],
            guide[np.minimum((place[inner] * 2**22).astype(np.int64), 2**22 - 1)],
        )
        new = np.ones(len(peak), bool)
        new[1:] = (peak[1:] != peak[:-1]) | (cell[1:] != cell[:-1])
        indptr = np.searchsorted(cell[new], np.arange(k + 1))
        return sp.csr_matrix(
            (np.ones(new.sum(), np.float32), peak[new], indptr), shape=(k, n_peaks)
        )

    part = path.with_suffix(".tmp")
    root = zarr.open_group(part, mode="w", zarr_format=2)
    var = pd.DataFrame(index=[f"chr1:{i * 1000}-{i * 1000 + 500}" for i in range(n_peaks)])
    first = chunk(min(BLOCK, n_cells))
    write_elem(root, "/", AnnData(var=var))
    # Chunks as large as in a matrix that is written at once
    expected = n_cells * median_open * 9 // 8
    like = zarr.create_array(
        zarr.storage.MemoryStore(), shape=(expected,), dtype="float32", chunks="auto", zarr_format=2
    )
    write_elem(root, "X", first, dataset_kwargs={"chunks": like.chunks})
    matrix = sparse_dataset(root["X"])
    for start in range(BLOCK, n_cells, BLOCK):
        matrix.append(chunk(min(BLOCK, n_cells - start)))
    write_elem(root, "obs", pd.DataFrame(index=pd.RangeIndex(n_cells).astype(str)))
    part.rename(path)


def a_model(n_peaks, dim=128, n_genes=0, encoder="set"):
    """A model with random weights."""
    import torch

    import epifoundation as ep
    import epifoundation.tl  # imported before timing
    from epifoundation.nn import ModelConfig, Network, Sizes

    torch.manual_seed(0)
    config = ModelConfig(encoder=encoder, dim=dim, objective="counts" if n_genes else "peaks")
    peaks = ep.PeakVocabulary.from_names(
        [f"chr1:{i * 1000}-{i * 1000 + 500}" for i in range(n_peaks)]
    )
    genes = ep.GeneVocabulary([f"gene{i}" for i in range(n_genes)])
    more = {"n_chromosomes": 1} if encoder == "transformer" else {"n_encoder_landmarks": 1_000}
    network = Network(config, Sizes(n_peaks, n_genes, **more))
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1)
    return ep.EpiFoundation(network, peaks, genes)


def embed(
    cells, dim=128, n_genes=0, encoder="set", n_bare=4096, processes=1, threads=2, model=None
):
    from concurrent.futures import ThreadPoolExecutor

    import torch

    import epifoundation as ep
    import epifoundation.tl  # imported before timing

    ep.settings.progress = False
    torch.set_num_threads(threads)
    import zarr
    from anndata.io import sparse_dataset

    root = zarr.open_group(cells, mode="r")
    shape = sparse_dataset(root["X"]).shape
    model = ep.models.from_pretrained(model) if model else a_model(shape[1], dim, n_genes, encoder)
    dim = model.config.dim
    n_cells = shape[0]
    rows = sparse_dataset(root["X"])[:n_bare]
    before = bare(model, rows) if encoder == "set" else []
    with tempfile.TemporaryDirectory(dir=Path(cells).parent) as folder:
        if processes > 1:  # separate models, shared results
            model.save_pretrained(f"{folder}/model")
            command = "import epifoundation as ep; ep.settings.progress = False; ep.tl.embed("
            command += f"{cells!r}, {folder + '/model'!r}, output={folder + '/results.zarr'!r})"
            with ThreadPoolExecutor(processes) as pool:
                started = time.perf_counter()
                list(
                    pool.map(
                        lambda _: subprocess.run([sys.executable, "-c", command], check=True),
                        range(processes),
                    )
                )
        else:
            started = time.perf_counter()
            ep.tl.embed(cells, model, output=f"{folder}/results.zarr")
        seconds = time.perf_counter() - started
    peak = peak_memory()
    run = {"cells": n_cells, "peaks": shape[1], "dim": dim, "genes": n_genes, "encoder": encoder}
    run |= {"threads": threads, "processes": processes}
    run |= {"seconds": seconds, "cells_per_s": n_cells / seconds, "peak_gb": peak}
    run["median_open"] = int(np.median(np.diff(rows.indptr)))
    if encoder == "set":
        run["bare_cells_per_s"] = float(np.median(before + bare(model, rows)))
        run["ratio"] = run["cells_per_s"] / run["bare_cells_per_s"]
    return run


def bare(model, rows):
    """Cells per second of `embedding_bag` on tokens in memory, for several runs."""
    import torch

    table = torch.rand(rows.shape[1], model.config.dim)
    ids, offsets = (
        torch.from_numpy(rows.indices),
        torch.from_numpy(rows.indptr.astype(rows.indices.dtype)),
    )
    found = []
    for _ in range(8):
        started = time.perf_counter()
        with torch.inference_mode():
            torch.nn.functional.embedding_bag(
                ids, table, offsets, mode="sum", include_last_offset=True
            )
        found.append(rows.shape[0] / (time.perf_counter() - started))
    return found[1:]


def pretrain(cells, output, threads=2):
    """Pretrain from a store, on ATAC alone."""
    import torch

    import epifoundation as ep
    import epifoundation.tl  # imported before timing

    ep.settings.progress = False
    torch.set_num_threads(threads)
    started = time.perf_counter()
    model = ep.tl.pretrain(cells, objective="peaks")
    seconds = time.perf_counter() - started
    peak = peak_memory()
    model.save_pretrained(output, overwrite=True)
    return {"seconds": seconds, "peak_gb": peak}


def peak_memory():
    """Peak resident memory of this process in GB; `ru_maxrss` would include the parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024 / 1e9


def measure(task, *, threads=2, **options):
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    command = [
        sys.executable,
        __file__,
        "--worker",
        json.dumps({"task": task, "threads": threads, **options}),
    ]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


WORKERS = {"embed": embed, "pretrain": pretrain}

if __name__ == "__main__":
    main()
