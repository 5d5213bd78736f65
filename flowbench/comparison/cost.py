"""What a model costs: floating-point operations for one image or window, counted once for each model."""

import json
from collections.abc import Mapping
from typing import Any

from flowbench.errors import FlowbenchError
from flowbench.schema import Experiment

__all__ = ["flops_of"]

_SHAPING = ("shape", "levels", "inputs", "targets", "rows_per_day")


def flops_of(experiment: Experiment[Any, Any], data: Mapping[str, Any]) -> int | None:
    """Return the operations of one log-likelihood, or of one forecast; None where they cannot be counted.

    Convolutions and matrix products, 2 for a multiply-add (`torch.utils.flop_counter`).

    Args:
        experiment: the run's.
        data: what its `environment.json` says of the data.
    """
    shaping = {key: data[key] for key in _SHAPING if key in data}
    sizes = experiment.model_dump(mode="json", include={"model", "data"})
    key = json.dumps([sizes, shaping], sort_keys=True)
    if key not in _counted:
        _counted[key] = _count(experiment, data)
    return _counted[key]


_counted: dict[str, int | None] = {}


def _count(experiment: Experiment[Any, Any], data: Mapping[str, Any]) -> int | None:
    import torch

    from flowbench.task import build_model
    from flowbench.throughput.convolutions import record

    try:
        model: Any = build_model(experiment, dict(data)).eval()
    except (FlowbenchError, KeyError):
        return None

    def once() -> None:
        with torch.no_grad():
            if experiment.kind == "density":
                shape = (1, *data["shape"])
                model.terms(torch.zeros(shape, dtype=torch.uint8), torch.full(shape, 0.5))
            else:
                model(torch.zeros(1, experiment.data.lookback, len(data["inputs"])))

    _, flops = record(once)
    return flops or None
