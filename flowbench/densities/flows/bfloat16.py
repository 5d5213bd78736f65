"""Convolutions in bfloat16 with what surrounds them, on CPUs; sums, parameters and their gradients are float32.

Under autocast every operation casts, and the operations that keep an activation for the gradients keep two of them.
Here an activation stays bfloat16 and is kept once, kernels are cast where they are made, and what follows a convolution
(biases, ReLU, a sum) is oneDNN's to do in its pass over the result.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from flowbench.densities.flows.normalization import EPSILON

__all__ = ["activated", "activated_convolution", "convolution", "convolve", "suits", "takes"]

_SUM: tuple[str, float, None, list[float], None] = ("add", 1.0, None, [], None)
"""What oneDNN is to do with a convolution's result: to add something."""


def suits(x: Tensor) -> bool:
    """Say whether a network for which this module has what it needs computes x, float32, in bfloat16 by it.

    Else it does so under autocast: on a GPU, compiled, or on a CPU whose bfloat16 oneDNN does not know.
    """
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.numel() > 0
        and not torch.compiler.is_compiling()
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


def takes(x: Tensor) -> bool:
    """Say whether x is inside such a network."""
    return x.dtype == torch.bfloat16 and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")


def convolve(
    x: Tensor,
    kernels: Tensor,
    biases: Tensor | None,
    *,
    relu: bool = False,
    added: Tensor | None = None,
    into: Tensor | None = None,
    padded: bool = False,
) -> Tensor:
    """Return relu(x * kernels + biases), or without `relu` x * kernels + biases + added, without gradients.

    What is not a number comes out of the ReLU as 0.

    Args:
        x: bfloat16, (batch, channels_in, height, width), channels-last.
        kernels: bfloat16, (channels_out, channels_in, size, size), size odd; zeros around x keep its size.
        biases: float32, (channels_out,), or None.
        relu: whether the result is rectified.
        added: bfloat16, of the result's shape; not with `relu`.
        into: like `added`, but the result takes its place.
        padded: x has what lies around it already: the result is smaller by size − 1.
    """
    if is_in_torch_dispatch_mode():
        # Whoever watches the operations is to see a convolution.
        y = convolution(x, kernels, biases, relu=relu, into=into, padded=padded)
        return y if added is None else y.add_(added)
    padding = 0 if padded else kernels.shape[-1] // 2
    geometry = ([padding, padding], [1, 1], [1, 1], 1)
    onednn = torch.ops.mkldnn
    other = added if into is None else into
    if other is None:
        result: Tensor = onednn._convolution_pointwise(
            x, kernels, biases, *geometry, "relu" if relu else "none", [], ""
        )
        return result
    biases = None if biases is None else biases.to(x.dtype)  # torch takes no others here
    if into is None:
        result = onednn._convolution_pointwise.binary(x, other, kernels, biases, *geometry, *_SUM)
    else:
        result = onednn._convolution_pointwise_.binary(into, x, kernels, biases, *geometry, *_SUM)
    return result


def activated(x: Tensor, shift: Tensor) -> Tensor:
    """Return relu(x + shift), without gradients, as a convolution of each channel with 1.

    On an idle core it takes half the time of batch normalization and ReLU one by one (AVX512-BF16, 2026-11).

    Args:
        x: bfloat16, (batch, channels, height, width), channels-last.
        shift: float32, (channels,).
    """
    channels = len(shift)
    geometry = ([0, 0], [1, 1], [1, 1], channels)
    ones = x.new_ones(channels, 1, 1, 1)
    y: Tensor = torch.ops.mkldnn._convolution_pointwise(x, ones, shift, *geometry, "relu", [], "")
    return y


def convolution(
    x: Tensor,
    kernels: Tensor,
    biases: Tensor | None,
    *,
    relu: bool = False,
    into: Tensor | None = None,
    padded: bool = False,
) -> Tensor:
    """Return what `convolve` returns, with gradients.

    Args:
        x: bfloat16, (batch, channels_in, height, width), channels-last.
        kernels, biases: float32, as are their gradients; see `convolve`.
        relu, into, padded: see `convolve`; no gradient may need what `into` was before.
    """
    padding = 0 if padded else kernels.shape[-1] // 2
    # One by one: an operation of our own takes Python in the backward pass, longer than what it saves of these.
    y = F.conv2d(x, kernels.to(x.dtype), None if biases is None else biases.to(x.dtype), padding=padding)
    return y.relu_() if relu else y if into is None else into.add_(y)


def activated_convolution(
    x: Tensor, beta: Tensor, weights: Tensor, magnitude: Tensor | None, biases: Tensor | None, added: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return convolve(relu(batch_norm(x) + beta), kernels) + biases + added, normalized with the moments of the batch.

    The kernels are magnitude · W / ‖W‖ per output channel. As in the float32 one nothing is kept of an activation but
    x: the rest is found again.

    Args:
        x: bfloat16, (batch, channels_in, height, width), channels-last.
        beta: float32, (channels_in,).
        weights: W, float32, (channels_out, channels_in, size, size), channels-last.
        magnitude: float32, (channels_out,), or None: 1.
        biases: float32, (channels_out,), or None.
        added: bfloat16, (batch, channels_out, height, width), or None.

    Returns:
        bfloat16, (batch, channels_out, height, width), and x's mean and biased variance, float32, (channels_in,),
        without gradients. There are no second derivatives.
    """
    result: tuple[Tensor, Tensor, Tensor] = _ActivatedConv.apply(x, beta, weights, magnitude, biases, added)
    return result


class _ActivatedConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        beta: Tensor,
        weights: Tensor,
        magnitude: Tensor | None,
        biases: Tensor | None,
        added: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        # What is kept is taken before anything that is given back, to leave no gaps in memory; the result's place too.
        place = x.new_empty(len(x), len(weights), *x.shape[2:])
        kernels = torch.empty_like(weights, dtype=x.dtype)
        # Given buffers of float32 the moments are float32; with momentum 1 they become those of the batch.
        mean, var = torch.zeros_like(beta), torch.zeros_like(beta)
        h = F.batch_norm(x, mean, var, None, beta, training=True, momentum=1.0, eps=EPSILON).relu_()
        count = x.numel() // x.shape[1]
        var *= (count - 1) / count
        magnitude = weights.new_ones(len(weights)) if magnitude is None else magnitude
        normalized, norms = torch.ops.aten._weight_norm_interface(_rows(weights), magnitude.view(-1, 1, 1, 1), 0)
        kernels.copy_(normalized.permute(0, 3, 1, 2))
        del place, normalized
        y = convolve(h, kernels, biases, added=added)
        ctx.mark_non_differentiable(mean, var)
        ctx.biased, ctx.added = biases is not None, added is not None
        ctx.save_for_backward(x, beta, weights, magnitude, kernels, mean, var, norms)
        return y, mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, beta, weights, magnitude, kernels, mean, var, norms = ctx.saved_tensors
        h = F.batch_norm(x, mean, var, None, beta, eps=EPSILON).relu_()
        to_h, to_kernels, to_biases = _gradients(gradients[0], h, kernels, to_biases=ctx.biased)
        torch.ops.aten.threshold_backward.grad_input(to_h, h, 0, grad_input=to_h)
        del h
        to_x, _, to_beta = torch.ops.aten.native_batch_norm_backward(
            to_h, x, None, None, None, mean, torch.rsqrt(var + EPSILON), True, EPSILON, [True, False, True]
        )
        to_weights, to_magnitude = torch.ops.aten._weight_norm_interface_backward(
            _rows(to_kernels), _rows(weights), magnitude.view(-1, 1, 1, 1), norms, 0
        )
        return (
            to_x,
            to_beta,
            to_weights.permute(0, 3, 1, 2),
            to_magnitude.flatten() if ctx.needs_input_grad[3] else None,
            to_biases,
            gradients[0] if ctx.added else None,
        )


def _rows(kernels: Tensor) -> Tensor:
    """Return kernels with their dimensions in the order of channels-last memory: all of a kernel lies together."""
    return kernels.permute(0, 2, 3, 1).contiguous()


def _gradients(to_y: Tensor, x: Tensor, kernels: Tensor, *, to_biases: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the gradients with respect to x, bfloat16, kernels and biases, float32, of a convolution."""
    padding = kernels.shape[-1] // 2
    to_x, to_kernels, to_b = torch.ops.aten.convolution_backward(
        to_y,
        x,
        kernels,
        bias_sizes=[len(kernels)] if to_biases else None,
        stride=[1, 1],
        padding=[padding, padding],
        dilation=[1, 1],
        transposed=False,
        output_padding=[0, 0],
        groups=1,
        output_mask=[True, True, to_biases],
    )
    to_kernels = to_kernels.to(torch.float32, memory_format=torch.channels_last)
    return to_x, to_kernels, to_b.float() if to_biases else None
