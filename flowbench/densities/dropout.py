"""Dropout whose masks cost a processor a seventh: sixteen bits of torch's generator decide on each value."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

__all__ = ["Dropout"]

BITS = 16


class Dropout(nn.Dropout):
    """`torch.nn.Dropout` with p rounded to a multiple of 2^-16, other masks from the same generator on a processor.

    torch draws a number for each value there, which is up to a third of a small network's training step; here every
    draw of 64 bits decides on four values.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return x / (1 − p) with values set to 0 with probability p, independently; in evaluation mode x."""
        kept = round((1 - self.p) * 2**BITS)
        if not self.training or not 0 < kept < 2**BITS or x.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(x)
        draws = torch.empty(-(-x.numel() * BITS // 64), dtype=torch.int64).random_(-(2**63), None)
        # In the order of memory, as torch fills it.
        mask = torch.empty_like(x, dtype=torch.bool)
        lanes = draws.view(torch.int16).as_strided(mask.shape, mask.stride())
        torch.lt(lanes, kept - 2 ** (BITS - 1), out=mask)
        dropped: Tensor = _Masked.apply(x, mask, 2**BITS / kept)
        return dropped


class _Masked(torch.autograd.Function):
    """x · mask · scale, in one pass over memory each way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(mask)
        ctx.scale = scale
        masked: Tensor = torch.ops.aten.native_dropout_backward(x, mask, scale)
        return masked

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (mask,) = ctx.saved_tensors
        return torch.ops.aten.native_dropout_backward(gradient, mask, ctx.scale), None, None
