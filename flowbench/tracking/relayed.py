"""The mirror of a helper process: it hands on what it is told, so that one process copies the runs of all helpers."""

from collections.abc import Callable
from pathlib import Path

from flowbench.tracking.process import Mirror

__all__ = ["RelayedMirror", "pass_on"]


class RelayedMirror(Mirror):
    """Tells the parent which runs to follow; the parent's own mirror, given them by `pass_on`, does the rest.

    Args:
        tell: sends keywords to the parent.
    """

    def __init__(self, tell: Callable[..., None]) -> None:
        super().__init__()
        self._tell = tell

    def follow(self, run_folder: Path) -> None:
        """Have a run mirrored from now on."""
        self._tell(follow=str(Path(run_folder).absolute()))

    def done(self, run_folder: Path) -> None:
        """Tell that a run has ended."""
        self._tell(done=str(Path(run_folder).absolute()))


def pass_on(answer: dict[str, str], mirror: Mirror) -> bool:
    """Do with the mirror what a `RelayedMirror` was told; return False where the answer is about something else."""
    if "follow" in answer:
        mirror.follow(Path(answer["follow"]))
    elif "done" in answer:
        mirror.done(Path(answer["done"]))
    else:
        return False
    return True
