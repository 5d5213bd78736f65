"""The card of an exported model: what it is, its figures with their labels, how to use it, under which terms."""

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from flowbench.config.metric_words import known_values, remarks, value_in_words
from flowbench.config.registry import image_sets, series_sets
from flowbench.config.schema import Experiment

__all__ = ["model_card"]

LABELS = (
    "n",
    "levels",
    "dequantization",
    "draws",
    "bound",
    "K",
    "batch_norm",
    "weights",
    "resample",
    "samples",
    "limited",
)
UNITS = {"bits_per_dim": "bits/dim"}

_USE = {
    "density": """\
```python
import flowbench

model = flowbench.load_run("{folder}")            # uint8 images, (n, channels, height, width)
images = model.sample(16, temperature=0.8)
bits = model.bits_per_dim(images, draws=8)        # per image
```
""",
    "forecast": """\
```python
import flowbench

forecaster = flowbench.load_run("{folder}")       # normalized history in, normalized future out
```

`environment.json` holds the scaler (`data.mean`, `data.std`, by `data.inputs`) that the history must pass through.
`flowbench forecast {folder} --data FILE.csv` does it all: the rows that follow the file's end, in its units.
""",
}


def model_card(
    experiment: Experiment[Any, Any],
    result: Mapping[str, Any],
    environment: Mapping[str, Any],
    folder: str,
    licence: str,
) -> str:
    """Return the card as Markdown with the YAML head that model hubs read.

    Args:
        experiment: what was trained.
        result: the content of the run's `result.json`.
        environment: the content of its `environment.json`.
        folder: the name of the folder that the card lies in, as a program beside it loads it.
        licence: of the weights.
    """
    each = "window" if experiment.kind == "forecast" else "image"
    lines = [
        "---",
        yaml.safe_dump(_head(experiment, result, licence), sort_keys=False, allow_unicode=True).rstrip(),
        "---",
        "",
        f"# {experiment.name}",
        "",
        f"Model `{experiment.model.name}` ({result['parameters']:,} parameters), trained on {result['dataset']} for "
        f"{result['steps']:,} steps by flowbench {environment.get('flowbench')}, seed {result['seed']}.",
        f"Budget: {result['budget']}. Data: {result['data_status']}, fingerprint `{result['data_fingerprint']}`.",
        "",
        "## Figures",
        "",
        "| split | metric | value | labels |",
        "|---|---|---|---|",
        *_figures(result),
        "",
        "## Use",
        "",
        _USE[experiment.kind].format(folder=folder),
        f"`flowbench evaluate {folder}` measures it again, {each} by {each}, where its data are.",
        f"`config.yaml` is the whole experiment: `flowbench train {folder}/config.yaml` trains it anew.",
        "",
        "## Terms",
        "",
        f"Licence of the weights: {licence}. {_data_terms(experiment, result)}",
        "",
        "`manifest.json` has the SHA-256 of the weights, the config and the result; flowbench checks them on loading.",
        "",
    ]
    return "\n".join(lines)


def _head(experiment: Experiment[Any, Any], result: Mapping[str, Any], licence: str) -> dict[str, Any]:
    forecast = experiment.kind == "forecast"
    task = (
        {"type": "time-series-forecasting", "name": "Forecasting"}
        if forecast
        else {"type": "unconditional-image-generation", "name": "Density estimation"}
    )
    tested_on = (experiment.data.test_on if forecast else None) or result["dataset"]
    measured_on = {split: tested_on if split == "test" else result["dataset"] for split in result["metrics"]}
    results = [
        {
            "task": dict(task),  # an anchor for each that is the same would stand in the file
            "dataset": {"type": measured_on[split], "name": measured_on[split], "split": split},
            "metrics": [
                {"type": name, "value": value, "name": UNITS.get(key, key)}
                for name, metric in metrics.items()
                for key, value in known_values(name, metric).items()
            ],
        }
        for split, metrics in result["metrics"].items()
    ]
    return {
        "license": licence,
        "library_name": "flowbench",
        "pipeline_tag": task["type"],
        "tags": ["flowbench", experiment.kind, experiment.model.name],
        "datasets": [result["dataset"]],
        "model-index": [{"name": experiment.name, "results": results}],
    }


def _figures(result: Mapping[str, Any]) -> Iterator[str]:
    for split, metrics in result["metrics"].items():
        for name, metric in metrics.items():
            labels = [f"{key.replace('_', ' ')} {metric[key]}" for key in LABELS if metric.get(key) is not None]
            described = ", ".join([*labels, *remarks(name, metric)])
            yield f"| {split} | {UNITS.get(name, name)} | {value_in_words(metric)} | {described} |"


def _data_terms(experiment: Experiment[Any, Any], result: Mapping[str, Any]) -> str:
    sets = image_sets if experiment.kind == "density" else series_sets
    name = result["dataset"]
    if name not in sets or not sets[name].citation or getattr(experiment.data, "csv", None) is not None:
        return f"The terms of its training data, {name}, are its owner's."
    known = sets[name]
    return f"Training data: {known.title} ({known.published}), terms: {known.licence}; cite {known.citation}."
