"""The networks inside couplings, and blocks of other networks: they alone may compute in reduced precision."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointFunction

from flowbench.densities.flows import bfloat16
from flowbench.densities.flows.normalization import unrecorded

__all__ = ["Conditioner", "Precision", "set_precision", "set_recompute"]

Precision = Literal[32, "bf16"]


class Conditioner(nn.Module, ABC):
    """A network that maps what a coupling passes to the parameters of what it transforms, or a block of a larger one.

    Its arithmetic may run in bfloat16 (`set_precision`); its output always has its input's type, so that
    log-determinants, normalizers and prior never leave float32.
    """

    takes_bfloat16: ClassVar[bool] = False
    """Whether `net` computes in bfloat16 by itself, given a bfloat16 input on a CPU (`densities.flows.bfloat16`)."""
    precision: Precision = 32
    recompute: bool = False
    folding: Sequence[Any] = ()
    """Its layers that fold weights together for evaluation and say whether the result is `finite` (`are_finite`)."""

    def forward(self, x: Tensor, *others: Tensor | None) -> Tensor:
        """Return the net's output for x, (batch, channels, height, width), and what else it takes, in x's type."""
        if not torch.is_grad_enabled():
            out = self._output(x, *others)
            return out if all(one.finite for one in self.folding) else torch.full_like(out, torch.nan)
        if not (self.recompute and self.training):
            return self._output(x, *others)
        # Not `checkpoint`, which imports torch's compiler: 124 MB (2026-11). A result has a gradient only where an
        # argument asks for one, and x may not: hence a parameter.
        again: Tensor = CheckpointFunction.apply(self._output_again, True, x, *others, next(self.parameters()))
        return again

    def _output_again(self, x: Tensor, *others: Tensor | None) -> Tensor:
        others = others[:-1]  # the last one is the parameter
        if torch.is_grad_enabled():
            # In the backward pass: the moving averages have seen the batch the first time.
            with unrecorded():
                return self._output(x, *others)
        # Networks may round otherwise where no gradients are asked for.
        with torch.enable_grad():
            return self._output(x, *others).detach()

    def _output(self, x: Tensor, *others: Tensor | None) -> Tensor:
        if self.precision == 32:
            return self.net(x, *others)
        if self.takes_bfloat16 and bfloat16.suits(x):
            # Autocast would cast at every operation, and what lies between the convolutions would stay as it is.
            return self.net(x.to(torch.bfloat16, memory_format=torch.channels_last), *others).to(x.dtype)
        with torch.autocast(x.device.type, torch.bfloat16):
            out = self.net(x, *others)
        return out.to(x.dtype)

    @abstractmethod
    def net(self, *inputs: Any, **named: Any) -> Tensor:
        """Return the output for x, (batch, channels, height, width), the first of the inputs."""


def set_precision(model: nn.Module, precision: Precision) -> None:
    """Let all conditioners of `model` compute in float32 (32) or in bfloat16 ("bf16"), most of them under autocast."""
    for module in model.modules():
        if isinstance(module, Conditioner):
            module.precision = precision


def set_recompute(model: nn.Module, recompute: bool) -> None:
    """Let all conditioners of `model` drop their activations in training and compute them again for the gradients.

    The result is the same to the last bit; a step takes a quarter to two fifths longer and keeps one network's
    activations at a time. Gradients are `Tensor.backward`'s: `torch.autograd.grad` raises a RuntimeError.
    """
    for module in model.modules():
        if isinstance(module, Conditioner):
            module.recompute = recompute
