"""A residual network in training as one function of tensors, which torch.compile takes once for all that are alike.

What the networks of a flow do differs in their weights alone, so a compiler need not see them one by one. It computes
what `ResidualNet` does operation by operation, with less memory to read and write on a GPU:

- Moments are those of the images first and of the batch then: the first are found in the pass that adds a residual.
- ReLU keeps its input, from which normalization finds its way back as well, and not its output.
- Biases that a normalization takes away again (all but the last) are not added, but to the means that are recorded.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from flowbench.densities.flows.normalization import EPSILON

__all__ = ["as_region", "compile_networks_once", "residual_network"]

MOST_KINDS = 64
"""Of networks in one model, that is of regions that torch.compile takes."""
Kernels = tuple[Tensor, Tensor | None]
"""Weights, (channels_out, channels_in, size, size), and the norms they get, (channels_out,); None: 1."""
Activated = tuple[Tensor, Kernels]
"""What is added between normalization and ReLU, (channels_in,), and the convolution after it."""
Result = tuple[Tensor, Tensor, Tensor]
"""Output, and means and biased variances, (normalizations, channels) each, without gradients."""


def residual_network(
    x: Tensor,
    first: Kernels,
    blocks: Sequence[Sequence[Activated]],
    skips: Sequence[Kernels],
    last: Activated,
    biases: tuple[Tensor, Sequence[Tensor], Sequence[Tensor], Tensor],
    dtype: torch.dtype,
) -> Result:
    """Return a `ResidualNet`'s output for a batch in training mode, and the moments of its normalizations.

    Args:
        x: (batch, channels_in, height, width).
        first: the convolution of x.
        blocks: normalization, ReLU and convolution, in order, of each residual block.
        skips: the 1x1 convolutions of what `first` and each block leave; empty: the last block alone is read out.
        last: normalization, ReLU and convolution of the sum.
        biases: of `first`, of each block's last convolution, of `skips`, and of `last`.
        dtype: that activations and convolutions have.

    Returns:
        (batch, channels_out, height, width), of x's type, and moments in the order of `forward`. Gradients of biases
        that have no effect are 0.
    """
    means: list[Tensor] = []
    variances: list[Tensor] = []

    def convolve_activated(h: Tensor, shift: Tensor | None, beta: Tensor, kernels: Kernels) -> Tensor:
        h, mean, var = _activate(h, beta)
        means.append(mean if shift is None else mean + shift)
        variances.append(var)
        return _convolve(h, _normalized(*kernels, dtype))

    bias_in, block_biases, skip_biases, bias_out = biases
    hidden, shift = [_convolve(x.to(dtype), _normalized(*first, dtype))], [bias_in.detach()]
    for block, bias in zip(blocks, block_biases, strict=True):
        h = hidden[-1]
        for place, (beta, kernels) in enumerate(block):
            h = convolve_activated(h, None if place else shift[-1], beta, kernels)
        hidden.append(hidden[-1] + h)
        shift.append(shift[-1] + bias.detach())
    total, total_shift = hidden[-1], shift[-1]
    if skips:
        products = [_normalized(*kernels, dtype) for kernels in skips]
        total = sum(map(_convolve, hidden[1:], products[1:]), _convolve(hidden[0], products[0]))
        joined = torch.cat(products, dim=1).detach()[:, :, 0, 0]
        total_shift = (joined * torch.cat(shift)).sum(1) + torch.stack(list(skip_biases)).detach().sum(0)
    out = convolve_activated(total, total_shift, *last).to(x.dtype) + bias_out.view(1, -1, 1, 1)
    without_effect = torch.cat([bias_in, *block_biases, *skip_biases])
    return out + 0 * without_effect.sum(), torch.stack(means), torch.stack(variances)


_as_region: Callable[..., Result] = residual_network


def as_region(*arguments: Any) -> Result:
    """Return `residual_network(*arguments)`, inside torch.compile, after `compile_networks_once`, by a region of it."""
    return _as_region(*arguments)


def compile_networks_once() -> None:
    """Let torch.compile take `residual_network` once, from now on, for all networks of the same shapes."""
    global _as_region
    # Only here: it imports the compiler.
    region: Callable[..., Any] = torch.compiler.nested_compile_region
    # A model may have more kinds of networks than the 8 that newer versions of torch allow; 2.11 does not count.
    counts = "max_reuse_entries" in inspect.signature(region).parameters
    _as_region = region(residual_network, **({"max_reuse_entries": MOST_KINDS} if counts else {}))


def _normalized(weights: Tensor, magnitude: Tensor | None, dtype: torch.dtype) -> Tensor:
    scale = torch.rsqrt(weights.square().sum(dim=(1, 2, 3), keepdim=True))
    if magnitude is not None:
        scale = scale * magnitude.view(-1, 1, 1, 1)
    return (weights * scale).to(dtype)


def _convolve(x: Tensor, kernels: Tensor) -> Tensor:
    return F.conv2d(x, kernels, padding=kernels.shape[-1] // 2)


def _activate(x: Tensor, beta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return relu(batch_norm(x) + beta) in x's type, and the moments of x."""
    values = x.to(beta.dtype)
    means = values.mean((2, 3), keepdim=True)
    # The mean that is best has no gradient of its own.
    squares = (values - means.detach()).square().mean((2, 3)).mean(0)
    var, mean = torch.var_mean(means, dim=(0, 2, 3), correction=0)
    var = squares + var
    scale = torch.rsqrt(var + EPSILON).view(1, -1, 1, 1)
    y = (values - mean.view(1, -1, 1, 1)) * scale + beta.view(1, -1, 1, 1)
    # Not `relu`, whose gradient looks at its output: one more tensor to read.
    return torch.clamp_min(y, 0).to(x.dtype), mean.detach(), var.detach()
