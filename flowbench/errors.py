"""The errors that people read: one line that names the thing, the value and the way out, and an exit code."""

import difflib
from collections.abc import Iterable

__all__ = ["CheckFailedError", "FlowbenchError", "InputError", "WorkFailedError", "did_you_mean"]


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


class WorkFailedError(FlowbenchError):
    """The work itself failed (diverged, out of memory, a process lost); what was done is on disk."""

    exit_code = 3


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return "; did you mean X?" for the nearest choice, else "; one of: …", for the end of an error message."""
    names = sorted(choices)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; one of: {', '.join(names)}" if names else ""
