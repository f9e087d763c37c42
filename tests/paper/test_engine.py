"""How training is run: several processes, states to go on from, logs."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
import warnings
from functools import partial

import numpy as np
import pandas as pd
import pytest

import epifoundation as ep
from epifoundation.paper.callbacks import KeepState
from epifoundation.paper.pretraining import Pretraining
from epifoundation.training.processes import World

SMALL = {"config": ep.ModelConfig(encoder="transformer", dim=8, n_layers=1), "genome": "hg38"}


def test_what_launchers_put_into_the_environment(monkeypatch):
    for name in list(os.environ):
        if name.startswith("SLURM") or name in (
            "RANK",
            "WORLD_SIZE",
            "LOCAL_RANK",
            "LOCAL_WORLD_SIZE",
        ):
            monkeypatch.delenv(name)
    assert World.from_environment() == World(0, 1, 0, 1)
    for name, value in {
        "SLURM_NTASKS": 8,
        "SLURM_PROCID": 5,
        "SLURM_LOCALID": 1,
        "SLURM_NTASKS_PER_NODE": 4,
    }.items():
        monkeypatch.setenv(name, str(value))
    assert World.from_environment() == World(5, 8, 1, 4, by_slurm=True)
    monkeypatch.setenv("SLURM_JOB_NAME", "bash")  # a shell inside of an allocation
    assert World.from_environment() == World()
    for name, value in {"RANK": 3, "WORLD_SIZE": 4, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    assert World.from_environment() == World(3, 4, 1, 2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"strategy": "horovod"}, r"`strategy` must be one of \['auto', 'ddp', 'fsdp'\]"),
        ({"precision": "float16"}, "`precision` must be one of"),
        ({"loggers": "neptune"}, "`loggers` must be one of"),
        ({"minutes": -1}, "`minutes` must be a number of at least 0, got -1"),
        ({"timeout": True}, "`timeout` must be a number of at least 0, got True"),
    ],
)
def test_bad_engines(options, said):
    with pytest.raises(ValueError, match=said):
        ep.Engine(**options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"strategy": "ddp"},
        {"precision": "float32"},
        {"minutes": 0, "timeout": 1},
        {"loggers": "tensorboard"},
    ],
)
def test_engines_of_a_set_encoder(options, tmp_path):
    ep.Engine(**options, state=tmp_path / "run.state").check_measured()


@pytest.mark.parametrize(
    "options", [{"strategy": "fsdp"}, {"precision": "bfloat16"}, {"compile": True}, {"log": "logs"}]
)
def test_what_has_no_meaning_for_a_set_encoder_is_refused(options, mdata, model):
    engine = ep.Engine(**options)
    name = next(iter(options))
    said = rf"`Engine\({name}=.*does not apply to the set encoder, which is fitted in closed form"
    with pytest.raises(ValueError, match=said):
        engine.check_measured()
    with pytest.raises(ValueError, match=said):
        ep.tl.pretrain(mdata, engine=engine)
    with pytest.raises(ValueError, match=said):
        ep.tl.finetune(mdata, model, label_key="cell_type", engine=engine)


@pytest.fixture(scope="module")
def few():
    """Few cells, of which a training step takes milliseconds; do not change it."""
    return ep.datasets.simulate_multiome(120, 150, 20, n_types=3, median_fragments=60, rng=1)


@pytest.fixture(params=["memory", "files"])
def source(request, few, tmp_path):
    """The same cells in memory and in two files."""
    if request.param == "memory":
        return few
    paths = [tmp_path / "a.h5mu", tmp_path / "b.h5mu"]
    few[:50].copy().write(paths[0])
    few[50:].copy().write(paths[1])
    return paths


class StopError(Exception):
    """An interruption."""


def stop_after(monkeypatch, n_steps):
    original, steps = Pretraining.training_step, []

    def step(self, batch, index):
        steps.append(index)
        if len(steps) > n_steps:
            raise StopError
        return original(self, batch, index)

    monkeypatch.setattr(Pretraining, "training_step", step)
    return lambda: monkeypatch.setattr(Pretraining, "training_step", original)


@pytest.fixture(scope="module")
def wholes():
    """Models by the kind of their source."""
    return {}


@pytest.mark.parametrize("n_steps", [1, 11, 23, 24, 31, 47])
def test_resumed_training_is_that_of_a_run_without_interruption(
    source, tmp_path, monkeypatch, n_steps, wholes
):
    """At the ends of an epoch of 11 or 12 steps, in the middle, and between batches of a step."""
    training = ep.TrainingConfig(max_epochs=4, batch_size=9, accumulate=2, buffer=30, n_neighbors=3)
    options = SMALL | {"training": training, "batch_key": "batch", "rng": 3}
    kind = type(source)  # the model of a run without interruption is trained once for each
    whole = wholes[kind] = wholes.get(kind) or ep.tl.pretrain(source, **options)
    engine = ep.Engine(state=tmp_path / "run.state", minutes=0)
    go_on = stop_after(monkeypatch, n_steps)
    with pytest.raises(StopError):
        ep.tl.pretrain(source, **options, engine=engine)
    assert (tmp_path / "run.state").exists() == (n_steps > 1)
    go_on()
    steps = []
    original = Pretraining.training_step
    monkeypatch.setattr(
        Pretraining, "training_step", lambda *args: steps.append(1) or original(*args)
    )
    resumed = ep.tl.pretrain(source, **options, engine=engine)
    assert len(steps) <= 4 * 12 - (n_steps - 2)
    for one, other in zip(whole.training["history"], resumed.training["history"], strict=True):
        assert one == pytest.approx(other, abs=1e-6)
    state = resumed.network.state_dict()
    for name, tensor in whole.network.state_dict().items():
        np.testing.assert_allclose(state[name].numpy(), tensor.numpy(), atol=1e-6, err_msg=name)
    if n_steps == 23:
        steps.clear()
        again = ep.tl.pretrain(source, **options, engine=engine)  # nothing is left to do
        assert not steps
        assert again.revision == resumed.revision


def test_the_state_of_another_run_is_refused(few, tmp_path):
    training = ep.TrainingConfig(max_epochs=1, n_neighbors=1)
    engine = ep.Engine(state=tmp_path / "run.state")
    ep.tl.pretrain(few, **SMALL, training=training, engine=engine)
    wider = ep.ModelConfig(encoder="transformer", dim=16, n_layers=1)
    for change, said in (
        ({"rng": 1}, "seed was"),
        ({"training": ep.TrainingConfig(max_epochs=2, n_neighbors=1)}, "training was"),
        ({"config": wider}, "config was"),
    ):
        with pytest.raises(ValueError, match=f"is the state of another run: {said}"):
            ep.tl.pretrain(few, **{**SMALL, "training": training, **change}, engine=engine)
    (tmp_path / "run.state").write_bytes(b"no state")
    with pytest.raises(ValueError, match="run.state' is not a state of training, or is damaged"):
        ep.tl.pretrain(few, **SMALL, training=training, engine=engine)


def test_a_state_is_there_whole_or_not_at_all(few, tmp_path, monkeypatch):
    training = ep.TrainingConfig(max_epochs=2, n_neighbors=1)
    engine = ep.Engine(state=tmp_path / "run.state")
    import torch

    save, saved = torch.save, []

    def cut_off(content, file):
        saved.append(1)
        if len(saved) == 2:
            file.write(b"half")
            raise OSError(28, "No space left on device")
        save(content, file)

    monkeypatch.setattr(torch, "save", cut_off)
    with pytest.raises(OSError, match="No space left"):
        ep.tl.pretrain(few, **SMALL, training=training, engine=engine)
    monkeypatch.setattr(torch, "save", save)
    assert [path.name for path in tmp_path.iterdir()] == ["run.state"]
    resumed = ep.tl.pretrain(few, **SMALL, training=training, engine=engine)
    assert resumed.revision == ep.tl.pretrain(few, **SMALL, training=training).revision


def test_logs(few, tmp_path):
    training = ep.TrainingConfig(max_epochs=2, n_neighbors=1, batch_size=20)
    engine = ep.Engine(log=tmp_path / "log")
    model = ep.tl.pretrain(few, **SMALL, training=training, engine=engine)
    table = pd.read_csv(tmp_path / "log" / "csv" / "metrics.csv")
    assert table["loss"].notna().sum() == 2 * (108 // 20)
    for name in ("train", "validation"):
        np.testing.assert_allclose(
            table[name].dropna(), [each[name] for each in model.training["history"]], atol=1e-5
        )


def test_loggers_that_are_not_installed(few, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match="'wandb' needs a package that is not installed"):
        ep.tl.pretrain(few, **SMALL, engine=ep.Engine(log=tmp_path, loggers="wandb"))


def test_bfloat16(few):
    options = SMALL | {"training": ep.TrainingConfig(max_epochs=2, n_neighbors=1)}
    exact = ep.tl.pretrain(few, **options)
    rounded = ep.tl.pretrain(few, **options, engine=ep.Engine(precision="bfloat16"))
    assert exact.revision != rounded.revision
    losses = [model.training["history"][-1]["validation"] for model in (exact, rounded)]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)


@pytest.mark.slow
def test_compiled(few, monkeypatch):
    """By torch's tracer without its code generator, which takes most of a minute."""
    import torch

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    # Dropout is drawn in another way
    config = ep.ModelConfig(encoder="transformer", dim=8, n_layers=1, dropout=0.0)
    options = {
        "config": config,
        "training": ep.TrainingConfig(max_epochs=1, n_neighbors=1, peak_dropout=0.0),
    }
    eager = ep.tl.pretrain(few, **options)
    with warnings.catch_warnings():
        # torch warns of early releases of Python 3.13, and of its own next versions
        warnings.simplefilter("ignore")
        compiled = ep.tl.pretrain(few, **options, engine=ep.Engine(compile=True))
    losses = [model.training["history"][-1]["validation"] for model in (eager, compiled)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_more_processes_than_cells(few, monkeypatch):
    monkeypatch.setattr(
        "epifoundation.training.processes.World.from_environment", lambda: World(0, 100, 0, 100)
    )
    with pytest.raises(ValueError, match="There are 100 processes and 64 cells of a batch"):
        ep.tl.pretrain(few, **SMALL)


def test_states_are_kept_between_steps_of_the_optimiser_only():
    class Trainer:
        accumulate_grad_batches, num_training_batches = 2, 6

        class strategy:  # noqa: N801
            broadcast = staticmethod(lambda value: value)

    kept = []
    state = KeepState("x", 0, {})
    state._save = lambda trainer: kept.append(trainer.at)
    state.clock.is_due = lambda: True
    for at in range(6):
        Trainer.at = at
        state.on_train_batch_end(Trainer, None, None, None, at)
    assert kept == [1, 3]


SCRIPT = """
import json, os, sys, time
from pathlib import Path
import torch
import epifoundation as ep
from epifoundation.paper.pretraining import Pretraining
ep.settings.progress = False
torch.set_num_threads(1)
folder, options = Path(sys.argv[1]), json.loads(sys.argv[2])
slow = options.pop("slow", 0)
step = Pretraining.training_step
def slowly(self, batch, index):
    if slow:
        (folder / f"pid{os.environ.get('RANK', 0)}").write_text(str(os.getpid()))
        time.sleep(slow)
    return step(self, batch, index)
Pretraining.training_step = slowly
sizes = {"batch_size": 20, "buffer": 60}
training = ep.TrainingConfig(max_epochs=options.pop("epochs"), n_neighbors=1, **sizes)
engine = ep.Engine(**options.pop("engine", {}))
import mudata
data = folder / "m.h5mu" if options.pop("stored", False) else mudata.read(folder / "m.h5mu")
config = ep.ModelConfig(encoder="transformer", dim=8, n_layers=1)
options |= {"config": config, "training": training, "genome": "hg38", "engine": engine}
model = ep.tl.pretrain(data, **options)
rank = os.environ.get("RANK", "-")
ep.tl.embed(folder / "m.h5mu", model, output=folder / f"{rank}.h5ad", expression=False)
found = {"revision": model.revision, "history": model.training["history"]}
(folder / f"found{rank}.json").write_text(json.dumps(found))
"""


@pytest.fixture
def script(few, tmp_path):
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    few.write(tmp_path / "m.h5mu")
    return tmp_path / "script.py"


class Launched:
    """Processes of one training, as one."""

    def __init__(self, processes):
        self.processes = processes

    def poll(self):
        codes = [process.poll() for process in self.processes]
        return next((code for code in codes if code), None if None in codes else 0)

    def communicate(self):
        for process in self.processes:
            process.communicate()
        self.returncode = self.poll()
        return "", "".join(process.communicate()[1] for process in self.processes)


@pytest.fixture
def launch(script, forks):
    """Train in other processes, in whose environment is what torchrun puts there."""

    def start(options, *, processes=2):
        arguments = (script, script.parent, json.dumps(options))
        if processes == 1:
            return Launched([forks.start(*arguments)])
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        world = {
            "WORLD_SIZE": processes,
            "LOCAL_WORLD_SIZE": processes,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        ranks = [
            world | {"RANK": rank, "LOCAL_RANK": rank, "TORCHELASTIC_RUN_ID": "test"}
            for rank in range(processes)
        ]
        each = [{name: str(value) for name, value in rank.items()} for rank in ranks]
        return Launched([forks.start(*arguments, **environment) for environment in each])

    return start


def torchrun(script, options):
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--standalone",
    ]
    command += [str(script), str(script.parent), json.dumps(options)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def found(script, rank):
    return json.loads((script.parent / f"found{rank}.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("stored", [False, True])
def test_two_processes_learn_what_one_learns(script, launch, stored):
    options = {"epochs": 3, "stored": stored, "batch_key": "batch"}
    for processes in (1, 2):
        process = (
            launch(options, processes=processes)
            if stored or processes == 1
            else torchrun(script, options)
        )
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    one, *both = (found(script, rank) for rank in ("-", 0, 1))
    assert both[0] == both[1]
    assert both[0]["history"][-1]["validation"] == pytest.approx(
        one["history"][-1]["validation"], rel=0.01
    )
    assert both[0]["revision"] != one["revision"]  # each draws by itself
    bytes_of = [(script.parent / f"{rank}.h5ad").read_bytes() for rank in (0, 1)]
    assert bytes_of[0] == bytes_of[1]


@pytest.mark.slow
def test_parts_of_a_model_on_two_processes(script, launch):
    """FSDP: without dropout of peaks, the same losses as with whole models."""
    losses = []
    for strategy in ("ddp", "fsdp"):
        process = launch({"epochs": 1, "engine": {"strategy": strategy}})
        _, errors = process.communicate()
        assert process.returncode == 0, errors
        assert found(script, 0) == found(script, 1)
        losses.append(found(script, 0)["history"][0])
        for path in script.parent.glob("*.h5ad"):
            path.unlink()
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


@pytest.mark.slow
def test_a_process_that_is_killed(script, launch):
    state = script.parent / "run.state"
    whole = {"epochs": 3}
    process = launch(whole)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    expected = found(script, 0)
    for path in script.parent.glob("*.h5ad"):
        path.unlink()
    engine = {"state": str(state), "minutes": 0}
    process = launch(whole | {"engine": engine, "slow": 0.3})
    while not state.exists() or not (script.parent / "pid1").exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.1)
    os.kill(int((script.parent / "pid1").read_text()), signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode != 0
    assert "Another process of this training ended, was killed, or stopped answering" in errors
    assert "Start all processes again" in errors
    process = launch(whole | {"engine": engine})
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    for one, other in zip(found(script, 0)["history"], expected["history"], strict=True):
        assert one == pytest.approx(other, abs=1e-6)
