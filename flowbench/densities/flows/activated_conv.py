"""Batch normalization, ReLU and convolution as one operation that keeps its input and nothing else, on CPUs.

One by one they keep the input of the normalization and the output of the ReLU, each of the size of an activation, for
the backward pass. The second is found again from the first in two passes over it.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from flowbench.densities.flows import winograd
from flowbench.densities.flows.normalization import EPSILON

__all__ = ["activated_convolution", "convolve"]


def convolve(x: Tensor, kernels: Tensor, biases: Tensor | None) -> Tensor:
    """Convolve x with odd square kernels, stride 1 and zero padding that keeps its size, by the fastest way there is.

    Where gradients are recorded that is torch's own; `activated_convolution` knows those of the others.
    """
    if not torch.is_grad_enabled() and winograd.suits(x, kernels):
        return winograd.convolve(x, kernels, biases)
    return F.conv2d(x, kernels, biases, padding=kernels.shape[-1] // 2)


def activated_convolution(
    x: Tensor, beta: Tensor, kernels: Tensor, biases: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return convolve(relu(batch_norm(x) + beta), kernels, biases), normalized with the moments of the batch.

    Args:
        x: (batch, channels_in, height, width).
        beta: (channels_in,).
        kernels: (channels_out, channels_in, size, size).
        biases: (channels_out,), or None.

    Returns:
        (batch, channels_out, height, width), and x's mean and biased variance, (channels_in,), without gradients. There
        are no second derivatives.
    """
    result: tuple[Tensor, Tensor, Tensor] = _ActivatedConv.apply(x, beta, kernels, biases)
    return result


class _ActivatedConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, beta: Tensor, kernels: Tensor, biases: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        mean, var = torch.ops.aten.batch_norm_update_stats(x, None, None, 0.0)
        ctx.mark_non_differentiable(mean, var)
        ctx.biased = biases is not None
        ctx.save_for_backward(x, beta, kernels, mean, var)
        return convolve(_activated(x, mean, var, beta), kernels, biases), mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        x, beta, kernels, mean, var = ctx.saved_tensors
        h = _activated(x, mean, var, beta)
        to_h, to_kernels = _gradients(gradients[0], h, kernels)
        torch.ops.aten.threshold_backward.grad_input(to_h, h, 0, grad_input=to_h)
        del h
        to_x, _, to_beta = torch.ops.aten.native_batch_norm_backward(
            to_h, x, None, None, None, mean, torch.rsqrt(var + EPSILON), True, EPSILON, [True, False, True]
        )
        return to_x, to_beta, to_kernels, gradients[0].sum((0, 2, 3)) if ctx.biased else None


def _activated(x: Tensor, mean: Tensor, var: Tensor, beta: Tensor) -> Tensor:
    return F.batch_norm(x, mean, var, None, beta, eps=EPSILON).relu_()


def _gradients(to_y: Tensor, h: Tensor, kernels: Tensor) -> tuple[Tensor, Tensor]:
    if winograd.suits(h, kernels):
        return winograd.gradients(to_y, h, kernels)
    padding = kernels.shape[-1] // 2
    to_h, to_kernels, _ = torch.ops.aten.convolution_backward(
        to_y,
        h,
        kernels,
        bias_sizes=None,
        stride=[1, 1],
        padding=[padding, padding],
        dilation=[1, 1],
        transposed=False,
        output_padding=[0, 0],
        groups=1,
        output_mask=[True, True, False],
    )
    return to_h, to_kernels
