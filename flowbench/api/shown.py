"""How a run shows itself in a notebook: figure ± error, labels, curve."""

import io
from html import escape
from typing import Any

from flowbench.config.metric_words import value_in_words
from flowbench.runs.folder import RunFolder

__all__ = ["metric_of", "run_html", "svg_of"]

LABELS = ("n", "draws", "levels", "bound", "dequantization", "batch_norm", "weights", "resample", "limited")


def metric_of(kind: str) -> str:
    """Return the metric that a run of this kind is known by."""
    return "bits_per_dim" if kind == "density" else "mae"


def run_html(run: RunFolder) -> str:
    """Return a run as HTML; one that is not finished says so."""
    from flowbench.report.curves import training_curves

    experiment = run.experiment
    metric = metric_of(experiment.kind)
    parts = [f"<b>{escape(experiment.name)}</b>, seed {experiment.seed} <code>{escape(str(run.path))}</code>"]
    if run.finished:
        result = run.result
        parts += [
            _figure(split, metric, found[metric]) for split, found in result["metrics"].items() if metric in found
        ]
        said = [result.get("data_status"), result.get("budget"), f"{result['parameters']:,} parameters"]
        parts.append(f"<small>{escape(', '.join(str(one) for one in said if one))}</small>")
    else:
        parts.append(f"not finished: step {run.step:,}")
    curve = training_curves([run.metrics()], metric, experiment.model.name)
    return "<div>" + "<br>".join(parts) + ("" if curve is None else svg_of(curve)) + "</div>"


def svg_of(drawing: Any) -> str:
    """Return a matplotlib figure as an SVG element, without the head of a file."""
    buffer = io.StringIO()
    drawing.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _figure(split: str, metric: str, figure: dict[str, Any]) -> str:
    from flowbench.report.formats import unit

    labels = [f"{key.replace('_', ' ')} {figure[key]}" for key in LABELS if figure.get(key) is not None]
    value = escape(f"{value_in_words(figure)} {unit(metric)}")
    return f"{escape(split)}: <b>{value}</b> <small>({escape(', '.join(labels))})</small>"
