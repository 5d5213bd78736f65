"""The one thread that a training beside others computes with.

Threads of one step wait for each other: where others compute on the same cores, a step of two threads takes many times
as long as one of a single thread. One thread each, and the last bits do not depend on the machine's cores.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from flowbench.system.cores import cores

__all__ = ["ONE_THREAD", "one_thread", "processes_at_a_time"]

_LIBRARIES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
ONE_THREAD = dict.fromkeys(_LIBRARIES, "1")
"""The environment of a process whose libraries compute with one thread."""


def processes_at_a_time() -> int:
    """Return how many trainings of one thread keep this machine busy: one for each core; one where a GPU computes."""
    return 1 if torch.cuda.is_available() else cores()


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside the block, torch computes with one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
