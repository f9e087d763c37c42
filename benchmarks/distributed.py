"""Check on real data that one process and two give the same model and embedding to the last bit.

python benchmarks/distributed.py ../shared/data/snare_cortex_mm10.h5mu
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HELD_OUT, VALIDATION = "09I", "09H"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.data, Path(options.worker))
        return
    with tempfile.TemporaryDirectory() as folder:
        results = {}
        for processes in (1, 2):
            command = [sys.executable]
            if processes > 1:
                command += [
                    "-m",
                    "torch.distributed.run",
                    "--nproc-per-node",
                    str(processes),
                    "--standalone",
                ]
            environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
            subprocess.run(
                [*command, __file__, options.data, "--worker", folder], check=True, env=environment
            )
            results[processes] = [
                json.loads(path.read_text()) for path in sorted(Path(folder).glob("*.json"))
            ]
            for path in Path(folder).glob("*.json"):
                path.unlink()
    one, *_ = results[1]
    for processes, each in results.items():
        same = {(rank["revision"], rank["embedding"]) for rank in each} == {
            (one["revision"], one["embedding"])
        }
        print(
            f"{processes} process(es): {each[0]['seconds']:.0f} s, same model and embedding of "
            f"{HELD_OUT} as one process: {same}"
        )


def work(data, folder):
    import mudata
    import torch

    import epifoundation as ep
    import epifoundation.tl  # imported before timing

    ep.settings.progress = False
    torch.set_num_threads(1)
    mdata = mudata.read(data)
    batch = mdata["atac"].obs["batch"].astype(str)
    known, query = (
        mdata[(batch != HELD_OUT).to_numpy()].copy(),
        mdata["atac"][(batch == HELD_OUT).to_numpy()].copy(),
    )
    started = time.perf_counter()
    model = ep.tl.pretrain(known, batch_key="batch", validation=[VALIDATION], genome="mm10")
    seconds = time.perf_counter() - started
    ep.tl.embed(query, model, expression=False)
    result = {
        "revision": model.revision,
        "seconds": seconds,
        "embedding": hashlib.sha256(query.obsm["X_epifoundation"].tobytes()).hexdigest(),
    }
    (folder / f"{os.environ.get('RANK', 0)}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
