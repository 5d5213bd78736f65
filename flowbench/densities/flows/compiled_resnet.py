"""A residual network in training as one function of tensors, which torch.compile takes once for all that are alike.

What the networks of a flow do differs in their weights alone, so a compiler need not see them one by one. It computes
what `ResidualNet` does operation by operation, with less memory to read and write on a GPU. The gradients are written
down here: what a compiler would read and keep for those that autograd finds is twice as much as they need.

- relu((v - mean) · s + beta) is s · relu(v + t) with t = beta / s - mean. The convolution after it takes the factor
  s > 0: its weights' gradient has that of s, so no sum over activations is needed for it.
- The sum that is needed, that of the gradients where the ReLU lets them pass, reads one bit of an activation.
- What skip connections read lies side by side, and one convolution sums them. The last block's output is not even
  formed: its 1x1 convolution takes what the block adds, that of the block before takes the rest.
- Moments are those of the images first and of the batch then: the first are found in the pass that adds a residual.
- Where few channels are read out, what goes into the last convolution and its gradient are not written down.
- Biases that a normalization takes away again (all but the last) are not added, but to the means that are recorded.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from flowbench.densities.flows.normalization import EPSILON

__all__ = ["as_region", "compile_networks_once", "residual_network"]

MOST_KINDS = 64
"""Of networks in one model, that is of regions that torch.compile takes."""
FEW = 16
"""Outputs of a 1x1 convolution for which what goes into it, and its gradient, need not be written down."""
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
) -> Result:
    """Return a `ResidualNet`'s output for a batch in training mode, and the moments of its normalizations.

    Args:
        x: (batch, channels_in, height, width), of the type that activations and convolutions have.
        first: the convolution of x.
        blocks: normalization, ReLU and convolution, in order, of each residual block.
        skips: the 1x1 convolutions of what `first` and each block leave; empty: the last block alone is read out.
        last: normalization, ReLU and convolution of the sum.
        biases: of `first`, of each block's last convolution, of `skips`, and of `last`.

    Returns:
        (batch, channels_out, height, width), of the weights' type, and moments in the order of `forward`. Gradients of
        biases that have no effect are 0.
    """
    layers = [layer for block in blocks for layer in block] + [last]
    skipping = [_normalized(*kernels) for kernels in skips]
    bias_in, block_biases, skip_biases, bias_out = biases
    shifts = list(accumulate([bias_in, *block_biases]))
    if skips:
        shifts[-1] = (torch.cat(skipping, 1)[:, :, 0, 0] * torch.cat(shifts)).sum(1) + sum(skip_biases)
    result: Result = _Network.apply(
        len(blocks),
        bool(skips),
        x,
        _normalized(*first),
        bias_out,
        torch.cat([bias_in, *block_biases, *skip_biases]),
        *_joined(skipping),
        *shifts,
        *(beta for beta, _ in layers),
        *(_normalized(*kernels) for _, kernels in layers),
    )
    return result


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


def _normalized(weights: Tensor, magnitude: Tensor | None) -> Tensor:
    scale = torch.rsqrt(weights.square().sum(dim=(1, 2, 3), keepdim=True))
    if magnitude is not None:
        scale = scale * magnitude.view(-1, 1, 1, 1)
    return weights * scale


def _joined(skips: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return the 1x1 kernels of what goes into the blocks, side by side, and of what the last block adds."""
    if not skips:
        return ()
    *before, last = skips
    before[-1] = before[-1] + last
    return torch.cat(before, 1), last


class _Layer(NamedTuple):
    """Normalization, ReLU and convolution of v, (batch, channels, height, width): what gradients are found from."""

    v: Tensor
    activations: Tensor
    """relu(v + t); v where they are not written down."""
    passing: Tensor
    """Where v + t is positive, by `_packed`; likewise."""
    mean: Tensor
    var: Tensor
    scale: Tensor
    """s; (channels,), as the two before."""
    kernels: Tensor
    """What the activations are convolved with: the weights times s."""
    beta: Tensor
    weights: Tensor

    @classmethod
    def of(cls, v: Tensor, beta: Tensor, weights: Tensor, *, is_sum: bool = False, written: bool = True) -> "_Layer":
        """Return the layer for a batch.

        Args:
            v: see above.
            beta: (channels,).
            weights: the convolution's, without s.
            is_sum: whether v is a sum that others read, too: it is to be written down.
            written: whether the activations are.
        """
        mean, var = _moments(v, beta.dtype, is_sum=is_sum)
        scale = torch.rsqrt(var + EPSILON)
        kernels = weights * _per_channel(scale)
        if not written:
            return cls(v, v, v, mean, var, scale, kernels, beta, weights)
        words = _in_words(v.to(beta.dtype))
        shifted = words + (beta / scale - mean).view(words.shape[3:])
        passing = _packed(shifted > 0)
        # From the bits, or what needs them alone would be left to the backward pass. A product, as what is not a
        # number is to stay so.
        activations = (shifted * _unpacked(passing, shifted.shape[4])).to(v.dtype).flatten(3).permute(0, 3, 1, 2)
        return cls(v, activations, passing, mean, var, scale, kernels.to(v.dtype), beta, weights)

    def output(self) -> Tensor:
        """Return the convolution's, (batch, channels_out, height, width)."""
        return _convolve(self.activations, self.kernels)

    def gradients(self, of_output: Tensor, *others: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return those of v, with `others` that it has, of beta and of the weights."""
        g, of_kernels = _convolution_backward(of_output, self.activations, self.kernels)
        passed = _in_words(g.to(self.beta.dtype))
        of_shift = (passed * _unpacked(self.passing, passed.shape[4])).sum((0, 1, 2)).flatten()
        return self._gradients(g.to(self.beta.dtype), of_shift, of_kernels.to(self.beta.dtype), others)

    def read_out(self, biases: Tensor) -> Tensor:
        """Return `output` with biases, of their type."""
        if not _are_few(biases):
            return self.output().to(biases.dtype) + _per_channel(biases)
        activations = self._shifted().clamp_min(0)
        # Not a loop over the biases: torch.compile takes those for inputs of the region.
        outputs = [(activations * one).sum(1) + biases[place] for place, one in enumerate(self.kernels.unbind())]
        return torch.stack(outputs, 3).permute(0, 3, 1, 2)

    def gradients_of_read_out(self, of_output: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return those of v, beta and the weights."""
        if not _are_few(of_output[0]):
            return self.gradients(of_output.to(self.v.dtype))
        shifted = self._shifted()
        of_outputs = torch.split(of_output, 1, 1)
        products = [one * kernels for one, kernels in zip(of_outputs, self.kernels.unbind(), strict=True)]
        g = sum(products[1:], products[0])
        of_shift = torch.where(shifted > 0, g, 0).sum((0, 2, 3))
        of_kernels = torch.stack([(shifted.clamp_min(0) * one).sum((0, 2, 3)) for one in of_outputs])
        return self._gradients(g, of_shift, of_kernels.view_as(self.weights), ())

    def _gradients(
        self, g: Tensor, of_shift: Tensor, of_kernels: Tensor, others: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return what `gradients` does, from those of the activations, of t and of the kernels."""
        of_scale = (of_kernels * self.weights).sum((0, 2, 3)) - of_shift * self.beta / self.scale.square()
        # v is a part of the mean, which is taken from t, and of the variance, on which s depends.
        count = self.v.numel() // self.v.shape[1]
        of_v = (
            torch.where(self._shifted() > 0, g, 0)
            - _per_channel(of_shift / count)
            - (self.v - _per_channel(self.mean)) * _per_channel(of_scale * self.scale**3 / count)
        )
        for other in others:
            of_v = of_v + other
        return of_v.to(self.v.dtype), of_shift / self.scale, of_kernels * _per_channel(self.scale)

    def _shifted(self) -> Tensor:
        """Return v + t."""
        return self.v + _per_channel(self.beta / self.scale - self.mean)


class _Network(torch.autograd.Function):
    """`residual_network` of kernels that are normalized already; `without_effect` are biases whose gradients are 0.

    Of `tensors`, `_joined`'s come first, if `skipping`; then what the biases add to the inputs of the blocks and to
    what is read out; then beta and kernels of every layer.
    """

    @staticmethod
    def forward(
        ctx: Any,
        blocks: int,
        skipping: bool,
        x: Tensor,
        first: Tensor,
        bias: Tensor,
        without_effect: Tensor,
        *tensors: Tensor,
    ) -> Result:
        skips, tensors = tensors[: 2 * skipping], tensors[2 * skipping :]
        shifts, tensors = tensors[: blocks + 1], tensors[blocks + 1 :]
        count = len(tensors) // 2
        betas, weights = tensors[:count], tensors[count:]
        depth = (count - 1) // blocks
        layers: list[_Layer] = []

        def layer(v: Tensor, **known: bool) -> _Layer:
            layers.append(_Layer.of(v, betas[len(layers)], weights[len(layers)], **known))
            return layers[-1]

        first = first.to(x.dtype)
        skips = tuple(kernels.to(x.dtype) for kernels in skips)
        hidden = [_convolve(x, first)]
        for block in range(blocks):
            h = layer(hidden[-1], is_sum=block > 0).output()
            for _ in range(depth - 1):
                h = layer(h).output()
            if block < blocks - 1 or not skipping:
                hidden.append(hidden[-1] + h)
        into_blocks = torch.cat(hidden[:blocks], 1) if blocks > 1 else hidden[0]
        total = _plus_product(_convolve(into_blocks, skips[0]), h, skips[1]) if skipping else hidden[-1]
        out = layer(total, is_sum=not skipping, written=not _are_few(bias)).read_out(bias)
        means = [one.mean if place % depth else one.mean + shifts[place // depth] for place, one in enumerate(layers)]
        moments = torch.stack(means), torch.stack([one.var for one in layers])
        ctx.mark_non_differentiable(*moments)
        ctx.form = blocks, depth, skipping
        between = [one.v for place, one in enumerate(layers) if place % depth]
        kept = [one for layer in layers for one in layer[1:]]
        ctx.save_for_backward(x, first, without_effect, *skips, into_blocks, h, total, *between, *kept)
        return out, *moments

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_out: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        blocks, depth, skipping = ctx.form
        x, first, without_effect, *tensors = ctx.saved_tensors
        skips, (into_blocks, added, total, *tensors) = tensors[: 2 * skipping], tensors[2 * skipping :]
        inner = blocks * (depth - 1)
        between, tensors = iter(tensors[:inner]), tensors[inner:]
        hidden = torch.split(into_blocks, first.shape[0], 1)
        inputs = [next(between) if place % depth else hidden[place // depth] for place in range(blocks * depth)]
        fields = len(_Layer._fields) - 1
        layers = [
            _Layer(v, *tensors[fields * place : fields * (place + 1)]) for place, v in enumerate([*inputs, total])
        ]

        def gradient(layer: _Layer, of_output: Tensor, *others: Tensor) -> Tensor:
            of_v, of_beta, of_weight = layer.gradients(of_output, *others)
            of_betas.append(of_beta)
            of_weights.append(of_weight)
            return of_v

        g, of_beta, of_weight = layers[-1].gradients_of_read_out(of_out)
        of_betas, of_weights = [of_beta], [of_weight]
        of_skips: list[Tensor] = []
        after: list[Tensor] = [g]
        of_hidden: Sequence[Tensor] = ()
        if skipping:
            of_joined, of_weight = _convolution_backward(g, into_blocks, skips[0])
            g, of_other = _convolution_backward(g, added, skips[1])
            of_skips, after, of_hidden = [of_weight, of_other], [], torch.split(of_joined, first.shape[0], 1)
        for block in reversed(range(blocks)):
            for place in reversed(range(1, depth)):
                g = gradient(layers[block * depth + place], g)
            g = gradient(layers[block * depth], g, *after, *of_hidden[block : block + 1])
            after = [g]
        of_x, of_first = _convolution_backward(g, x, first)
        of_kernels = [one.to(of_out.dtype) for one in (of_first, *of_skips)]
        return (
            *(None, None, of_x, of_kernels[0], of_out.sum((0, 2, 3)), torch.zeros_like(without_effect)),
            *of_kernels[1:],
            *[None] * (blocks + 1),
            *reversed(of_betas),
            *reversed(of_weights),
        )


def _convolve(x: Tensor, kernels: Tensor) -> Tensor:
    return F.conv2d(x, kernels, padding=kernels.shape[-1] // 2)


def _plus_product(x: Tensor, y: Tensor, kernels: Tensor) -> Tensor:
    """Return x plus the 1x1 convolution of y: a product of matrices, which adds to what is there."""
    there, rows = (one.permute(0, 2, 3, 1).flatten(0, 2) for one in (x, y))
    total = torch.addmm(there, rows, kernels.flatten(1).t())
    return total.view(len(x), *x.shape[2:], -1).permute(0, 3, 1, 2)


def _are_few(outputs: Tensor) -> bool:
    """Say whether so few values, (outputs, ...), are read out that their sums are taken where the input is computed."""
    return len(outputs) <= FEW


def _convolution_backward(of_output: Tensor, x: Tensor, kernels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of `_convolve`'s arguments."""
    padding = [kernels.shape[-1] // 2] * 2
    of_x, of_kernels, _ = torch.ops.aten.convolution_backward(
        of_output, x, kernels, None, [1, 1], padding, [1, 1], False, [0, 0], 1, [True, True, False]
    )
    return of_x, of_kernels


def _moments(v: Tensor, dtype: torch.dtype, *, is_sum: bool) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance of each channel of v, (batch, channels, height, width).

    Args:
        v: see above.
        dtype: of the moments.
        is_sum: whether v is a sum that others read, too: it is to be written down.
    """
    if is_sum:
        # This changes nothing, but what goes into a pooling is written by the compiler, not computed again and again.
        v = F.avg_pool2d(v, 1)
    var, mean = torch.var_mean(v.to(dtype), (2, 3), correction=0)
    # Of fours a kernel takes the sums as it reads them. That leaves few enough to sum for it, not for another one, too.
    mean, var = (one.view(-1, math.gcd(len(v), 4), v.shape[1]) for one in (mean, var))
    for dim in (1, 0):
        var_of_means, mean = torch.var_mean(mean, dim, correction=0)
        var = var.mean(dim) + var_of_means
    return mean, var


def _per_channel(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1)


def _in_words(x: Tensor) -> Tensor:
    """View x, (batch, channels, height, width), as (batch, height, width, words, channels of a word)."""
    rows = x.permute(0, 2, 3, 1)
    return rows.view(*rows.shape[:3], -1, math.gcd(x.shape[1], 32))


def _packed(mask: Tensor) -> Tensor:
    """Return a mask, (..., channels of a word), as the bits of words, (...)."""
    places = torch.arange(mask.shape[-1], dtype=torch.int32, device=mask.device)
    return (mask.to(torch.int32) << places).sum(-1, dtype=torch.int32)


def _unpacked(words: Tensor, width: int) -> Tensor:
    """Return the mask of which `_packed` made words, of 0 and 1."""
    return (words.unsqueeze(-1) >> torch.arange(width, dtype=torch.int32, device=words.device)) & 1
