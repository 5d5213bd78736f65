"""What the compiler takes is paid before the clock starts: the first compiled steps are taken, and undone."""

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from flowbench.training.session import Session

__all__ = ["compile_steps", "undone"]

RECORDED = 3
"""Steps on a GPU until nothing is new: the first is compiled, the second recorded as a CUDA graph, the third replays
it."""


def compile_steps(session: Session, step: Callable[[], object]) -> None:
    """Let everything be compiled that `step` needs and undo what that did; the session holds and logs the seconds.

    A training compiles whenever it begins and whenever it goes on, and neither its budget nor its speed knows of it.

    Args:
        session: before its next step.
        step: takes that step, but for what the loop counts.
    """
    started = time.perf_counter()
    on_gpu = session.device.type == "cuda"
    with undone(session):
        for _ in range(RECORDED if on_gpu else 1):
            step()
    if on_gpu:
        torch.cuda.synchronize(session.device)
    seconds = time.perf_counter() - started
    session.compile_seconds += seconds
    session.log({"compile_seconds": seconds})


@contextmanager
def undone(session: Session) -> Iterator[None]:
    """Inside the block steps may be taken; after it weights, buffers, optimizer, skipped steps and random states are
    those of before, weights and buffers in the places where they lay, on which compiled code relies.

    After an error they are as it left them.
    """
    model, optimizer = session.task.model, session.optimizer
    assert optimizer is not None
    # Buffers that no checkpoint holds change as well.
    tensors = [*model.parameters(), *model.buffers()]
    before = [tensor.detach().clone() for tensor in tensors]
    moments = copy.deepcopy(optimizer.state_dict())
    skipped, in_a_row = session.skipped.clone(), session.skipped_in_a_row.clone()
    with torch.random.fork_rng(devices=[session.device] if session.device.type == "cuda" else []):
        yield
    with torch.no_grad():
        for tensor, value in zip(tensors, before, strict=True):
            tensor.copy_(value)
    optimizer.load_state_dict(moments)
    session.skipped, session.skipped_in_a_row = skipped, in_a_row
