"""The two errors of a batch of forecasts, and the gradient of the one that is trained on, in one pass each.

Torch's own losses give their gradient in the order of memory of the dimensions, whatever that of the forecast is: a
copy of it, a fifth of a linear forecaster's step at horizon 720 (2026-11).
"""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["mean_errors", "mean_errors_and_gradient"]


def mean_errors(forecast: Tensor, future: Tensor, *, of: Literal["mse", "mae"]) -> tuple[Tensor, Tensor]:
    """Return the mean squared and the mean absolute error, scalars.

    Args:
        forecast: of any shape.
        future: the truth, likewise; it gets no gradient.
        of: which of the two has a gradient; the other one has none.
    """
    errors: tuple[Tensor, Tensor] = _MeanErrors.apply(forecast, future, of)
    return errors


def mean_errors_and_gradient(
    forecast: Tensor, future: Tensor, *, of: Literal["mse", "mae"]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean squared and the mean absolute error, scalars, and the gradient that one of them has.

    The same numbers as those of `mean_errors`, without a graph.

    Args:
        forecast: of any shape; the gradient is written over it.
        future: the truth, likewise.
        of: which of the two.
    """
    error = forecast.sub_(future)
    squared, absolute = error.square().mean(), error.abs().mean()
    if of == "mse":
        return squared, absolute, error.mul_(2 / error.numel())
    return squared, absolute, error.sgn_().mul_(1 / error.numel())


class _MeanErrors(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, forecast: Tensor, future: Tensor, of: str) -> tuple[Tensor, Tensor]:
        error = forecast - future
        squared, absolute = error.square().mean(), error.abs().mean()
        ctx.of = of
        ctx.mark_non_differentiable(absolute if of == "mse" else squared)
        ctx.save_for_backward(error)
        return squared, absolute

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (error,) = ctx.saved_tensors
        if ctx.of == "mse":
            return error * (2 * (gradients[0] / error.numel())), None, None
        return error.sgn() * (gradients[1] / error.numel()), None, None
