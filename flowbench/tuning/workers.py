"""Workers of a study side by side in processes of this machine, one thread each."""

from collections.abc import Callable, Collection
from typing import Any

from flowbench.system.helpers import Helper, dismiss, heard
from flowbench.system.interruption import StopRequest
from flowbench.system.memory import has_room
from flowbench.system.threads import ONE_THREAD
from flowbench.tracking import Mirror
from flowbench.tracking.relayed import pass_on

__all__ = ["work_side_by_side"]

DEATHS = 5
"""So many workers that die without a word are replaced."""
POLL_SECONDS = 1.0


def work_side_by_side(
    number: int,
    request: dict[str, Any],
    *,
    memory: int,
    mirror: Mirror,
    stop: StopRequest,
    show: Callable[[str], None],
    advance: Callable[[Collection[float]], None],
) -> None:
    """Let workers take trials until all of them have left, or `stop` asks for it: their trials then save themselves.

    The trial of a worker that is killed waits in the study for another one.

    Args:
        number: of workers, at most.
        request: the arguments of `tune` in each.
        memory: bytes that one needs at its height; another one is started only where they are free.
        mirror: follows the runs of all.
        stop: what asks this process to stop.
        show: told what becomes of each trial, in one line.
        advance: told which part (0 to 1) of each trial at work is trained, some times a second.
    """
    team: list[Helper] = []
    parts: dict[Helper, float] = {}
    missing, deaths = number, 0
    try:
        while (team or missing) and stop.signal is None:
            while missing and (not team or has_room({helper.pid: memory for helper in team}, memory)):
                team.append(Helper("flowbench.tuning.worker", ONE_THREAD))
                team[-1].ask(**request)
                missing -= 1
            for helper, answers in heard(team, POLL_SECONDS):
                for answer in answers:
                    if "say" in answer:
                        show(answer["say"])
                        parts.pop(helper, None)
                    elif "doing" in answer:
                        parts[helper] = answer["part"] if answer["doing"] == "training" else parts.get(helper, 0.0)
                    else:
                        pass_on(answer, mirror)
                if helper.status is not None and not answers:
                    helper.wait()
                    team.remove(helper)
                    parts.pop(helper, None)
                    if helper.status < 0 and deaths < DEATHS:
                        deaths, missing = deaths + 1, missing + 1
                    elif helper.status >= 0:
                        # There is nothing left to take: whoever has not begun need not.
                        missing = 0
            advance(parts.values())
    finally:
        dismiss(team)
