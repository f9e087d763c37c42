"""Run a part of a benchmark in a process of its own."""

import multiprocessing as mp


def apart(function, *args):
    """Call a function in a separate process, to measure its memory."""
    with mp.get_context("spawn").Pool(1) as process:
        return process.apply(function, args)
