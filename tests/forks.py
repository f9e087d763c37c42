"""Run scripts in forks of a process that has imported the package: tests start and kill many.

``Server`` starts a process that imports the package once. For each script it forks a child that
behaves like ``python script arguments``, and another that waits for it and records how it ended.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LONGEST = 300  # seconds that a script may take, on a machine that is busy

# Imported, but not used before the fork: threads that these packages start do not survive one
SERVER = """
import json, os, runpy, shutil, signal, sys, threading, traceback
import anndata, h5py, lightning.pytorch, mudata, scipy.stats, torch, zarr
import epifoundation

def put(name, value):
    with open(f"{job['folder']}/{name}.part", "w") as file:
        file.write(str(value))
    os.rename(f"{job['folder']}/{name}.part", f"{job['folder']}/{name}")

def copy(name, end, other):
    os.close(other)
    with open(end, "rb") as source, open(f"{job['folder']}/{name}", "wb") as target:
        shutil.copyfileobj(source, target)

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in sys.stdin:
    job = json.loads(line)
    if os.fork():
        continue
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pipes = {"out": os.pipe(), "err": os.pipe()}
    pid = os.fork()
    if pid:
        put("pid", pid)
        copies = [threading.Thread(target=copy, args=(name, *ends)) for name, ends in pipes.items()]
        for each in copies:
            each.start()
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        for each in copies:
            each.join()
        put("code", code)
        os._exit(0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(pipes["out"][1], 1)
    os.dup2(pipes["err"][1], 2)
    for end in (*pipes["out"], *pipes["err"]):
        os.close(end)
    os.environ.update(job["environment"])
    sys.argv = job["arguments"]
    code = 0
    try:
        runpy.run_path(job["arguments"][0], run_name="__main__")
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
"""


class Server:
    """Starts scripts; ends with the standard input of its process."""

    def __init__(self):
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        command = [sys.executable, "-W", "ignore", "-c", SERVER]
        self.folder = tempfile.TemporaryDirectory()
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, env=environment)

    def start(self, *arguments, **environment):
        """Run a script with arguments, as :class:`subprocess.Popen` would."""
        folder = tempfile.mkdtemp(dir=self.folder.name)
        job = {"folder": folder, "arguments": list(map(str, arguments)), "environment": environment}
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return Forked(Path(folder), self.process)

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.folder.cleanup()


class Forked:
    """As much of :class:`subprocess.Popen` as tests use."""

    def __init__(self, folder, server):
        self.folder, self.server = folder, server
        self.pid = int(self._read("pid"))

    @property
    def returncode(self):
        return self.poll()

    def poll(self):
        return int((self.folder / "code").read_text()) if (self.folder / "code").exists() else None

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def communicate(self):
        self._read("code")
        return (self.folder / "out").read_text(), (self.folder / "err").read_text()

    def _read(self, name):
        deadline = time.monotonic() + LONGEST
        while not (self.folder / name).exists():
            assert self.server.poll() is None, "the process that starts others has ended"
            if time.monotonic() > deadline:
                if name == "code":
                    self.send_signal(signal.SIGKILL)
                raise TimeoutError(f"no end after {LONGEST} s")
            time.sleep(0.005)
        return (self.folder / name).read_text()
