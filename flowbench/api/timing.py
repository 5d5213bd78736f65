"""Speed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from flowbench.api.experiments import as_experiment
from flowbench.api.frames import Frame
from flowbench.config.experiments import load_experiment
from flowbench.config.schema import Experiment
from flowbench.errors import InputError
from flowbench.report import build_from
from flowbench.report.verdict import flat_settings
from flowbench.system.progress import quietly
from flowbench.throughput.jobs import check_passes, run_and_store
from flowbench.throughput.naming import called

__all__ = ["measure_throughput"]

PAGE = Path("results") / "throughput"


def measure_throughput(
    *experiments: Experiment[Any, Any] | str | Path | Mapping[str, Any],
    passes: Sequence[str] = ("train", "forward", "inverse"),
    batch: int | Sequence[int] = 16,
    threads: int | None = None,
    device: Literal["cpu", "cuda"] | None = None,
    repeats: int = 40,
    out: str | Path | None = None,
    progress: bool = True,
) -> Frame:
    """Time the passes of density models on random images, each in alternation with its own convolutions.

    Args:
        *experiments: as in `flowbench.train`; no data set is needed.
        passes: which of train, forward (log-likelihood in evaluation mode), inverse (sampling).
        batch: images in a batch, or several sizes.
        threads: of the CPU; None: as torch has them.
        device: None: cuda where there is one.
        repeats: samples of each figure.
        out: the result file, which `flowbench throughput gate` takes; None: one under results/throughput/.
        progress: say each figure on stderr as soon as it is there.

    Returns:
        A row for each experiment, pass and batch size: `images_per_second` and `floor_ratio` (time of the pass / time
        of its convolutions alone: 1 is the floor) with 95 % intervals `…_low`, `…_high`, `parameters`,
        `flops_per_image`, `peak_memory_bytes`; `.page` is the report.

    Raises:
        InputError: a forecaster, a model without parameters, no such pass or device.

    Examples:
        >>> import flowbench as fb
        >>> small = fb.experiment("real_nvp/digits", "model.features=2")
        >>> speed = fb.measure_throughput(small, passes=["forward"], batch=2, repeats=5, out="s.json", progress=False)
        >>> speed["pass"].to_list(), bool(speed["images_per_second"].iloc[0] > 0)
        (['forward'], True)
    """
    with quietly(not progress):
        content, path = run_and_store(
            [_named(as_experiment(one)) for one in experiments],
            passes=check_passes(",".join(passes)),
            batches=[batch] if isinstance(batch, int) else list(batch),
            threads=threads,
            device=device,
            repeats=repeats,
            out=None if out is None else Path(out),
            progress=progress,
        )
        page = build_from([str(path if out else path.parent)], PAGE)
    return Frame.of([_row(result) for result in content["results"]], page)


def _named(experiment: Experiment[Any, Any]) -> Experiment[Any, Any]:
    """Return it under a name that says what was changed of the file that it is called after: no preset's figures."""
    try:
        shipped = flat_settings(load_experiment(experiment.name))
    except InputError:
        return experiment  # of one's own
    settings = flat_settings(experiment).items()
    changed = [f"{key}={value}" for key, value in settings if shipped.get(key) != value]
    return experiment.model_copy(update={"name": called(experiment.name, changed)})


def _row(result: Mapping[str, Any]) -> dict[str, Any]:
    row = {key: value for key, value in result.items() if key not in ("images_per_second", "floor_ratio")}
    for name in ("images_per_second", "floor_ratio"):
        figure = result[name] or {}
        row |= {name: figure.get("median"), f"{name}_low": figure.get("low"), f"{name}_high": figure.get("high")}
    return row
