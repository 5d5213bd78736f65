"""Where MLflow's pages open: at the runs that were made last, each with its figure, a study's trials best first."""

import json
from typing import Any
from urllib.parse import quote

__all__ = ["address_of_runs"]

VIEW = "flowbench"
"""The name of a view that MLflow's pages find in a tag of the experiment (its own way of sharing one)."""
_KNOWN_BY: tuple[str, ...] = (
    "objective/",
    "test/bits_per_dim",
    "final/validation/bits_per_dim",
    "validation/bits_per_dim",
    "test/mae",
    "holdout/bits_per_dim",
)
_KNOWN_BY += ("train/bits_per_dim", "validation/mae")


def address_of_runs(client: Any) -> tuple[str, str]:
    """Return what was made last and the path of its page; the views of all experiments are written into the store.

    MLflow's first page shows no runs, and its list of them no figure and, until it is unfolded, no trial of a study.

    Args:
        client: an `MlflowClient`.
    """
    newest = (0, "", "")
    for experiment in client.search_experiments():
        place = experiment.experiment_id
        runs = client.search_runs([place], order_by=["attributes.start_time DESC"], max_results=20)
        if not runs:
            continue
        metric = _known_by({name for run in runs for name in run.data.metrics})
        wanted = {"mlflow.experimentKind": "custom_model_development", f"mlflow.sharedViewState.{VIEW}": _view(metric)}
        for key, value in wanted.items():
            if experiment.tags.get(key) != value:
                client.set_experiment_tag(place, key, value)
        page = f"/#/experiments/{quote(place)}/runs?viewStateShareKey={VIEW}"
        newest = max(newest, (int(runs[0].info.start_time or 0), experiment.name, page))
    return newest[1], newest[2]


def _known_by(names: set[str]) -> str | None:
    """Return the metric that an experiment's runs are known by."""
    for begin in _KNOWN_BY:
        for name in sorted(names):
            if name == begin or (begin.endswith("/") and name.startswith(begin)):
                return name
    return None


def _view(metric: str | None) -> str:
    """Return the state of MLflow's page, columns and order: sorted by a figure, trials are not folded away."""
    columns = ["attributes.`Duration`", "tags.`flowbench.trial_state`", "tags.`flowbench.budget`"]
    state: dict[str, Any] = {"selectedColumns": columns}
    if metric is not None:
        state["selectedColumns"] = [f"metrics.`{metric}`", *columns]
        if metric.startswith("objective/"):
            state |= {"orderByKey": f"metrics.`{metric}`", "orderByAsc": not metric.endswith("_per_second")}
    return json.dumps(state)
