"""What a row of metrics is made of: sums over the steps since the row before."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

__all__ = ["Window"]


@dataclass
class Window:
    """Sums over the steps since the last logged row, kept on the device so that no step waits for it."""

    keys: list[str] = field(default_factory=list)
    sums: Tensor | None = None
    """Of the values of the steps that were taken, by key, and the number of these steps at last, (keys + 1,)."""
    steps: int = 0
    seconds: float = 0.0
    """That the steps took: no validation, no row and no checkpoint between them."""

    def add(self, values: Mapping[str, Tensor], finite: Tensor) -> None:
        """Take in a step's values, scalars; `finite` is 0 for a step that was skipped, else 1."""
        self.keys = list(values)
        row = torch.stack([*(value.float() for value in values.values()), finite])
        if not finite.is_cpu or not finite:
            # 0 · NaN is NaN: a skipped step's values are replaced, not multiplied away.
            row = torch.where(finite > 0, row, 0.0)
        self.sums = row if self.sums is None else self.sums.add_(row)
        self.steps += 1

    def means(self) -> dict[str, float]:
        """Return the mean of each value over the steps that were taken, as `train/<key>`; waits for the device."""
        if self.sums is None:
            return {}
        *values, good = self.sums.tolist()
        return {f"train/{key}": value / good for key, value in zip(self.keys, values, strict=True)} if good else {}

    def state_dict(self) -> dict[str, Any]:
        """Return it as tensors and plain values."""
        return {"keys": self.keys, "sums": self.sums, "steps": self.steps, "seconds": self.seconds}

    @classmethod
    def of(cls, state: Mapping[str, Any], device: torch.device) -> "Window":
        """Return the one that `state_dict` tells of."""
        sums = state["sums"]
        return cls(list(state["keys"]), None if sums is None else sums.to(device), state["steps"], state["seconds"])
