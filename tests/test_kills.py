"""Processes killed at random moments: the same call goes on, and ends with the same bytes.

``EPIFOUNDATION_KILLS=100`` kills as many times in all, rather than once in each situation.
"""

import os
import shutil
import signal
import sys
import textwrap
import time

import numpy as np
import pytest
from stored_cells import bytes_of, write

import epifoundation as ep

SITUATIONS = {
    "embed, h5ad": 'ep.tl.embed("a.h5ad", "model", output="out.h5ad", device="cpu")',
    "embed, zarr": 'ep.tl.embed("a.zarr", "model", output="out.zarr", device="cpu")',
    "embed, into the h5ad": 'ep.tl.embed("a.h5ad", "model", device="cpu")',
    "embed, into the zarr": 'ep.tl.embed("a.zarr", "model", device="cpu")',
    "embed, again into the zarr": (
        'ep.tl.embed("done.zarr", "model", expression=False, device="cpu")'
    ),
    "annotate, h5ad": """
        ep.tl.annotate("a.h5ad", "model", reference="a.zarr", label_key="cell_type",
                       output="out.h5ad", device="cpu")
    """,
    "annotate, into the zarr": 'ep.tl.annotate("a.zarr", "model", device="cpu")',
    "pretrain": """
        ep.tl.pretrain(["a.h5ad", "b.h5mu"], objective="peaks", device="cpu", genome="hg38",
                       ).save_pretrained("fitted", overwrite=True)
    """,
    "pretrain, with a state": """
        ep.tl.pretrain("b.h5mu", label_key="cell_type", device="cpu", genome="hg38",
                       engine=ep.Engine(state="state", minutes=0),
                       ).save_pretrained("fitted", overwrite=True)
    """,
    "pretrain, with a state and a checkpoint": """
        ep.tl.pretrain("b.h5mu", label_key="cell_type", device="cpu", genome="hg38",
                       engine=ep.Engine(state="state", minutes=0), checkpoint="fitted")
    """,
    "pretrain a transformer, with a state and a checkpoint": """
        ep.tl.pretrain("b.h5mu", device="cpu", genome="hg38", config=ep.ModelConfig(
                       encoder="transformer", dim=8, n_heads=2, n_layers=1, max_peaks=64),
                       training=ep.TrainingConfig(max_epochs=3, n_neighbors=1),
                       engine=ep.Engine(state="state", minutes=0), checkpoint="fitted")
    """,
    "save_pretrained": """
        model = ep.models.from_pretrained("model", device="cpu")
        for _ in range(5):
            model.save_pretrained("old", overwrite=True)
    """,
}
SCRIPT = """
import os, sys, warnings
import epifoundation as ep
from epifoundation.inference import plan
from epifoundation.training import rows, counting

warnings.simplefilter("ignore")
ep.settings.progress = False
plan.BLOCK_CELLS = rows.PASS_CELLS = counting.PASS_CELLS = 64
os.chdir(sys.argv[1])
open(sys.argv[2], "w").close()
try:
{call}
except FileExistsError:
    # Killed after the model was complete, before the process ended
    if not os.path.isdir("fitted") or os.path.exists("state"):
        raise
"""
N_KILLS = int(os.environ.get("EPIFOUNDATION_KILLS", len(SITUATIONS)))


@pytest.fixture(scope="module")
def given(simulated, model, tmp_path_factory):
    """A folder of files to begin with."""
    folder = tmp_path_factory.mktemp("given")
    write(simulated["atac"].copy(), folder / "a.h5ad")
    write(simulated["atac"].copy(), folder / "a.zarr")
    write(simulated["atac"].copy(), folder / "done.zarr")
    write(simulated.copy(), folder / "b.h5mu")
    ep.tl.embed(folder / "done.zarr", model)
    model.save_pretrained(folder / "model")
    ep.tl.pretrain(simulated, rng=1).save_pretrained(folder / "old")
    return folder


def content(folder):
    """Bytes of all that is in a folder, by name; of the state of a finished training, its name."""
    names = sorted(path.name for path in folder.iterdir() if path.name != "started")
    return {name: b"" if name == "state" else bytes_of(folder / name) for name in names}


@pytest.mark.slow
@pytest.mark.parametrize("situation", SITUATIONS)
def test_the_same_call_goes_on(given, forks, tmp_path, situation):
    number = list(SITUATIONS).index(situation)
    rng = np.random.default_rng(number)
    call = textwrap.indent(textwrap.dedent(SITUATIONS[situation]).strip(), "    ")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(call=call))

    def run(folder, after=None):
        """Run to the end, or kill some time after the beginning; whether it ended by itself."""
        started = folder / "started"
        started.unlink(missing_ok=True)
        process = forks.start(script, folder, started)
        while not started.exists() and process.poll() is None:
            time.sleep(0.005)
        begun = time.monotonic()
        if after is not None:
            while time.monotonic() - begun < after and process.poll() is None:
                time.sleep(0.002)
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
        _, errors = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), errors
        return process.returncode == 0, time.monotonic() - begun

    whole = tmp_path / "whole"
    shutil.copytree(given, whole)
    _, seconds = run(whole)
    expected = content(whole)
    for trial in range(-(-N_KILLS // len(SITUATIONS))):
        folder = tmp_path / f"trial{trial}"
        shutil.copytree(given, folder)
        after, outcomes = [], []
        while not outcomes or (not outcomes[-1] and len(outcomes) < 3):
            after.append(float(rng.uniform(0, 1.05 * seconds)))
            outcomes.append(run(folder, after[-1])[0])
        if situation == "save_pretrained":
            revisions = {
                ep.models.from_pretrained(given / name).revision for name in ("old", "model")
            }
            assert ep.models.from_pretrained(folder / "old").revision in revisions
        if not outcomes[-1]:
            assert run(folder)[0]
        found = content(folder)
        moments = ", ".join(f"{each:.2f}" for each in after)
        assert found.keys() == expected.keys(), f"killed after {moments} of {seconds:.2f} s"
        differ = [name for name in expected if found[name] != expected[name]]
        assert differ == [], f"killed after {moments} of {seconds:.2f} s"
        sys.stdout.write(f"{situation} | {moments} of {seconds:.2f} s | the same bytes\n")
        shutil.rmtree(folder)
