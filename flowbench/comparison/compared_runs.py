"""Two runs, or two sets of runs over seeds, brought to the same images or windows and compared."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flowbench.comparison.kept_values import common_split, dataset_of, on_the_same_items
from flowbench.config.experiments import config_id
from flowbench.config.metric_words import BOUNDS, bound_of_all
from flowbench.errors import InputError
from flowbench.evaluation.paired import LEVEL, Paired, compare_values
from flowbench.runs.bundle import is_bundle
from flowbench.runs.comparable import check_same_forecasts
from flowbench.runs.folder import RunFolder, find_run, find_runs
from flowbench.runs.same_data import check_same_data

__all__ = ["ComparedRuns", "compare_runs"]


@dataclass(frozen=True)
class ComparedRuns:
    """What `flowbench compare A B` says."""

    names: tuple[str, str]
    dataset: str
    split: str
    metric: str
    unit: str
    """What is counted: images or windows."""
    paired: Paired
    same_config: bool
    """Whether A and B are seeds of one config."""
    resample: str | None = None
    """How the images were resized; None where their set offers no choice."""
    bounds: tuple[str | None, ...] = (None, None)
    """What each figure is of the likelihood: `exact`, or the bound that it is; None: it is none of a likelihood."""
    unfinished: tuple[str, ...] = ()
    """A line for each run that has not come to its end: pruned or stopped."""

    @property
    def lines(self) -> list[str]:
        """The figures and the verdict in plain words."""
        paired, (a, b) = self.paired, self.names
        runs = "one run each" if set(paired.seeds) == {1} else "{} and {} runs".format(*paired.seeds)
        lines = [
            f"{self.dataset} {self.split}, {self.metric} (lower is better), {paired.n:,} {self.unit}, {runs}"
            + (f", resample {self.resample}" if self.resample else ""),
            f"A  {paired.values[0]:.4f}  {a}",
            f"B  {paired.values[1]:.4f}  {b}",
            *self._unlike,
            *self.unfinished,
        ]
        over_seeds = "" if paired.seed_stderr is None else f"± {paired.seed_stderr:.4f} over seeds"
        if paired.stderr is None:
            lines.append(f"A − B = {paired.difference:+.4f} {over_seeds}".rstrip())
        else:
            lines.append(
                f"A − B = {paired.difference:+.4f} ± {paired.stderr:.4f} on the same {self.unit} "
                f"(unpaired: ± {paired.unpaired_stderr:.4f}); p = {paired.p_value:.2g}"
            )
            if over_seeds:
                lines.append(f"of that ± {paired.item_stderr:.4f} over {self.unit}, {over_seeds}")
        return [*lines, self.verdict]

    @property
    def _unlike(self) -> list[str]:
        """The line that keeps a bound from being read as a likelihood, where A and B are not of one kind."""
        if self.bounds[0] == self.bounds[1]:
            return []
        a, b = (BOUNDS.get(str(bound), bound or "of unknown kind") for bound in self.bounds)
        return [f"A is {a}; B is {b}: a bound is at or above the model's own value"]

    @property
    def verdict(self) -> str:
        """The last line: who is better, or what would tell."""
        paired = self.paired
        models = "" if paired.seed_stderr is not None else " as trained here (one run: give seeds to judge the config)"
        if self.same_config:
            return "verdict: tie: A and B are seeds of one config; their difference is that of training runs"
        if paired.verdict == "no verdict":
            return (
                f"verdict: none: {paired.n:,} overlapping windows are {paired.horizons:.1f} independent horizons, too "
                f"few for an error; {paired.items_needed:,} windows or more allow a verdict"
            )
        if paired.verdict != "tie":
            return f"verdict: A is {paired.verdict} than B{models}, at {LEVEL:.0%} confidence"
        ways = []
        if paired.items_needed is not None:
            ways.append(f"{paired.items_needed:,} {self.unit} in all")
        if paired.seeds_needed is not None:
            ways.append(f"{paired.seeds_needed:,} seeds each")
        if not ways:
            hint = "" if paired.seed_stderr is not None else "; seeds of each would tell how much training runs differ"
            return f"verdict: tie: no number of {self.unit} alone would settle it{hint}"
        return f"verdict: tie; if the difference is what it seems, {' or '.join(ways)} would show it"

    def as_json(self) -> dict[str, Any]:
        """The same as plain values."""
        verdict = "tie" if self.same_config else self.paired.verdict
        return {**asdict(self), "paired": asdict(self.paired), "verdict": verdict, "words": self.verdict}


def compare_runs(a: str, b: str, *, split: str | None = None, metric: str | None = None) -> ComparedRuns:
    """Compare two runs, or the finished seeds of two experiments, on the images or windows that both were measured on.

    Trials of a study, pruned and stopped runs are compared by what they keep.

    Args:
        a: a run, an exported folder, a folder of runs, or an experiment's name: all seeds of its newest config.
        b: likewise.
        split: of the data [default: the set's report split; of trials, what they were chosen by].
        metric: `bits_per_dim`, `mae`, `mse`, or of distributions `nll`, `crps`, `mae_median` [default: bits_per_dim,
            mae].

    Raises:
        InputError: a run is missing; the two were not measured on the same images or windows, and how they can be; the
            data lie here with another content.
    """
    groups = [_runs(one) for one in (a, b)]
    runs = [run for group in groups for run in group]
    if len({run.path.resolve() for run in runs}) == 1:
        raise InputError(f"{a} and {b}: both are the run {runs[0].path}: name another one beside it")
    for run in runs:
        if not is_bundle(run.path):  # an exported folder does not know where its data lie
            check_same_data(run)
    known = list(dict.fromkeys(dataset_of(run) for run in runs))
    if len(known) > 1:
        raise InputError(f"{a} and {b}: not of the same data set and kind: {known[0][1]}, {known[-1][1]}")
    kind = known[0][0]
    what = metric or ("bits_per_dim" if kind == "density" else "mae")
    where = split or common_split(runs, what)
    check_same_forecasts(runs, f"{a} and {b}")
    kept = on_the_same_items(runs, where, what)
    values, number = [one.values for one in kept], len(groups[0])
    bounds = tuple(bound_of_all(one.figure.get("bound") for one in part) for part in (kept[:number], kept[number:]))
    horizon = getattr(runs[0].experiment.data, "horizon", None)
    ids = [{config_id(run.experiment) for run in group} for group in groups]
    return ComparedRuns(
        names=(a, b),
        dataset=kept[0].dataset,
        split=where,
        metric=what,
        unit="images" if kind == "density" else "windows",
        paired=compare_values(values[:number], values[number:], horizon=horizon),
        same_config=ids[0] == ids[1] and all(run.finished for run in runs),
        resample=kept[0].figure.get("resample"),
        bounds=bounds,
        unfinished=tuple(
            f"{run.path}: not finished: as it stood at step {run.step if one.step is None else one.step:,}"
            for run, one in zip(runs, kept, strict=True)
            if not run.finished
        ),
    )


def _runs(name: str) -> Sequence[RunFolder]:
    """Return the run of this name, or all seeds of one config."""
    folder = Path(name)
    if (folder / "config.yaml").is_file():
        return [RunFolder(folder)]
    inside = [RunFolder(path.parent) for path in sorted(folder.glob("*/result.json"))] if folder.is_dir() else []
    runs = inside or [run for run in find_runs(name) if run.finished]
    if not runs:
        return [find_run(name)]
    newest = config_id(runs[0].experiment)
    if inside and any(config_id(run.experiment) != newest for run in runs):
        raise InputError(f"{name}: holds runs of several configs: name the seeds of one")
    return [run for run in runs if config_id(run.experiment) == newest]
