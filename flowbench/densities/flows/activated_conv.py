"""Batch normalization, ReLU and convolution as one operation that keeps its input and nothing else, on CPUs.

One by one they keep the input of the normalization and the output of the ReLU, each of the size of an activation, for
the backward pass. The second is found again from the first in two passes over it.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from flowbench.densities.flows import winograd
from flowbench.densities.flows.normalization import EPSILON
from flowbench.densities.flows.products import product

__all__ = ["activated_convolution", "convolve", "convolve_and_rectify", "convolve_columns_and_rectify", "rectifies"]

LEAST_WIDE = 128
"""Channels from which on a convolution of fewer is a matrix product: into 36 channels it is no faster."""


def convolve(x: Tensor, kernels: Tensor, biases: Tensor | None) -> Tensor:
    """Convolve x with odd square kernels, stride 1 and zero padding that keeps its size, by the fastest way there is.

    Where gradients are recorded that is torch's own; `activated_convolution` knows those of the others.
    """
    if not torch.is_grad_enabled() and winograd.suits(x, kernels):
        return winograd.convolve(x, kernels, biases)
    return F.conv2d(x, kernels, biases, padding=kernels.shape[-1] // 2)


def rectifies(x: Tensor, kernels: Tensor) -> bool:
    """Say whether `convolve_and_rectify` takes this image and these kernels, and saves a pass over memory.

    It does not for whoever watches the operations (a count of FLOPs, say): the model's own convolution is to be seen.
    """
    return (
        not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and x.device.type == "cpu"
        and x.dtype == kernels.dtype == torch.float32
        and len(x) > 0
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and not is_in_torch_dispatch_mode()
    )


def convolve_and_rectify(x: Tensor, kernels: Tensor, biases: Tensor | None) -> Tensor:
    """Return relu(conv2d(x, kernels, biases)) without padding, by oneDNN in one pass; no gradients."""
    if biases is not None and _is_widening(kernels):
        return convolve_columns_and_rectify(x, kernels, biases)
    y: Tensor = torch.ops.mkldnn._convolution_pointwise(x, kernels, biases, [0, 0], [1, 1], [1, 1], 1, "relu", [], "")
    return y


def convolve_columns_and_rectify(x: Tensor, kernels: Tensor, biases: Tensor) -> Tensor:
    """Return what `convolve_and_rectify` does, of few channels into many, as one matrix product.

    Of 16 images, 7 to 25 channels into 256 it takes 0.7 of the time with AVX-512, of 64 images into 512 channels 0.6,
    and gives the same numbers to the last bit: oneDNN adds the same products in the same order (2026-11).
    """
    size = kernels.shape[-1]
    height, width = x.shape[2] - size + 1, x.shape[3] - size + 1
    pixels = x.permute(0, 2, 3, 1).contiguous()
    windows = pixels.unfold(1, size, 1).unfold(2, size, 1).permute(0, 1, 2, 4, 5, 3)
    rows = kernels.permute(0, 2, 3, 1).flatten(1)
    y = product(windows.reshape(-1, rows.shape[1]), rows, biases, relu=True)
    return y.view(len(x), height, width, -1).permute(0, 3, 1, 2)


def _is_widening(kernels: Tensor) -> bool:
    return (
        kernels.shape[-1] > 1
        and len(kernels) >= LEAST_WIDE
        and kernels.shape[1] < LEAST_WIDE
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
    )


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
