"""Speed and memory of preprocessing: counting fragments on peaks, and mapping peaks.

    python benchmarks/way_in.py                 # 10 million fragments; 10,000 cells x 200,000 peaks
    python benchmarks/way_in.py --only mapping

**Fragments.** A file of simulated fragments (gzip, sorted by position) is counted on the peaks, in
a separate process, whose peak resident memory is reported. For comparison, the same process then
decompresses the file and parses it with pandas at once, without counting.

**Mapping.** Cells with a median of `--open` open peaks are mapped onto a quarter more peaks: their
peaks, each shifted by up to 200 bp, and peaks far away. `projection` is the overlap of the two peak
sets, `map_peaks` the whole call: overlap, cells, and report. For comparison, the same process then
embeds the cells with a model of width 64.
"""

import argparse
import gzip
import resource
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData
from processes import apart
from speed import random_model

import epifoundation as ep
import epifoundation.tl  # imported before timing
from epifoundation.peaks.mapping import map_onto


def main():
    """Run the selected benchmarks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=["fragments", "mapping"])
    parser.add_argument("--fragments", type=int, default=10_000_000)
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--peaks", type=int, default=200_000)
    parser.add_argument(
        "--open", type=int, default=4_000, help="median number of open peaks, for mapping"
    )
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)
    if args.only != "mapping":
        with tempfile.TemporaryDirectory() as folder:
            apart(write_fragments, folder, args)
            rows = [
                apart(count, folder, how, args)
                for how in ("insertion", "fragment", "insertion, no list")
            ]
        print(
            f"{args.fragments:,} fragments, {args.cells:,} cells, {args.peaks:,} peaks, "
            f"{args.threads} threads"
        )
        print(pd.DataFrame(rows).set_index("counting").to_string(float_format="{:,.2f}".format))
    if args.only != "fragments":
        row = apart(map_cells, args)
        print(
            f"{args.cells:,} cells x {args.peaks:,} peaks onto {args.peaks * 5 // 4:,}, "
            f"{args.threads} threads"
        )
        print(pd.DataFrame([row]).to_string(float_format="{:,.2f}".format, index=False))


def write_fragments(folder, args):
    """Write fragments of random cells: a fifth outside of peaks, a tenth in empty droplets."""
    rng = np.random.default_rng(0)
    n_inside, n_empty = int(0.735 * args.fragments), args.fragments // 100
    cells, peaks = rng.integers(args.cells, size=n_inside), rng.integers(args.peaks, size=n_inside)
    counts = sp.coo_matrix(
        (np.full(n_inside, 2), (cells, peaks)), shape=(args.cells, args.peaks)
    ).tocsr()
    names = [f"{chr(65 + i % 23)}AGTACTAGCTA{i:06}-1" for i in range(args.cells)]
    peaks = pd.DataFrame(index=lay_out(args.peaks, rng).names)
    atac = AnnData(counts, obs=pd.DataFrame(index=names), var=peaks)
    path = Path(folder) / "fragments.tsv.gz"
    ep.datasets.simulate_fragments(atac, path, background=0.25, n_empty=n_empty)
    ep.PeakVocabulary.from_var(atac.var).write_bed(Path(folder) / "peaks.bed.gz")
    (Path(folder) / "barcodes.txt").write_text("\n".join(names))


def lay_out(n_peaks, rng):
    """Peaks of 200 to 900 bp on 20 chromosomes, one per 12 kb."""
    per = -(-n_peaks // 20)
    place = np.arange(n_peaks)
    start = 12_000 * (place % per) + rng.integers(5_000, size=n_peaks)
    chrom = "chr" + pd.Series(place // per + 1).astype(str)
    return ep.PeakVocabulary(
        pd.DataFrame(
            {"chrom": chrom, "start": start, "end": start + rng.integers(200, 900, n_peaks)}
        )
    )


def count(folder, how, args):
    """Time and memory of counting, and time of reading alone."""
    torch.set_num_threads(args.threads)
    ep.settings.progress = False
    folder = Path(folder)
    path = folder / "fragments.tsv.gz"
    began = time.perf_counter()
    counted = ep.pp.count_fragments(
        path,
        folder / "peaks.bed.gz",
        barcodes=None if "no list" in how else folder / "barcodes.txt",
        min_fragments=100,
        counting=how.split(",")[0],
    )
    seconds = time.perf_counter() - began
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    n_fragments = counted.uns["epifoundation_fragments"]["n_fragments"]
    del counted
    began = time.perf_counter()
    with gzip.open(path) as text:
        frame = pd.read_csv(text, sep="\t", header=None, comment="#")
    bare = time.perf_counter() - began
    return {
        "counting": how,
        "lines": f"{n_fragments:,}",
        "s": seconds,
        "million/s": n_fragments / seconds / 1e6,
        "peak GB": memory,
        "reading s": bare,
        "relative to reading": seconds / bare,
        "fragments per cell": len(frame) / args.cells,
    }


def map_cells(args):
    """Time of the projection and of the whole mapping, memory, and time of embedding."""
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore", category=FutureWarning)
    ep.settings.progress = False
    rng = np.random.default_rng(0)
    atac = ep.datasets.simulate_multiome(
        args.cells, args.peaks, 2, median_fragments=int(1.05 * args.open)
    )["atac"]
    data = lay_out(args.peaks, rng)
    atac.var = pd.DataFrame(index=data.names)
    shift = rng.integers(-200, 201, len(data))
    shifted = data.intervals.assign(
        start=(data.intervals["start"] + shift).clip(lower=0),
        end=data.intervals["end"] + shift.clip(0),
    )
    far = data.intervals.iloc[: args.peaks // 4].assign(chrom="chrX")
    peaks = ep.PeakVocabulary(pd.concat([shifted, far], ignore_index=True))
    model = random_model(peaks, ep.GeneVocabulary([]), 64)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    began = time.perf_counter()
    map_onto(peaks, atac.var)
    projection = time.perf_counter() - began
    began = time.perf_counter()
    ep.pp.map_peaks(atac, model)
    seconds = time.perf_counter() - began
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    began = time.perf_counter()
    ep.tl.embed(atac, model)
    embed = time.perf_counter() - began
    report = atac.uns["epifoundation"]["peaks"]
    return {
        "median open": float(np.median(np.diff(atac.X.indptr))),
        "matched": report["matched"] / report["data"],
        "projection s": projection,
        "map_peaks s": seconds,
        "peak GB": memory,
        "before GB": before,
        "embed s": embed,
        "map_peaks relative to embed": seconds / embed,
    }


if __name__ == "__main__":
    main()
