"""Compare all methods on all data sets and tasks, and run the ablations.

    python benchmarks/side_by_side.py                 # everything: `make bench`
    python benchmarks/side_by_side.py --quick         # one fold, fast methods: `make bench-quick`
    python benchmarks/side_by_side.py --only lsi svm  # rerun these methods, keep other results
    python benchmarks/side_by_side.py --against FILE  # also compare the scores with another run
    python benchmarks/side_by_side.py --page          # only write the pages from the results

Each method and fold runs in a separate process with one thread; two processes run at a time. The
seed is the number of the fold. `splits.py` has the data, `methods.py` the methods, `scores.py` the
tasks, and `page.py` writes `docs/benchmarks.md` from the results, which are stored as JSON.
"""

import argparse
import json
import multiprocessing as mp
import os
import platform
import shutil
import sys
import time
import traceback
from datetime import date
from importlib.metadata import version
from pathlib import Path

THREADS = "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"
os.environ |= dict.fromkeys(THREADS, "1")  # before numpy is imported; child processes inherit it
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")])
)

PROCESSES = 2
RESULTS = Path(__file__).parent / "results" / "side_by_side.json"
BUILD = Path(__file__).parents[1] / "build"
QUICK = BUILD / "bench_quick.json"
EMBEDDINGS = BUILD / "embeddings"  # kept, so that `--only` can score integration of all methods
QUICK_METHODS = ("epifoundation", "lsi", "svm", "gene_mean")
QUICK_DATA = ("SNARE-seq cortex", "PBMC 51 loci", "simulated, 200 fragments")
HEAVY = (
    "peakvi",
    "poissonvi",
    "multivi",
    "epifoundation_transformer",
)  # take minutes, so they run first
# Data of methods that do not run on all, so that everything takes about an hour
SOME = {
    "peakvi": ("SNARE-seq cortex", "bone marrow", "simulated, 200 fragments"),
    "poissonvi": ("SNARE-seq cortex", "simulated, 200 fragments"),
    "multivi": ("SNARE-seq cortex", "PBMC 51 loci", "bone marrow", "simulated, 200 fragments"),
    "harmony": ("SNARE-seq cortex", "PBMC 51 loci", "bone marrow", "simulated, 200 fragments"),
    "gene_activity": (
        "SNARE-seq cortex",
        "PBMC 51 loci",
        "bone marrow",
        "simulated, 200 fragments",
    ),
    "epifoundation_transformer": ("SNARE-seq cortex",),
    "epifoundation_bundled": ("SNARE-seq cortex", "PBMC 51 loci"),
}
ROBUSTNESS_DATA = INTEGRATION_DATA = ("SNARE-seq cortex", "simulated, 200 fragments")
ABLATED = "SNARE-seq cortex"
PACKAGES = (
    "epifoundation",
    "torch",
    "numpy",
    "scipy",
    "scikit-learn",
    "scanpy",
    "muon",
    "scvi-tools",
    "scib-metrics",
    "harmonypy",
)
NOT_SCORES = ("cost",)  # not determined by the seed


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument(
        "--only", nargs="+", metavar="METHOD", help="`links` and `ablations` count as methods"
    )
    parser.add_argument("--data", nargs="+", metavar="NAME")
    parser.add_argument("--against", type=Path)
    parser.add_argument("--page", action="store_true")
    options = parser.parse_args()
    path = QUICK if options.quick else RESULTS
    if not options.page:
        is_part = (options.only or options.data) and path.exists()
        if not is_part and not options.quick:
            shutil.rmtree(EMBEDDINGS, ignore_errors=True)
        rows, seconds = run(plan(options), with_integration=not options.quick)
        results = {"meta": meta(), "seconds": seconds, "rows": rows}
        if is_part:
            before = json.loads(path.read_text())
            results["rows"] = merged(before["rows"], rows)
            results["seconds"] = before["seconds"] | seconds
            again = sorted(
                {*before["meta"].get("measured again", []), *(options.only or options.data)}
            )
            results["meta"]["measured again"] = again
        results["meta"]["minutes"] = sum(results["seconds"].values()) / 60 / PROCESSES
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(results, indent=0, ensure_ascii=False) + "\n")
        minutes = results["meta"]["minutes"]
        print(f"{path}: {len(results['rows']):,} values in {minutes:.1f} minutes")
    if options.against:
        compare(
            json.loads(path.read_text())["rows"], json.loads(options.against.read_text())["rows"]
        )
    from page import tables, write

    if options.quick:
        print(tables(json.loads(path.read_text())))
    else:
        write(json.loads(path.read_text()))


def plan(options):
    """Jobs ``(kind, data, fold, method)``, slow methods first."""
    from methods import ABLATIONS, METHODS
    from splits import DATA

    jobs = []
    for data, (_, folds) in DATA.items():
        if (options.data and data not in options.data) or (
            options.quick and data not in QUICK_DATA
        ):
            continue
        for fold in folds[: 1 if options.quick else None]:
            methods = QUICK_METHODS if options.quick else METHODS
            jobs += [
                ("method", data, fold, name) for name in methods if data in SOME.get(name, DATA)
            ]
            if data == ABLATED and not options.quick:
                jobs += [("ablation", data, fold, name) for name in ABLATIONS]
    if not options.quick and not options.data:
        jobs += [("links", "simulated, planted links", str(seed), "links") for seed in range(3)]
    if options.only:
        jobs = [
            job
            for job in jobs
            if job[3] in options.only or (job[0] == "ablation" and "ablations" in options.only)
        ]
    return sorted(
        jobs,
        key=lambda job: (
            HEAVY.index(job[3]) if job[3] in HEAVY else len(HEAVY) + (job[0] != "method")
        ),
    )


def run(jobs, *, with_integration):
    """Run all jobs, integration last; return their rows and seconds."""
    rows, seconds = in_two_processes(jobs)
    whole = {job[1:3] for job in jobs if job[0] == "method" and job[1] in INTEGRATION_DATA}
    compared = [
        ("integration", *where, "integration") for where in sorted(whole) if with_integration
    ]
    last, more = in_two_processes(compared)
    return rows + last, seconds | more


def in_two_processes(jobs):
    rows = []
    context = mp.get_context("forkserver")
    seconds = {}
    context.set_forkserver_preload(["methods", "scores"])  # imported once
    with context.Pool(PROCESSES, maxtasksperchild=1) as pool:
        for done, (job, took, found) in enumerate(
            pool.imap_unordered(work, jobs, chunksize=1), start=1
        ):
            rows += found
            seconds[", ".join(job[1:])] = round(took, 1)
            why = next((row["why"] for row in found if "why" in row), "")
            print(
                f"{done}/{len(jobs)} {job[3]}, {job[1]}, {job[2]}: {took:.0f} s {why}", flush=True
            )
    return sorted(rows, key=lambda row: (row["data"], row["fold"], row["method"])), seconds


def work(job):
    """Run a job; a failure becomes a row with the reason."""
    import warnings

    import torch

    import epifoundation as ep

    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    ep.settings.progress = False
    began = time.perf_counter()
    kind, data, fold, method = job
    try:
        found = {"method": fit, "ablation": ablate, "links": links, "integration": integrate}[kind](
            data, fold, method
        )
    except Exception as error:  # noqa: BLE001 # recorded as a row
        from methods import UnfitError

        if not isinstance(error, UnfitError):
            traceback.print_exc(file=sys.stderr)
        found = [
            {"method": method, "why": f"{error}" if isinstance(error, UnfitError) else f"{error!r}"}
        ]
    rows = [{"data": data, "fold": fold, "job": method, **row} for row in found]
    return job, time.perf_counter() - began, rows


def fit(data, fold, method):
    """Train and score a method."""
    import scores
    from methods import METHODS, UnfitError
    from scaling import peak_memory
    from splits import DATA

    of, folds = DATA[data]
    split = of(fold)
    began = time.perf_counter()
    fitted_rows = METHODS[method](split, folds.index(fold))
    seconds, rows = time.perf_counter() - began, []
    peak = peak_memory()
    for name, fitted in fitted_rows.items():
        tasks = []
        if fitted.labels is not None:
            tasks += ["annotation"] + ["robustness"] * (data in ROBUSTNESS_DATA)
        if fitted.embed is not None:
            tasks += ["clustering"]
        if fitted.expression is not None and split.rna is not None:
            tasks += ["expression"]
        is_first = name == next(iter(fitted_rows))
        for task in tasks + ["cost"] * is_first:
            try:
                found = getattr(scores, task)(split, fitted)
            except UnfitError as error:
                rows.append({"method": name, "task": task, "why": str(error)})
                continue
            if task == "cost":
                found |= {"training s": seconds, "peak memory GB": peak}
            rows += [
                {"method": name, "task": task, "metric": metric, "value": v}
                for metric, v in found.items()
            ]
        if fitted.labels is not None and (curve := scores.risk_curve(split, fitted)) is not None:
            rows.append({"method": name, "task": "risk curve", "values": curve})
        if fitted.embed is not None and data in INTEGRATION_DATA:
            save(data, fold, name, fitted.embed(split.atac))
    return rows


def ablate(data, fold, name):
    """Score the default with one change."""
    import scores
    from methods import ABLATIONS, ours
    from splits import DATA

    of, folds = DATA[data]
    split = of(fold)
    began = time.perf_counter()
    fitted, _ = ours(split, folds.index(fold), **ABLATIONS[name]())
    found = {"training s": time.perf_counter() - began}
    found |= scores.annotation(split, fitted) | scores.expression(split, fitted)
    return [
        {"method": name, "task": "ablation", "metric": metric, "value": v}
        for metric, v in found.items()
    ]


def links(data, fold, method):
    """Score planted links among peaks within 100 kb."""
    del data, method
    import links as benchmark

    table = benchmark.simulated(int(fold), [100_000]).iloc[0]
    names = {
        "by p-value": "EpiFoundation",
        "by effect": "EpiFoundation, by effect size",
        "model alone": "EpiFoundation, model alone",
        "correlation": "correlation",
        "corr. binary": "correlation, binary peaks",
        "distance": "distance",
    }
    rows = [
        {"method": name, "task": "links", "metric": "AUPRC", "value": float(table[column])}
        for column, name in names.items()
    ]
    return rows + [
        {
            "method": "EpiFoundation",
            "task": "links",
            "metric": metric,
            "value": float(table[column]),
        }
        for column, metric in (("false", "FDR at q ≤ 0.1"), ("recall", "recall at q ≤ 0.1"))
    ]


def integrate(data, fold, method):
    """Score the integration of all embeddings."""
    del method
    import numpy as np
    import scores
    from splits import DATA

    split = DATA[data][0](fold)
    found = {}
    for path in sorted((EMBEDDINGS / data / fold).glob("*.npz")):
        with np.load(path) as stored:
            found[str(stored["name"])] = stored["embedding"]
    finite = {name: embedding for name, embedding in found.items() if np.isfinite(embedding).all()}
    return [
        {"method": name, "task": "integration", "metric": metric, "value": value}
        for name, row in scores.integration(split, finite).items()
        for metric, value in row.items()
    ]


def save(data, fold, name, embedding):
    import numpy as np

    folder = EMBEDDINGS / data / fold
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / f"{name}.npz", name=name, embedding=embedding)


def meta():
    processor = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    return {
        "date": date.today().isoformat(),
        "machine": f"{processor}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "threads": "one thread per process, two processes at a time",
    }


def merged(before, now):
    """Replace rows of `before` that were measured again; drop those of unknown methods."""
    from methods import ABLATIONS, METHODS

    def job(row):
        return row["data"], row["fold"], row["job"]

    fresh, known = {job(row) for row in now}, {*METHODS, *ABLATIONS, "links", "integration"}
    return [row for row in before if job(row) not in fresh and row["job"] in known] + now


def compare(ours, theirs):
    """Print the largest difference of scores between two runs."""

    def scored(rows):
        return {
            (row["data"], row["fold"], row["method"], row["task"], row["metric"]): row["value"]
            for row in rows
            if "value" in row and row["task"] not in NOT_SCORES and row["metric"] != "training s"
        }

    ours, theirs = scored(ours), scored(theirs)
    both = sorted(set(ours) & set(theirs))
    differ = sorted(((abs(ours[key] - theirs[key]), key) for key in both), reverse=True)
    over = sum(gap > 1e-4 for gap, _ in differ)
    gap, key = differ[0]
    print(
        f"{len(both):,} scores in both runs; {over} differ by more than 1e-4; "
        f"largest difference {gap:.1e}: {', '.join(key)}"
    )


if __name__ == "__main__":
    main()
