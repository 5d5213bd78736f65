"""Convolutions in bfloat16 with what surrounds them, on CPUs; sums, parameters and their gradients are float32.

What torch's own kernels do between bfloat16 convolutions takes longer than the same in float32: they round by hand.
Here oneDNN does it in its pass over a convolution's result (biases, ReLU, a sum), or as a convolution of each channel
with a single number, at memory's speed and with the processor's own rounding: 16 images of 16x16 pixels and 128
channels are shifted and rectified in 80 µs where batch normalization and ReLU one by one take 170, and the convolution
itself 2,200 (AVX512-BF16, torch 2.14, 2026-11).
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
    padding = 0 if padded else kernels.shape[-1] // 2
    if is_in_torch_dispatch_mode():
        # Whoever watches the operations is to see a convolution.
        y = F.conv2d(x, kernels, None if biases is None else biases.to(x.dtype), padding=padding)
        return y.relu_() if relu else into.add_(y) if into is not None else y if added is None else y.add_(added)
    geometry = ([padding, padding], [1, 1], [1, 1], 1)
    other = added if into is None else into
    if other is None:
        result: Tensor = _pointwise(x, kernels, biases, *geometry, "relu" if relu else "none", [], "")
        return result
    biases = None if biases is None else biases.to(x.dtype)  # torch takes no others here
    if into is None:
        result = _pointwise.binary(x, other, kernels, biases, *geometry, *_SUM)
        return result
    _add_to(into, x, kernels, biases, *geometry, *_SUM)
    return into


def activated(x: Tensor, shift: Tensor) -> Tensor:
    """Return relu(x + shift), bfloat16, without gradients.

    Args:
        x: bfloat16, (batch, channels, height, width), channels-last.
        shift: float32, (channels,).
    """
    channels = len(shift)
    y: Tensor = _pointwise(x, x.new_ones(channels, 1, 1, 1), shift, *_EACH, channels, "relu", [], "")
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
    y: Tensor = _Conv.apply(x, kernels, biases, relu, into, padded)
    return y


def activated_convolution(
    x: Tensor, beta: Tensor, weights: Tensor, magnitude: Tensor | None, biases: Tensor | None, added: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return convolve(relu(batch_norm(x) + beta), kernels) + biases + added, normalized with the moments of the batch.

    The kernels are magnitude · W / ‖W‖ per output channel. With d = √(var + ε), relu((x − mean) / d + beta) is
    relu(x + beta · d − mean) / d, and the kernels take the factor 1 / d of their inputs.

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
        ctx: Any,
        x: Tensor,
        kernels: Tensor,
        biases: Tensor | None,
        relu: bool,
        into: Tensor | None,
        padded: bool,
    ) -> Tensor:
        kernels = kernels.to(torch.bfloat16)
        y = convolve(x, kernels, biases, relu=relu, into=into, padded=padded)
        if into is not None:
            ctx.mark_dirty(into)
        ctx.biased, ctx.added, ctx.padded = biases is not None, into is not None, padded
        ctx.save_for_backward(x, kernels, *([y] if relu else []))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (to_y,) = gradients
        x, kernels, *rectified = ctx.saved_tensors
        if rectified:
            to_y = _where_positive(to_y, rectified[0])
        to_x, to_kernels, to_biases = _gradients(
            to_y, x, kernels, to_input=ctx.needs_input_grad[0], to_biases=ctx.biased, padded=ctx.padded
        )
        return to_x, to_kernels, to_biases, None, to_y if ctx.added else None, None


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
        # Given buffers of float32 the moments are float32; with momentum 0 nothing comes of what is in them.
        mean, var = torch.ops.aten.batch_norm_update_stats(x, torch.empty_like(beta), torch.empty_like(beta), 0.0)
        deviation = (var + EPSILON).sqrt_()
        shift = (beta * deviation).sub_(mean)
        norms = torch.linalg.vector_norm(weights, dim=(1, 2, 3))
        scale = norms.reciprocal() if magnitude is None else magnitude / norms
        kernels.copy_(weights * _by_pair(scale, deviation))
        h = activated(x, shift)
        del place
        y = convolve(h, kernels, biases, added=added)
        ctx.mark_non_differentiable(mean, var)
        ctx.biased, ctx.learned, ctx.added = biases is not None, magnitude is not None, added is not None
        ctx.save_for_backward(x, beta, weights, kernels, mean, deviation, shift, norms, scale)
        return y, mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, beta, weights, kernels, mean, deviation, shift, norms, scale = ctx.saved_tensors
        h = activated(x, shift)
        to_h, to_kernels, to_biases = _gradients(gradients[0], h, kernels, to_input=True, to_biases=ctx.biased)
        assert to_h is not None
        to_h = _where_positive(to_h, h)
        del h
        # Σ over the taps of gradient · W for each pair of channels: summed one way it is the gradient along each
        # kernel, the other way that along each input's factor 1 / d, without another pass over the image.
        along = (to_kernels * weights).sum((2, 3))
        to_magnitude = (along / deviation).sum(1) / norms
        to_weights = to_kernels.mul_(_by_pair(scale, deviation))
        to_weights.addcmul_(weights, (scale * to_magnitude / norms).view(-1, 1, 1, 1), value=-1)
        # Of batch normalization: g − mean(g) − x̂ · mean(g · x̂), x̂ = (x − mean) / d, means over a channel's values.
        total = to_h.sum((0, 2, 3)).float()
        values = x.numel() // x.shape[1]
        slope = (beta * total).addcdiv_(scale @ along, deviation.square(), value=-1).div_(deviation * values)
        slope = slope.to(x.dtype)
        offset = torch.addcmul(total / -values, slope.float(), mean, value=-1).to(x.dtype)
        _add_to(to_h, x, slope.view(-1, 1, 1, 1), offset, *_EACH, len(slope), *_SUM)
        return (
            to_h,
            total * deviation,
            to_weights,
            to_magnitude if ctx.learned else None,
            to_biases,
            gradients[0] if ctx.added else None,
        )


_pointwise = torch.ops.mkldnn._convolution_pointwise
_add_to = torch.ops.mkldnn._convolution_pointwise_.binary
_EACH = ([0, 0], [1, 1], [1, 1])
"""Padding, stride and dilation of a kernel of one pixel."""
_SUM: tuple[str, float, None, list[float], None] = ("add", 1.0, None, [], None)


def _where_positive(gradient: Tensor, rectified: Tensor) -> Tensor:
    """Return the gradient where what was rectified is positive, and 0 elsewhere.

    A bfloat16 that is not negative is positive as the integer that its bits are: 1 or 0 times the gradient's bits takes
    two thirds of the time of torch's own, which goes by way of float32.
    """
    positive = rectified.view(torch.int16).clamp_max(1)
    return positive.mul_(gradient.view(torch.int16)).view(torch.bfloat16)


def _by_pair(of_outputs: Tensor, of_inputs: Tensor) -> Tensor:
    """Return quotients, (channels_out, channels_in, 1, 1)."""
    return (of_outputs.view(-1, 1) / of_inputs).view(len(of_outputs), -1, 1, 1)


def _gradients(
    to_y: Tensor, x: Tensor, kernels: Tensor, *, to_input: bool, to_biases: bool, padded: bool = False
) -> tuple[Tensor | None, Tensor, Tensor | None]:
    """Return the gradients with respect to x, bfloat16, kernels and biases, float32, of a convolution."""
    padding = 0 if padded else kernels.shape[-1] // 2
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
