"""What a model costs: floating-point operations for one image or window, counted once for each model."""

import json
from collections.abc import Mapping
from typing import Any

from flowbench.config.schema import Experiment
from flowbench.errors import FlowbenchError

__all__ = ["flops_of"]

_SHAPING = ("shape", "levels", "inputs", "targets", "rows_per_day")


def flops_of(experiment: Experiment[Any, Any], data: Mapping[str, Any]) -> int | None:
    """Return the operations of one log-likelihood, or of one forecast (`flops`); None where they cannot be counted.

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

    from flowbench.evaluation.flops import MOST_COUNTED, flops_per_item
    from flowbench.tasks.task import build_model

    try:
        model: Any = build_model(experiment, dict(data)).eval()
    except (FlowbenchError, KeyError):
        return None

    if experiment.kind == "density":
        images = torch.zeros(MOST_COUNTED, *data["shape"], dtype=torch.uint8)

        def forward(size: int) -> object:
            return model.terms(images[:size], torch.full((size, *model.noise_shape), 0.5))

    else:
        history = torch.zeros(MOST_COUNTED, experiment.data.lookback, len(data["inputs"]))

        def forward(size: int) -> object:
            return model(history[:size])

    with torch.no_grad():
        forward(MOST_COUNTED)
        (flops,) = flops_per_item(forward)
    return flops or None
