"""The errors that people read: one line that names the thing, the value and the way out, and an exit code."""

import difflib
import errno
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

__all__ = [
    "BusyError",
    "CheckFailedError",
    "FlowbenchError",
    "InputError",
    "WorkFailedError",
    "did_you_mean",
    "fitting_in_memory",
    "in_words",
    "is_out_of_memory",
    "one_line",
    "why",
]


class FlowbenchError(Exception):
    """An error whose message is meant for the person at the keyboard: printed without a traceback."""

    exit_code = 3
    told = False
    """Another process prints it."""


class CheckFailedError(FlowbenchError):
    """The check that was asked for (a gate, a verification) came out negative."""

    exit_code = 1


class InputError(FlowbenchError):
    """Bad usage, config, data, file or environment: the person can mend it and try again."""

    exit_code = 2


class BusyError(InputError):
    """Another process is at work where this one was to begin: who waits can try again."""


class WorkFailedError(FlowbenchError):
    """The work itself failed (diverged, out of memory, a process lost); what was done is on disk."""

    exit_code = 3


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error is Python's, the system's, torch's, or a CUDA library's way to tell that memory ran out."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    # Only torch's allocator for GPUs has a class of its own; all else is a RuntimeError, or a subclass, with words.
    return isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None


_OUT_OF_MEMORY = re.compile(
    r"out[ _]?of[ _]?memory"  # CUDA, its driver, NVRTC, Triton, NCCL; an OutOfMemoryError that a compiler passes on
    r"|ALLOC(ATION)?_FAILED"  # CUBLAS_STATUS_…, CUSOLVER_STATUS_…, CUFFT_…, CUDNN_STATUS_INTERNAL_ERROR_DEVICE_…
    r"|cudaErrorMemoryAllocation"
    r"|(can't|cannot) allocate memory|not enough memory",  # torch on Linux, a mapped file, torch on Windows
    re.IGNORECASE,
)


@contextmanager
def fitting_in_memory(batch_size: int) -> Iterator[None]:
    """Inside the block, running out of memory is a WorkFailedError that says which `data.batch_size` to try."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        smaller = f"try data.batch_size={batch_size // 2}" if batch_size > 1 else "the model itself is too large"
        raise WorkFailedError(f"out of memory at data.batch_size={batch_size}: {smaller}") from error


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return "; did you mean X?" for the nearest choice, else "; one of: …", for the end of an error message."""
    names = sorted(choices)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; one of: {', '.join(names)}" if names else ""


def why(error: OSError) -> str:
    """Return why a file or folder could not be read or written, for the middle of an error message."""
    if isinstance(error, FileExistsError | NotADirectoryError):
        return "a file stands where a folder is needed"
    if isinstance(error, IsADirectoryError):
        return "it is a folder, not a file"
    return error.strerror or one_line(error)


def in_words(error: BaseException) -> str:
    """Return an error as one line: one of ours by its text, another one by its kind, too."""
    return one_line(error) if isinstance(error, FlowbenchError) else f"{type(error).__name__}: {one_line(error)}"


def one_line(error: BaseException) -> str:
    """Return an error's text as one line of at most 300 characters."""
    return " ".join(str(error).split())[:300]
