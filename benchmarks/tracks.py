"""Speed and memory of coverage of groups of cells, relative to reading the fragments alone.

    python benchmarks/tracks.py                     # 10 million fragments into 10 bigWig files
    python benchmarks/tracks.py --snapatac2 PYTHON  # also with SnapATAC2, installed for this Python

Half of the simulated fragments lie in 100,000 regions, the others anywhere on hg38, which leaves
few cuts per bin: the files are as large as they can be. Each row is a process of its own. `sorted`
and `shuffled` are the same lines. `reading s` is the time of `read_fragments` in the same process.
SnapATAC2 imports the fragments, then exports the coverage, with one thread and equal settings; its
values are compared with those of this package.
"""

import argparse
import json
import random
import resource
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from processes import apart

import epifoundation as ep
from epifoundation.genome._chromosome_lengths import chromosome_lengths
from epifoundation.pp._read_fragments import read_fragments

N_CELLS, N_GROUPS, N_REGIONS = 10_000, 10, 100_000
SNAPATAC2 = """
import json, resource, sys, time
import pandas as pd, snapatac2 as snap

if __name__ == "__main__":
    fragments, groups, sizes, out = sys.argv[1:]
    groups = pd.read_csv(groups, sep="\\t", header=None, index_col=0)[1].astype(str)
    began = time.perf_counter()
    data = snap.pp.import_fragments(
        fragments, chrom_sizes=json.loads(sizes), min_num_fragments=0, sorted_by_barcode=False,
        whitelist=list(groups.index), n_jobs=1,
    )
    read = time.perf_counter() - began
    snap.ex.export_coverage(
        data, groupby=[groups[name] for name in data.obs_names], bin_size=10, normalization="CPM",
        max_frag_length=None, counting_strategy="insertion", out_dir=out, n_jobs=1,
    )
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(json.dumps([read, time.perf_counter() - began, memory]))
"""


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fragments", type=int, default=10_000_000)
    parser.add_argument("--snapatac2", help="a Python with snapatac2")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        apart(write_fragments, folder, args.fragments)
        rows = [apart(measure, folder, order, counting) for order, counting in ROWS]
        if args.snapatac2:
            rows.append(compare(Path(folder), args.snapatac2))
    print(f"{args.fragments:,} fragments, {N_CELLS:,} cells, {N_GROUPS} groups")
    print(pd.DataFrame(rows).to_string(float_format="{:,.2f}".format, index=False))


ROWS = [
    ("sorted", "insertion"),
    ("sorted", "fragment"),
    ("shuffled", "insertion"),
    ("shuffled", "fragment"),
]


def write_fragments(folder, n):
    """Write the same fragments sorted and shuffled, and the group of each cell."""
    rng, sizes = np.random.default_rng(0), chromosome_lengths("hg38")
    ends = np.cumsum(list(sizes.values()))
    regions = rng.integers(0, ends[-1], N_REGIONS)
    weight = rng.gamma(0.7, 1, N_REGIONS)
    inside = rng.choice(regions, n // 2, p=weight / weight.sum()) + rng.integers(0, 500, n // 2)
    place = np.sort(np.concatenate([inside, rng.integers(0, ends[-1], n - n // 2)]))
    chrom = np.minimum(np.searchsorted(ends, place, side="right"), len(ends) - 1)
    start = place - np.append(0, ends)[chrom]
    end = start + np.where(rng.random(n) < 0.6, rng.integers(30, 120, n), rng.integers(120, 600, n))
    cells = [f"{''.join(letters)}-1" for letters in rng.choice(list("ACGT"), (N_CELLS, 16))]
    table = pd.DataFrame(
        {
            "chrom": pd.Categorical.from_codes(chrom, list(sizes)),
            "start": start,
            "end": end,
            "cell": pd.Categorical.from_codes(rng.integers(0, N_CELLS, n), cells),
            "n": 1,
        }
    )[end < np.array(list(sizes.values()))[chrom]]
    folder = Path(folder)
    options = {"sep": "\t", "header": False, "index": False}
    compression = {"method": "gzip", "compresslevel": 4}
    table.to_csv(folder / "sorted.tsv.gz", compression=compression, **options)
    shuffled = table.sample(frac=1, random_state=0)
    shuffled.to_csv(folder / "shuffled.tsv.gz", compression=compression, **options)
    groups = pd.DataFrame({"cell": cells, "group": rng.integers(0, N_GROUPS, N_CELLS)})
    groups.to_csv(folder / "groups.tsv", **options)


def measure(folder, order, counting):
    """Time and memory of the coverage, and time of reading alone."""
    ep.settings.progress = False
    folder = Path(folder)
    path, out = folder / f"{order}.tsv.gz", folder / f"{order}-{counting}"
    list(map(len, read_fragments(folder / "sorted.tsv.gz")))  # the file is in memory
    began = time.perf_counter()
    n = sum(len(block.start) for block in read_fragments(path))
    bare = time.perf_counter() - began
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    began = time.perf_counter()
    tracks = ep.pp.group_coverage(
        path, folder / "groups.tsv", genome="hg38", directory=out, counting=counting
    )
    seconds = time.perf_counter() - began
    return {
        "program": "epifoundation",
        "lines": order,
        "counting": counting,
        "s": seconds,
        "reading s": bare,
        "relative to reading": seconds / bare,
        "million/s": n / seconds / 1e6,
        "peak GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "of reading GB": before,
        "files MB": sum(each.stat().st_size for each in tracks.values()) / 1e6,
    }


def compare(folder, python):
    """Time and memory of SnapATAC2, and the largest difference of a value in random windows."""
    import pybigtools

    sizes, out = chromosome_lengths("hg38"), folder / "snapatac2"
    (folder / "snap.py").write_text(SNAPATAC2)
    paths = [folder / "snap.py", folder / "sorted.tsv.gz", folder / "groups.tsv"]
    command = [python, *map(str, paths), json.dumps(sizes), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    read, seconds, memory = json.loads(done.stdout.splitlines()[-1])
    random.seed(0)
    largest = 0.0
    for group in range(N_GROUPS):
        ours = pybigtools.open(str(folder / "sorted-insertion" / f"{group}.bw"))
        theirs = pybigtools.open(str(out / f"{group}.bw"))
        for _ in range(20):
            chrom = random.choice([name for name in sizes if name != "chrM"])
            start = random.randrange(sizes[chrom] - 1_000_000)
            window = (chrom, start, start + 1_000_000)
            values = [file.values(*window, fillna=0.0) for file in (ours, theirs)]
            largest = max(largest, float(np.abs(values[0] - values[1]).max()))
    return {
        "program": "SnapATAC2",
        "lines": "sorted",
        "counting": "insertion",
        "s": seconds,
        "reading s": read,
        "peak GB": memory,
        "files MB": sum(each.stat().st_size for each in out.iterdir()) / 1e6,
        "largest difference": largest,
    }


if __name__ == "__main__":
    main()
