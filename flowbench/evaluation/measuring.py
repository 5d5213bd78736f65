"""What a person may ask of a finished run's evaluation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Request", "limited", "stem_of"]


@dataclass(frozen=True)
class Request:
    """The options of `flowbench evaluate`; None: as the experiment says."""

    split: str | None = None
    data: str | None = None
    draws: int | None = None
    importance: int | None = None
    batch_norm: Literal["running", "population"] | None = None
    weights: Literal["raw", "ema"] | None = None
    samples: int | None = None
    limit: int | None = None


def limited(metrics: Mapping[str, Mapping[str, Any]], part: int, whole: int) -> dict[str, dict[str, Any]]:
    """Return the metrics, labelled `limited` where only `part` of the `whole` items was measured."""
    label = {} if part == whole else {"limited": f"{part:,} of {whole:,}"}
    return {name: {**metric, **label} for name, metric in metrics.items()}


def stem_of(name: str, fingerprint: str | None = None) -> str:
    """Return how a run's files about data are called: `name`, with digits of the content where it is not the run's.

    Args:
        name: of the set or file.
        fingerprint: of a content that is not that of the run's own data.
    """
    return name if fingerprint is None else f"{name}-{fingerprint[:12]}"
