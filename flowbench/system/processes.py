"""Several processes that train one model (`torchrun --nproc-per-node N -m flowbench train …`): who, together, apart.

Without torchrun everything here is a no-op for one process. What must be the same everywhere (where a run lies, when to
stop, the time used) is agreed on over gloo on the CPU, whatever carries the gradients: it waits for no device.
"""

import atexit
import gc
import importlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from flowbench.errors import FlowbenchError, InputError, WorkFailedError, is_out_of_memory
from flowbench.system.device import prepare_to_compute
from flowbench.system.environment import ask_for_determinism

__all__ = [
    "PATIENCE",
    "agree",
    "distribute",
    "from_leader",
    "gather",
    "join",
    "leads",
    "mean_of_all",
    "place",
    "surviving",
]

T = TypeVar("T")

PATIENCE = timedelta(minutes=10)
"""How long a process waits for the others: longer than a checkpoint or the pictures of the first one take. The end of
a killed process is seen at once; this bounds the wait for one that hangs."""

_control: Any = None


def join() -> torch.device:
    """Return the device of this process, joined with the others that torchrun started; twice changes nothing.

    Raises:
        InputError: torchrun started more processes here than there are GPUs.
        WorkFailedError: the others were not there in time.
    """
    global _control
    ask_for_determinism()
    prepare_to_compute()
    on_gpu = torch.cuda.is_available()
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return torch.device("cuda", 0) if on_gpu else torch.device("cpu")
    here, rank = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    if on_gpu and here > torch.cuda.device_count():
        raise InputError(f"torchrun: {here} processes for {torch.cuda.device_count()} GPUs: lower --nproc-per-node")
    device = torch.device("cuda", rank) if on_gpu else torch.device("cpu")
    with surviving("torchrun"):
        if on_gpu:
            torch.cuda.set_device(device)
        if not dist.is_initialized():
            # Its functions hold the group of the moment of this import, as a default value, for good: better none.
            importlib.import_module("torch.distributed.nn")
            backend = "nccl" if on_gpu else "gloo"
            dist.init_process_group(backend, timeout=PATIENCE, device_id=device if on_gpu else None)
            atexit.register(_leave)
        if on_gpu and _control is None:
            _control = dist.new_group(backend="gloo", timeout=PATIENCE)
    return device


def distribute(module: nn.Module, device: torch.device) -> nn.Module:
    """Return the module; where there are several processes, wrapped so that its gradients are the means over them.

    Args:
        module: on `device`, the same in all processes.
        device: as `join` returned it.
    """
    if place()[1] == 1:
        return module
    # Some models have parameters that no loss depends on: a static graph allows them.
    return DistributedDataParallel(module, device_ids=[device] if device.type == "cuda" else None, static_graph=True)


def _leave() -> None:
    # Left to the interpreter's end, gloo's threads sometimes abort the process: they ask for a lock that is gone. A
    # group ends with the last reference to it. Data-parallel modules have one, and refer to themselves.
    if dist.is_initialized():
        gc.collect()
        dist.destroy_process_group()


def place() -> tuple[int, int]:
    """Return (rank, number of processes): (0, 1) for one alone."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def leads() -> bool:
    """Say whether this process is the one that writes."""
    return place()[0] == 0


def from_leader(function: Callable[[], T]) -> T:
    """Call `function` in the first process alone and return what it returned, or raise its error, in every one."""
    rank, ranks = place()
    if ranks == 1:
        return function()
    answer: list[Any] = [None, None]
    if rank == 0:
        try:
            answer[0] = function()
        except FlowbenchError as error:
            answer[1] = error
    dist.broadcast_object_list(answer, src=0, group=_control)
    if answer[1] is not None:
        answer[1].told = rank > 0
        raise answer[1]
    value: T = answer[0]
    return value


def gather(value: T) -> list[T]:
    """Return the values of all processes, by rank, in every one."""
    _, ranks = place()
    if ranks == 1:
        return [value]
    values: list[Any] = [None] * ranks
    dist.all_gather_object(values, value, group=_control)
    return values


def agree(*numbers: float) -> tuple[float, ...]:
    """Return, number by number, the largest among the processes."""
    if place()[1] == 1:
        return numbers
    together = torch.tensor(numbers, dtype=torch.float64)
    dist.all_reduce(together, op=dist.ReduceOp.MAX, group=_control)
    return tuple(together.tolist())


def mean_of_all(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the means of scalars over the processes, on their device and without waiting for it."""
    if place()[1] == 1:
        return dict(values)
    together = torch.stack([value.detach() for value in values.values()])
    dist.all_reduce(together)
    return dict(zip(values, together / place()[1], strict=True))


@contextmanager
def surviving(what: object) -> Iterator[None]:
    """Inside the block, the loss of another process is a WorkFailedError that names `what`, in bounded time."""
    try:
        yield
    except RuntimeError as error:
        lost = isinstance(error, dist.DistError) or any(word in str(error) for word in _LOSSES)
        # Memory that runs out inside NCCL is this process's own trouble.
        if not lost or is_out_of_memory(error):
            raise
        raise WorkFailedError(
            f"{what}: another process of this training was lost or did not answer: what was saved is kept; "
            "start it again with --resume, with as many processes as you like"
        ) from error


# gloo has no exception of its own.
_LOSSES = ("gloo", "Connection closed by peer", "Connection reset by peer", "Timed out waiting")
