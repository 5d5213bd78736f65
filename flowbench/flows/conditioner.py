"""The networks inside couplings: they alone may compute in reduced precision."""

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

__all__ = ["Conditioner", "Precision", "set_precision"]

Precision = Literal[32, "bf16"]


class Conditioner(nn.Module, ABC):
    """A network that maps what a coupling passes to the parameters of what it transforms.

    Its arithmetic may run in bfloat16 (`set_precision`); its output always has its input's type, so that
    log-determinants, normalizers and prior never leave float32.
    """

    precision: Precision = 32

    def forward(self, x: Tensor) -> Tensor:
        """Return the net's output for x, (batch, channels, height, width), in x's type."""
        if self.precision == 32:
            return self.net(x)
        with torch.autocast(x.device.type, torch.bfloat16):
            out = self.net(x)
        return out.to(x.dtype)

    @abstractmethod
    def net(self, x: Tensor) -> Tensor:
        """Return the output for x, (batch, channels, height, width)."""


def set_precision(model: nn.Module, precision: Precision) -> None:
    """Let all conditioners of `model` compute in float32 (32) or under bfloat16 autocast ("bf16")."""
    for module in model.modules():
        if isinstance(module, Conditioner):
            module.precision = precision
