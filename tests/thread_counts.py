"""Results of a function in one thread and in two."""

import torch
from threadpoolctl import threadpool_limits


def in_one_and_two_threads(function):
    """What a function gives in one thread and in two, which leaves their number as it was."""
    n_threads, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            with threadpool_limits(threads):
                found.append(function())
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(n_threads)
    return found
