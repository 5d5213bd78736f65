"""Two models on the same images or windows."""

from pathlib import Path
from typing import Any

from flowbench.api.frames import Frame
from flowbench.api.stored import StoredRun
from flowbench.runs.folder import find_run
from flowbench.system.progress import quietly

__all__ = ["compare"]


def compare(
    a: StoredRun | str | Path,
    b: StoredRun | str | Path,
    *,
    split: str | None = None,
    metric: str | None = None,
    out: str | Path = "comparison",
) -> Frame:
    """Compare two runs pairwise, on the images or windows that both were measured on, as `flowbench compare A B` does.

    Args:
        a, b: a run, its path or name, an exported folder, or an experiment's name (all seeds of its newest config).
        split: of the data; None: the set's report split, of trials what they were chosen by.
        metric: `bits_per_dim`, `mae`, `mse`, or of forecasts that are distributions `nll`, `crps`, `mae_median`; None:
            bits_per_dim or mae.
        out: where the page goes.

    Returns:
        A row for A and one for B: `run`, `metric`, `split`, `value`, `n`, `difference` (to A), `stderr` (of the
        difference, paired), `p_value`, `verdict` (of A: better, worse, tie, no verdict). `.words` has the figures and
        the verdict in plain words, `.page` the comparison with settings, costs and plots.

    Raises:
        InputError: runs that are missing, not finished, or were measured on different data.

    Examples:
        >>> import flowbench as fb
        >>> a, b = (fb.train(fb.experiment("independent/digits", f"model.smoothing={s}"), f"runs/{s}", progress=False)
        ...         for s in (0.1, 10.0))
        >>> fb.compare(a, b)["verdict"].iloc[0]
        'better'
    """
    from flowbench.comparison import compare_many
    from flowbench.comparison.compared_runs import compare_runs

    names = [str(one.path) if isinstance(one, StoredRun) else str(one) for one in (a, b)]
    with quietly():
        compared = compare_runs(names[0], names[1], split=split, metric=metric)
        paths = [str(find_run(name).path) for name in names]
        page, _ = compare_many(paths, Path(out), " and ".join(names), metric=metric, split=split)
    paired = compared.paired
    verdict = compared.as_json()["verdict"]
    rows: list[dict[str, Any]] = [
        {
            "run": name,
            "metric": compared.metric,
            "split": compared.split,
            "value": value,
            "bound": bound,
            "n": paired.n,
            "difference": value - paired.values[0],
            "stderr": paired.stderr,
            "p_value": paired.p_value,
            "verdict": verdict,
        }
        for name, value, bound in zip(names, paired.values, compared.bounds, strict=True)
    ]
    return Frame.of(rows, page, tuple(compared.lines))
