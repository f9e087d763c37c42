"""Blocks divided among processes: two give the model of one, and a lost process is reported."""

import os
import socket
import subprocess
import sys
import textwrap

import pytest
import torch

from epifoundation.training.processes import Processes, World

SCRIPT = """
import os, sys
import torch
import epifoundation as ep
from epifoundation.training import measure, rows
ep.settings.progress = False
torch.set_num_threads(1)
rows.PASS_ENTRIES = measure.PASS_ENTRIES = 5_000
source, folder, ends = sys.argv[1:]
if ends == os.environ.get("RANK"):
    from epifoundation.training.statistics import Statistics
    Statistics.add = lambda *arguments, **options: os._exit(1)
options = {"batch_key": "batch", "label_key": "cell_type", "min_cells": 2}
options["config"] = ep.ModelConfig(dim=16)
model = ep.tl.pretrain(source, **options, engine=ep.Engine(timeout=0.2))
model.save_pretrained(f"{folder}/{os.environ.get('RANK', 'alone')}")
"""


def start(source, folder, n, ends="-"):
    script = folder / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    found = []
    for rank in range(n):
        world = {
            "WORLD_SIZE": str(n),
            "LOCAL_WORLD_SIZE": str(n),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
        }
        world |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
        command = [sys.executable, str(script), str(source), str(folder), ends]
        environment = os.environ | (world if n > 1 else {})
        found.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    return [(process.communicate()[1], process.returncode) for process in found]


def test_items_are_divided():
    parts = [Processes(World(rank, 3)).mine(range(10)) for rank in range(3)]
    assert sorted(item for part in parts for item in part) == list(range(10))


def test_alone_nothing_is_added_up():
    arrays = {"a": torch.arange(3), "b": torch.ones(2)}
    assert Processes(World()).add_up(arrays) == arrays


@pytest.mark.slow
def test_two_processes_measure_what_one_measures(simulated, tmp_path):
    simulated.write(tmp_path / "cells.h5mu")
    for n in (1, 2):
        assert [code for _, code in start(tmp_path / "cells.h5mu", tmp_path, n)] == [0] * n
    files = [
        {p.name: p.read_bytes() for p in (tmp_path / name).iterdir()}
        for name in ("alone", "0", "1")
    ]
    assert files[0] == files[1] == files[2]
    assert "cells.safetensors" in files[0]


@pytest.mark.slow
def test_a_process_that_ends_is_named_by_the_others(simulated, tmp_path):
    simulated.write(tmp_path / "cells.h5mu")
    ended, other = start(tmp_path / "cells.h5mu", tmp_path, 2, ends="0")
    assert ended[1] == 1
    assert other[1] != 0
    assert "Another process of this training ended" in other[0]
