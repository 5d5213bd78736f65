"""What a person may ask of a finished run's evaluation."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["Request"]


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
