"""Whole tables."""

from collections.abc import Sequence
from pathlib import Path

from flowbench.api.frames import Frame
from flowbench.report.formats import records
from flowbench.reproduction.reproduce import failure
from flowbench.reproduction.reproduce import reproduce as run_table
from flowbench.system.progress import quietly

__all__ = ["reproduce"]


def reproduce(
    table: str | Path = "quick",
    *overrides: str,
    only: str | Sequence[str] = (),
    seeds: Sequence[int] | None = None,
    out: str | Path | None = None,
    jobs: int | None = 1,
    progress: bool = True,
) -> Frame:
    """Run the experiments of a table that are not done, and write results, tables and the page.

    A call that was stopped is gone on with by the same call.

    Args:
        table: a table's name or its YAML file.
        *overrides: `KEY=VALUE`, for every selected experiment.
        only: a row's title or a data set's name, or several.
        seeds: one run for each; None: the table's own.
        out: where results go; None: `results/<table>`.
        jobs: runs at a time, each in a process of its own, which knows what `--import` brought in alone; 1: in this
            process, with all that is registered in it; None: as many as there are cores.
        progress: draw bars.

    Returns:
        The table, a row for each row and model of ours: `row`, `dataset`, `experiment`, `value`, `stderr`, `n`,
        `status` (done, skipped, failed, not_run), `reason`, the published figures and more; `.page` is the report.

    Raises:
        InputError: unknown table, row or key; nothing could be run.
        WorkFailedError: every run failed.

    Examples:
        >>> import flowbench as fb
        >>> table = fb.reproduce("quick", only="digits", out="results/quick", progress=False)  # doctest: +SKIP
        >>> table[["experiment", "value", "stderr"]]  # doctest: +SKIP
    """
    name = str(table)
    folder = Path("results") / Path(name).stem if out is None else Path(out)
    with quietly(not progress):
        results = run_table(
            name,
            only=[only] if isinstance(only, str) else only,
            seeds=seeds,
            out=folder,
            overrides=overrides,
            jobs=jobs,
            progress=progress,
        )
    error = failure(results, [only] if isinstance(only, str) else only)
    # Rows that failed beside others that are done say so in the frame.
    if error is not None and not any(row["status"] == "done" for row in results["rows"]):
        raise error
    return Frame.of(records(results), folder / "report.html")
