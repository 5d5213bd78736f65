"""Torch's fused Adam and AdamW that collect their tensors once, not at every step, on a CPU.

Of a small model's step the collecting is a large part: parameter by parameter in Python, then grouped by device and
type.
"""

import inspect
import operator
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["FusedAdam"]


class _Tensors(NamedTuple):
    """What a step of one group reads and writes, a tensor for each parameter."""

    parameters: list[Tensor]
    gradients: list[Tensor]
    means: list[Tensor]
    squares: list[Tensor]
    largest: list[Tensor]
    steps: list[Tensor]


class FusedAdam(torch.optim.Adam):
    """`torch.optim.Adam(fused=True)`, AdamW with `decoupled_weight_decay=True`: the same numbers and the same state."""

    _collected: tuple[Any, list[_Tensors]] | None = None
    """The state whose tensors are listed, and those of each group."""

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move all parameters that have gradients."""
        if any(parameter.is_cuda for group in self.param_groups for parameter in group["params"][:1]):
            inspect.unwrap(torch.optim.Adam.step)(self)
            return
        for group, tensors in zip(self.param_groups, self._tensors(), strict=True):
            if not tensors.parameters:
                continue
            first, second = group["betas"]
            torch._foreach_add_(tensors.steps, 1)
            move = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
            move(
                *tensors,
                lr=group["lr"],
                beta1=first,
                beta2=second,
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
            )

    def _tensors(self) -> list[_Tensors]:
        # A checkpoint that is loaded brings a state of its own; gradients may be taken anew.
        if self._collected is not None and self._collected[0] is self.state:
            groups = self._collected[1]
            if all(map(_still_those, self.param_groups, groups)):
                return groups
        groups = []
        for group in self.param_groups:
            tensors = _Tensors([], [], [], [], [], [])
            self._init_group(group, *tensors)  # type: ignore[no-untyped-call]
            groups.append(tensors)
        self._collected = self.state, groups
        return groups


def _still_those(group: dict[str, Any], tensors: _Tensors) -> bool:
    gradients = [parameter.grad for parameter in group["params"] if parameter.grad is not None]
    return len(gradients) == len(tensors.gradients) and all(map(operator.is_, gradients, tensors.gradients))
