"""Hyperparameter search."""

import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowbench.api.experiments import as_experiment
from flowbench.api.frames import Frame
from flowbench.api.own_data import with_data
from flowbench.config.experiments import dump_experiment, load_experiment
from flowbench.config.schema import Experiment
from flowbench.system import atomic
from flowbench.system.progress import quietly

__all__ = ["tune"]


def tune(
    experiment: Experiment[Any, Any] | str | Path | Mapping[str, Any],
    *overrides: str,
    trials: int = 20,
    data: Any = None,
    study: str | None = None,
    storage: str = "sqlite:///optuna.db",
    time_budget: float | None = None,
    progress: bool = True,
) -> Frame:
    """Search the experiment's `tune:` space until so many trials are complete or pruned, as `flowbench tune` does.

    A study of that name goes on; other processes may join it. What chooses is held out of the training part
    (`holdout`, or `data.holdout`); the report split stays closed.

    Args:
        experiment: as in `flowbench.train`.
        *overrides: `KEY=VALUE`, in every trial.
        trials: of the study, all workers together.
        data: one's own, as in `flowbench.train`.
        study: its name; None: the experiment's, with `/` as `-`.
        storage: `sqlite:///FILE`, `postgresql://…`, `grpc://HOST:PORT`.
        time_budget: seconds of each trial's steps.
        progress: say on stderr what becomes of each trial, and draw a bar.

    Returns:
        A row a trial: `number`, `state`, a column for each objective and each key that was searched. `.best` is the
        best configuration, an experiment for `flowbench.train`; `.page` shows the trials side by side.

    Raises:
        InputError: no or a bad search space, missing data, a study of the same name with other settings.
        WorkFailedError: so many trials failed.

    Examples:
        >>> import flowbench as fb
        >>> study = fb.tune("real_nvp/digits", trials=30)  # doctest: +SKIP
        >>> run = fb.train(study.best)  # doctest: +SKIP
    """
    with warnings.catch_warnings():
        # Optuna has a bar of its own, which is never drawn here: a notebook needs no widgets for it.
        warnings.filterwarnings("ignore", "IProgress not found")
        from flowbench.comparison.study import outcome_of
        from flowbench.tuning import tune as run_study
        from flowbench.tuning.joining import STUDIES
    from flowbench.tracking import Mirror

    if data is None and isinstance(experiment, str | Path):
        base: str | Path = experiment
    else:
        # Trials read their experiment from a file: other workers may take some of them.
        chosen = with_data(as_experiment(experiment), data)
        base = STUDIES / f"{study or chosen.name.replace('/', '-')}.yaml"
        atomic.write_text(base, dump_experiment(chosen))
    with quietly(not progress), Mirror() as mirror:
        studied = run_study(
            base,
            trials,
            overrides=list(overrides),
            study=study,
            storage=storage,
            time_budget=time_budget,
            mirror=mirror,
            show=_say if progress else lambda line: None,
            progress=progress,
        )
        outcome = outcome_of(studied)
    names = studied.study.metric_names or ["value"]
    rows = [
        {
            "number": trial.number,
            "state": trial.state.name.lower(),
            **dict(zip(names, trial.values or [None] * len(names), strict=True)),
            **trial.params,
        }
        for trial in studied.study.get_trials(deepcopy=False)
    ]
    best = None if outcome.experiment_file is None else load_experiment(outcome.experiment_file)
    return Frame.of(rows, outcome.page, tuple(outcome.recommendation), best)


def _say(line: str) -> None:
    print(line, file=sys.stderr)
