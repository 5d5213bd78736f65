"""Checkpoints written beside the training: a step waits for a copy of the state in memory, never for a disk."""

import copy
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

from torch import Tensor

from flowbench.runs.folder import RunFolder

__all__ = ["CheckpointWriter", "on_host"]


class CheckpointWriter:
    """Writes the checkpoints of a run on a thread of its own, one after the other.

    Inside a `with` block, whose end waits for what is being written; an error of it is then lost in favour of the one
    that ended the block: whoever relies on a checkpoint calls `wait`.

    Args:
        run: whose checkpoints.
    """

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def write(self, state: Mapping[str, Any]) -> None:
        """Copy `state` and begin to write it; the training may change it as soon as this returns.

        Raises:
            OSError: the checkpoint before could not be written.
        """
        # There is one at a time: two files of a slow disk would need the memory of both.
        self.wait()
        self._writing = self._thread.submit(self._run.save_checkpoint, on_host(state))

    def check(self) -> None:
        """Raise the error of a checkpoint that could not be written; wait for nothing."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def wait(self) -> None:
        """Return when what was given is on the disk; raise the error that kept it from there."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()


def on_host(value: Any) -> Any:
    """Return nested dicts, lists and tuples with every tensor copied to the CPU's memory, those that are there too."""
    if isinstance(value, Tensor):
        # A training changes its weights in place.
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        # A state_dict carries more than its items: the versions of its modules.
        copied = copy.copy(value)
        copied.update((key, on_host(item)) for key, item in value.items())
        return copied
    if isinstance(value, (list, tuple)):
        return type(value)(on_host(item) for item in value)
    return value
