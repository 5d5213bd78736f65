"""What there is, as frames."""

from functools import lru_cache
from typing import Any

import pandas as pd

from flowbench.config.experiments import experiment_names, load_experiment
from flowbench.config.registry import image_sets, series_sets
from flowbench.config.schema import Experiment
from flowbench.errors import FlowbenchError
from flowbench.tables.table import readable_tables

__all__ = ["list_datasets", "list_experiments", "list_tables"]


def list_experiments() -> pd.DataFrame:
    """Return the experiments of `./experiments` and of the package, a row each.

    Returns:
        Columns `name`, `kind`, `dataset`, `model`, `parameters` (trained values; NA where only the data could tell),
        `published` (the figure of the paper that it reproduces, NaN: none), `data_here` (whether it can be trained).

    Examples:
        >>> import flowbench as fb
        >>> fb.list_experiments().set_index("name").loc["real_nvp/cifar10", "published"].item()
        3.49
    """
    published, here = _published(), _here()
    rows = []
    for name in experiment_names():
        try:
            one = load_experiment(name)
        except FlowbenchError:
            continue  # somebody's file in the making: whoever trains it is told what is wrong with it
        rows.append(
            {
                "name": name,
                "kind": one.kind,
                "dataset": _dataset(one),
                "model": one.model.name,
                "parameters": _parameters(one),
                "published": published.get(name),
                "data_here": _dataset(one) in here or getattr(one.data, "csv", None) is not None,
            }
        )
    frame = pd.DataFrame(rows)
    return frame.astype({"parameters": "Int64", "published": "float64"})


def list_tables() -> pd.DataFrame:
    """Return the tables that `reproduce` takes, a row each.

    Returns:
        Columns `name`, `title`, `description`, `rows` (how many) and `experiments` (names, a tuple).

    Examples:
        >>> import flowbench as fb
        >>> "quick" in set(fb.list_tables()["name"])
        True
    """
    return pd.DataFrame(
        {
            "name": table.table,
            "title": table.title,
            "description": table.description,
            "rows": len(table.rows),
            "experiments": tuple(dict.fromkeys(entry.name for row in table.rows for entry in row.experiments)),
        }
        for table in readable_tables()
    )


def list_datasets() -> pd.DataFrame:
    """Return the data sets, a row each.

    Returns:
        Columns `name`, `kind` (density, forecast), `title`, `here`, `status`, `counts` (images or rows by part),
        `licence`, `command` (what prepares it).

    Examples:
        >>> import flowbench as fb
        >>> bool(fb.list_datasets().set_index("name").loc["digits", "here"])
        True
    """
    from flowbench.data.preparing import list_sets

    return pd.DataFrame(
        {
            "name": row.name,
            "kind": "forecast" if row.name in series_sets else "density",
            "title": row.title,
            "here": row.present,
            "status": row.status,
            "counts": row.counts,
            "licence": row.licence,
            "command": row.command,
        }
        for row in list_sets()
    )


def _dataset(experiment: Experiment[Any, Any]) -> str:
    data = experiment.data
    return str(data.csv if data.name is None else data.name)


def _here() -> set[str]:
    from flowbench.data import series_path
    from flowbench.data.images import check_split

    found = set()
    for name in image_sets:
        try:
            check_split(name, image_sets[name].report_split)
            found.add(name)
        except FlowbenchError:
            continue
    for name in series_sets:
        try:
            series_path(name)
            found.add(name)
        except FlowbenchError:
            continue
    return found


def _published() -> dict[str, float]:
    """Return the published figure that each experiment reproduces, unchanged."""
    found: dict[str, float] = {}
    for table in readable_tables():
        for row in table.rows:
            figures = {figure.model: figure.value for figure in row.published}
            for entry in row.experiments:
                if entry.reproduces is not None and not entry.overrides:
                    found.setdefault(entry.name, figures[entry.reproduces])
    return found


def _parameters(experiment: Experiment[Any, Any]) -> int | None:
    """Count a density model's parameters without memory for them."""
    from flowbench.data.images import image_format

    if experiment.kind != "density":
        return None
    try:
        return _counted(experiment.model, *image_format(experiment.data))
    except (FlowbenchError, RuntimeError, NotImplementedError):
        return None  # images of no known size; a model that looks at values while it is built


@lru_cache(maxsize=128)  # many presets differ in their data alone
def _counted(config: Any, shape: tuple[int, int, int], levels: int) -> int:
    import torch

    with torch.device("meta"):
        model = config.build(shape, levels)
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
