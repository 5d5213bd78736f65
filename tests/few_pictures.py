"""What most tests leave out: pictures take seconds, and have tests of their own."""

from collections.abc import Callable

from flowbench.figures.drawing import draw_run, kinds_of
from flowbench.runs.folder import RunFolder

__all__ = ["leave_out_pictures"]


def leave_out_pictures(replace: Callable[[str, object], None]) -> None:
    """Let trainings draw their samples only, and pages no curves; `replace` gets a dotted name and its new value."""

    def draw_samples(run: RunFolder) -> list[str]:
        return draw_run(run, ["samples"]).left_out if "samples" in kinds_of(run) else []

    replace("flowbench.training.loop.draw_at_end", draw_samples)
    replace("flowbench.report.curves.training_curves", lambda *_: None)
    replace("flowbench.comparison.build.draw", lambda *_: None)
