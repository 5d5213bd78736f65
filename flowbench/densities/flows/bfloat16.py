"""Convolutions in bfloat16 with what surrounds them, on CPUs: sums are float32, and so are parameters and their gradients.

What torch's own kernels do between bfloat16 convolutions takes longer than the same in float32: they round by hand. Here
oneDNN does it in its pass over a convolution's result (biases, ReLU, a sum), or as a convolution of each channel with a
single number, at memory's speed with the processor's own rounding: 16 images of 16x16 pixels and 128 channels are
shifted and rectified in 80 µs where batch normalization and ReLU one by one take 170, and the convolution itself 2,200
(AVX512-BF16, torch 2.14, 2026-11).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from flowbench.densities.flows.normalization import EPSILON

__all__ = ["activated", "activated_convolution", "convolution", "convolve", "suits", "takes"]


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
    x: Tensor, kernels: Tensor, biases: Tensor | None, *, relu: bool = False, added: Tensor | None = None
) -> Tensor:
    """Return relu(x * kernels + biases), or without `relu` x * kernels + biases + added, bfloat16, without gradients.

    What is not a number comes out of the ReLU as 0.

    Args:
        x: bfloat16, (batch, channels_in, height, width), channels-last.
        kernels: bfloat16, (channels_out, channels_in, size, size), size odd; the padding keeps the image's.
        biases: float32, (channels_out,), or None.
        relu: whether the result is rectified.
        added: bfloat16, of the result's shape; not with `relu`.
    """
    padding = kernels.shape[-1] // 2
    if is_in_torch_dispatch_mode():
        # Whoever watches the operations is to see a convolution.
        y = F.conv2d(x, kernels, None if biases is None else biases.to(x.dtype), padding=padding)
        return y.relu_() if relu else y if added is None else y.add_(added)
    geometry = ([padding, padding], [1, 1], [1, 1], 1)
    if added is None:
        return _pointwise(x, kernels, biases, *geometry, "relu" if relu else "none", [], "")
    return _pointwise.binary(x, added, kernels, None if biases is None else biases.to(x.dtype), *geometry, "add", 1.0, None, [], None)


def activated(x: Tensor, shift: Tensor) -> Tensor:
    """Return relu(x + shift), bfloat16, without gradients.

    Args:
        x: bfloat16, (batch, channels, height, width), channels-last.
        shift: float32, (channels,).
    """
    channels = len(shift)
    return _pointwise(x, x.new_ones(channels, 1, 1, 1), shift, [0, 0], [1, 1], [1, 1], channels, "relu", [], "")


def convolution(
    x: Tensor, kernels: Tensor, biases: Tensor | None, *, relu: bool = False, added: Tensor | None = None
) -> Tensor:
    """Return what `convolve` returns, with gradients.

    Args:
        x: bfloat16, (batch, channels_in, height, width), channels-last.
        kernels, biases: float32, as are their gradients; see `convolve`.
        relu, added: see `convolve`.
    """
    if not torch.is_grad_enabled():
        return convolve(x, _cast(kernels), biases, relu=relu, added=added)
    y: Tensor = _Conv.apply(x, kernels, biases, relu, added)
    return y


def activated_convolution(
    x: Tensor, beta: Tensor, weights: Tensor, magnitude: Tensor | None, biases: Tensor | None, added: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return convolve(relu(batch_norm(x) + beta), kernels) + biases + added, normalized with the moments of the batch.

    The kernels are magnitude · W / ‖W‖ per output channel. With r = 1 / √(var + ε), relu(r·(x − mean) + beta) is
    r · relu(x + beta / r − mean), and the kernels take the factor r of their inputs.

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


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, kernels: Tensor, biases: Tensor | None, relu: bool, added: Tensor | None
    ) -> Tensor:
        kernels = _cast(kernels)
        y = convolve(x, kernels, biases, relu=relu, added=added)
        ctx.biased = biases is not None
        ctx.relu = relu
        ctx.save_for_backward(x, kernels, *([y] if relu else []))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (to_y,) = gradients
        x, kernels, *rectified = ctx.saved_tensors
        if rectified:
            to_y = torch.ops.aten.threshold_backward(to_y, rectified[0], 0)
        to_x, to_kernels, to_biases = _gradients(
            to_y, x, kernels, to_input=ctx.needs_input_grad[0], to_biases=ctx.biased
        )
        return to_x, to_kernels, to_biases, None, gradients[0] if ctx.needs_input_grad[4] else None


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
        # Buffers of float32 make float32 moments; with momentum 0 they stay as they are.
        mean, var = torch.ops.aten.batch_norm_update_stats(x, torch.zeros_like(beta), torch.ones_like(beta), 0.0)
        deviation = torch.sqrt(var + EPSILON)
        shift = torch.addcmul(-mean, beta, deviation)
        norms = weights.square().sum(dim=(1, 2, 3)).sqrt_()
        scale = norms.reciprocal() if magnitude is None else magnitude / norms
        kernels = _cast(weights * _by_pair(scale, deviation.reciprocal()))
        y = convolve(activated(x, shift), kernels, biases, added=added)
        ctx.mark_non_differentiable(mean, var)
        ctx.biased = biases is not None
        ctx.learned = magnitude is not None
        ctx.save_for_backward(x, beta, weights, kernels, mean, deviation, shift, norms, scale)
        return y, mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, beta, weights, kernels, mean, deviation, shift, norms, scale = ctx.saved_tensors
        h = activated(x, shift)
        to_h, to_kernels, to_biases = _gradients(gradients[0], h, kernels, to_input=True, to_biases=ctx.biased)
        to_h = torch.ops.aten.threshold_backward.grad_input(to_h, h, 0, grad_input=to_h)
        del h
        r = deviation.reciprocal()
        # Σ over taps of gradient · W for each pair of channels; summed one way it is the gradient along each kernel, the
        # other way that along each input channel's factor r, without another pass over the image.
        along = (to_kernels * weights).sum((2, 3))
        along_kernel, along_input = along @ r, scale @ along
        to_weights = to_kernels * _by_pair(scale, r)
        to_weights.addcmul_(weights, (scale * along_kernel / norms.square()).view(-1, 1, 1, 1), value=-1)
        to_magnitude = along_kernel / norms if ctx.learned else None
        # d/dx of batch normalization: g − mean(g) − x̂ · mean(g · x̂), x̂ = r · (x − mean), over all values of a channel.
        total = to_h.sum((0, 2, 3)).float()
        count = x.numel() // x.shape[1]
        slope = (-r * (r.square() * along_input - beta * total) / count).to(x.dtype)
        _pointwise_.binary(
            to_h,
            x,
            slope.view(-1, 1, 1, 1),
            (-total / count - slope * mean).to(x.dtype),
            [0, 0], [1, 1], [1, 1], len(slope), "add", 1.0, None, [], None,
        )  # fmt: skip
        added = gradients[0] if ctx.needs_input_grad[5] else None
        return to_h, total * deviation, to_weights, to_magnitude, to_biases, added


_pointwise = torch.ops.mkldnn._convolution_pointwise
_pointwise_ = torch.ops.mkldnn._convolution_pointwise_


def _cast(kernels: Tensor) -> Tensor:
    return kernels.to(torch.bfloat16, memory_format=torch.channels_last)


def _by_pair(of_outputs: Tensor, of_inputs: Tensor) -> Tensor:
    return torch.outer(of_outputs, of_inputs)[:, :, None, None]


def _gradients(
    to_y: Tensor, x: Tensor, kernels: Tensor, *, to_input: bool, to_biases: bool
) -> tuple[Tensor | None, Tensor, Tensor | None]:
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
        output_mask=[to_input, True, to_biases],
    )
    to_kernels = to_kernels.to(torch.float32, memory_format=torch.channels_last)
    return to_x, to_kernels, to_b.float() if to_biases else None
