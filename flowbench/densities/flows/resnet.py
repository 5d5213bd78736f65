"""The residual networks of Real NVP: weight-normalized convolutions, batch normalization, skip connections.

Dinh et al. 2017 (arXiv:1605.08803), section 4.1; everything the text leaves open follows the authors' code.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowbench.densities.flows import bfloat16
from flowbench.densities.flows.activated_conv import activated_convolution, convolve
from flowbench.densities.flows.compiled_resnet import as_region
from flowbench.densities.flows.conditioner import Conditioner
from flowbench.densities.flows.derived import Derived, are_finite
from flowbench.densities.flows.normalization import BatchNorm, normalizes_alone, record_together

__all__ = ["ResidualBlock", "ResidualNet", "WeightNormConv"]


class WeightNormConv(nn.Module):
    """Convolution with stride 1 and zero padding whose kernels W have norm 1, or a learned norm.

    w = magnitude · W / ‖W‖, per output channel (Salimans & Kingma 2016, eq. 2). At first W ~ U(−s, s) with
    s = √(2 / channels_in), biases are 0 and the magnitude is s·√(channels_in · size² / 12), half of W's expected norm:
    √(1/6) for 1x1 kernels, √1.5 for 3x3.

    Args:
        channels_in: of the input.
        channels_out: of the output.
        size: side of the kernel, odd.
        magnitude: whether the norm is learned; else it is 1.
        bias: whether biases are added.
    """

    def __init__(
        self, channels_in: int, channels_out: int, size: int, *, magnitude: bool = True, bias: bool = True
    ) -> None:
        super().__init__()
        limit = math.sqrt(2 / channels_in)
        norm = limit * math.sqrt(channels_in * size**2 / 12)
        self.weights = nn.Parameter(torch.empty(channels_out, channels_in, size, size).uniform_(-limit, limit))
        self.magnitude = nn.Parameter(torch.full((channels_out,), norm)) if magnitude else None
        self.biases = nn.Parameter(torch.zeros(channels_out)) if bias else None

        self._kernels: Derived[Tensor] = Derived()
        self._folded: Derived[tuple[Tensor, Tensor]] = Derived()
        self._reduced: Derived[tuple[Tensor, Tensor | None, Tensor | None]] = Derived()
        self.finite = True

    def forward(self, x: Tensor, into: Tensor | None = None) -> Tensor:
        """Convolve x, (batch, channels_in, height, width), to (batch, channels_out, height, width).

        The result is added to `into` in place, where that is given.
        """
        if bfloat16.takes(x):
            if torch.is_grad_enabled():
                self._reduced.clear()
                return bfloat16.convolution(x, self._normalize(), self.biases, into=into)
            return self.reduced(x, into=into)
        y = convolve(x, self._current_kernels(), self.biases)
        return y if into is None else into.add_(y)

    def after(self, normalization: nn.Module, x: Tensor, added: Tensor | None = None) -> Tensor:
        """Return self(relu(normalization(x))) + added; in training on a CPU as one operation."""
        self._folded.clear()
        if not isinstance(normalization, BatchNorm) or not _in_one(normalization, x):
            if _is_reduced(normalization, x):
                return self.reduced(x, before=normalization)
            y: Tensor = self(_activate(normalization, x))
            return _sum(y, added)
        self._reduced.clear()
        if bfloat16.takes(x):
            y, mean, var = bfloat16.activated_convolution(
                x, normalization.beta, self.weights, self.magnitude, self.biases, added
            )
        else:
            y, mean, var = activated_convolution(x, normalization.beta, self._current_kernels(), self.biases)
            y = _sum(y, added)
        normalization.record(mean, var)
        return y

    def reduced(
        self,
        x: Tensor,
        *,
        before: nn.Module | None = None,
        after: nn.Module | None = None,
        relu: bool = False,
        into: Tensor | None = None,
    ) -> Tensor:
        """Return relu(after(self(relu(before(x))))); bfloat16, in evaluation without gradients.

        The normalizations are folded into kernels and biases. Without `before` x is not rectified; `relu` and `into`
        are those of `bfloat16.convolve`.
        """
        sources: list[Tensor | None] = [self.weights, self.magnitude, self.biases]
        for norm in (before, after):
            sources += [] if norm is None else [*norm.parameters(), *norm.buffers()]
        kernels, biases, shift = self._reduced.get(lambda: self._reduce(before, after), *sources)
        if shift is not None:
            x = bfloat16.activated(x, shift)
        elif before is not None:
            x = F.relu(x)
        return bfloat16.convolve(x, kernels, biases, relu=relu, into=into)

    def normalized(self, x: Tensor, normalization: nn.Module) -> Tensor:
        """Return normalization(self(x)); in evaluation without gradients it is folded into kernels and biases."""
        if not isinstance(normalization, BatchNorm) or normalization.training or torch.is_grad_enabled():
            self._folded.clear()
            y: Tensor = normalization(self(x))
            return y
        sources = (self.weights, self.magnitude, self.biases, *normalization.parameters(), *normalization.buffers())
        kernels, biases = self._folded.get(lambda: self._fold(normalization), *sources)
        return convolve(x, kernels, biases)

    def kernels(self) -> tuple[Tensor, Tensor | None]:
        """Return what kernels are made of: weights and, if it is learned, their norm."""
        return self.weights, self.magnitude

    def forget(self) -> None:
        """Drop what was kept of the weights for evaluation."""
        self._kernels.clear()
        self._folded.clear()

    def _current_kernels(self) -> Tensor:
        # Not kept in training mode, not even by a pass without gradients: it would be held until the first step.
        return self._kernels.get(self._normalize, self.weights, self.magnitude, keep=not self.training)

    def _normalize(self) -> Tensor:
        magnitude = self.weights.new_ones(len(self.weights)) if self.magnitude is None else self.magnitude
        kernels: Tensor = _WeightNorm.apply(self.weights, magnitude)[0]
        self.finite = True  # until `_reduce` looks
        return kernels

    def _fold(self, normalization: BatchNorm) -> tuple[Tensor, Tensor]:
        scale, shift = normalization.affine()
        biases = shift if self.biases is None else shift + scale * self.biases
        return self._normalize() * scale.view(-1, 1, 1, 1), biases

    def _reduce(self, before: nn.Module | None, after: nn.Module | None) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return kernels in bfloat16, biases, and what is added to the input before it is rectified."""
        kernels, biases = self._fold(after) if isinstance(after, BatchNorm) else (self._normalize(), self.biases)
        shift = None
        if isinstance(before, BatchNorm):
            # relu(s · x + t) is s · relu(x + t / s), and the kernels take the factor s > 0.
            scale, shift = before.affine()
            kernels, shift = kernels * scale.view(1, -1, 1, 1), shift / scale
        self.finite = are_finite(kernels, biases, shift)
        return kernels.to(torch.bfloat16, memory_format=torch.channels_last), biases, shift


class _WeightNorm(torch.autograd.Function):
    """w = magnitude · W / ‖W‖ per output channel; the backward pass is the single one of torch's own weight_norm."""

    generate_vmap_rule = True  # Jacobians are taken through it

    @staticmethod
    def forward(weights: Tensor, magnitude: Tensor) -> tuple[Tensor, Tensor]:
        squares = weights.square().sum(dim=(1, 2, 3))
        return weights * (torch.rsqrt(squares) * magnitude).view(-1, 1, 1, 1), squares.sqrt()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)  # else zeros are made for the norms, which have none
        ctx.save_for_backward(*inputs, output[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        weights, magnitude, norms = ctx.saved_tensors
        # It wants rows that lie together: those of channels-last kernels do once their dimensions are in that order.
        rows = [kernels.permute(0, 2, 3, 1).contiguous() for kernels in (gradients[0], weights)]
        per_row = [values.view(-1, 1, 1, 1) for values in (magnitude, norms)]
        to_weights, to_magnitude = torch.ops.aten._weight_norm_interface_backward(*rows, *per_row, 0)
        return to_weights.permute(0, 3, 1, 2), to_magnitude.flatten()


class ResidualBlock(nn.Module):
    """x + f(x), where f is twice (three times as a bottleneck) normalization, ReLU, convolution.

    The kernels are 3x3, 3x3; as a bottleneck 1x1, 3x3, 1x1. All layers have the same width.

    Args:
        features: channels of input, output and hidden layers.
        bottleneck: see above.
        batch_norm: whether activations are normalized; without, every convolution has biases.
        dropout: probability with which an input of the last convolution is dropped in training; 0 in the paper.
    """

    def __init__(self, features: int, *, bottleneck: bool, batch_norm: bool, dropout: float) -> None:
        super().__init__()

        def hidden(size: int) -> WeightNormConv:
            return WeightNormConv(features, features, size, magnitude=False, bias=not batch_norm)

        self.bn_in = _normalization(features, batch_norm)
        self.h_0 = hidden(1 if bottleneck else 3)
        self.bn_0 = _normalization(features, batch_norm)
        self.h_1 = hidden(3) if bottleneck else None
        self.bn_1 = _normalization(features, batch_norm) if bottleneck else None
        self.dropout = nn.Dropout(dropout)
        self.out = WeightNormConv(features, features, 1 if bottleneck else 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return x + f(x), (batch, features, height, width)."""
        normalized = self.training and isinstance(self.bn_in, BatchNorm) and not self.dropout.p
        return self._activated_first(x) if normalized else self._convolved_first(x)

    def steps(self) -> list[tuple[Any, WeightNormConv]]:
        """Return normalizations, each with the convolution after it, in the order of `forward`."""
        if self.h_1 is None:
            return [(self.bn_in, self.h_0), (self.bn_0, self.out)]
        return [(self.bn_in, self.h_0), (self.bn_0, self.h_1), (self.bn_1, self.out)]

    def _activated_first(self, x: Tensor) -> Tensor:
        """Return x + f(x) by triples of normalization, ReLU and convolution."""
        h = self.h_0.after(self.bn_in, x)
        if self.h_1 is not None and self.bn_1 is not None:
            return self.out.after(self.bn_1, self.h_1.after(self.bn_0, h), added=x)
        return self.out.after(self.bn_0, h, added=x)

    def _convolved_first(self, x: Tensor) -> Tensor:
        """Return x + f(x) by triples of convolution, normalization, ReLU: in evaluation the first two fold into one."""
        if _is_reduced(self.bn_in, x):
            h = self.h_0.reduced(x, before=self.bn_in, after=self.bn_0, relu=True)
            if self.h_1 is not None:
                h = self.h_1.reduced(h, after=self.bn_1, relu=True)
            return self.out.reduced(h, into=x)  # in place: nobody else has x
        h = _rectify(self.h_0.normalized(_activate(self.bn_in, x), self.bn_0))
        if self.h_1 is not None and self.bn_1 is not None:
            h = _rectify(self.h_1.normalized(h, self.bn_1))
        out: Tensor = self.out(self.dropout(h))
        return _sum(out, x)


class ResidualNet(Conditioner):
    """Residual blocks between an input and an output convolution, with a 1x1 skip connection from each to the output.

    Without skip connections the last block's output alone is read out.

    Args:
        channels_in: of the input.
        channels_out: of the output.
        features: width.
        blocks: number of residual blocks.
        bottleneck, batch_norm, dropout: see `ResidualBlock`.
        skip: whether input convolution and blocks are summed through 1x1 convolutions.
    """

    takes_bfloat16 = True

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        features: int,
        blocks: int,
        bottleneck: bool = False,
        skip: bool = True,
        batch_norm: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.h_in = WeightNormConv(channels_in, features, 3, magnitude=False)
        self.blocks = nn.ModuleList(
            ResidualBlock(features, bottleneck=bottleneck, batch_norm=batch_norm, dropout=dropout)
            for _ in range(blocks)
        )
        self.skip_in = WeightNormConv(features, features, 1) if skip else None
        self.skips = nn.ModuleList(WeightNormConv(features, features, 1) for _ in range(blocks if skip else 0))
        self.bn_pre_out = _normalization(features, batch_norm)
        self.out = WeightNormConv(features, channels_out, 1)
        self.folding = [layer for layer in self.modules() if isinstance(layer, WeightNormConv)]

    def _output(self, x: Tensor, *others: Tensor | None) -> Tensor:
        if torch.compiler.is_compiling() and self._is_normalized(x):
            return self._as_region(x)
        return super()._output(x, *others)

    def _is_normalized(self, x: Tensor) -> bool:
        """Say whether `residual_network` does what `net` does: in training, with batch normalization alone."""
        drops = any(module.p for module in self.modules() if isinstance(module, nn.Dropout))
        return self.training and isinstance(self.bn_pre_out, BatchNorm) and not drops and normalizes_alone(x)

    def _as_region(self, x: Tensor) -> Tensor:
        """Return the output, and record moments: not inside the region, which writes to nothing."""
        residual: list[Any] = list(self.blocks)
        blocks = [block.steps() for block in residual]
        skips: list[Any] = [] if self.skip_in is None else [self.skip_in, *self.skips]
        for convolution in self.modules():
            if isinstance(convolution, WeightNormConv):
                convolution.forget()
        out, means, variances = as_region(
            x.to(torch.bfloat16 if self.precision == "bf16" else x.dtype, memory_format=torch.channels_last),
            self.h_in.kernels(),
            [[(normalization.beta, convolution.kernels()) for normalization, convolution in block] for block in blocks],
            [convolution.kernels() for convolution in skips],
            (self.bn_pre_out.beta, self.out.kernels()),
            (self.h_in.biases, [block.out.biases for block in residual], [s.biases for s in skips], self.out.biases),
        )
        layers = [normalization for block in blocks for normalization, _ in block] + [self.bn_pre_out]
        # Older versions of torch take all that a region returns for differentiable.
        record_together(layers, means.detach(), variances.detach())
        return out

    def net(self, x: Tensor) -> Tensor:
        """Map x, (batch, channels_in, height, width), to (batch, channels_out, height, width)."""
        hidden = self.h_in(x)
        if self.skip_in is None:
            for block in self.blocks:
                hidden = block(hidden)
        else:
            total = self.skip_in(hidden)
            for block, skip in zip(self.blocks, self.skips, strict=True):
                hidden = block(hidden)
                total = skip(hidden, into=total)
            hidden = total
        return self.out.after(self.bn_pre_out, hidden)


def _normalization(features: int, batch_norm: bool) -> nn.Module:
    return BatchNorm(features) if batch_norm else nn.Identity()


def _activate(normalization: nn.Module, x: Tensor) -> Tensor:
    # Without normalization x is needed as it is.
    return _rectify(normalization(x)) if isinstance(normalization, BatchNorm) else F.relu(x)


def _in_one(normalization: BatchNorm, x: Tensor) -> bool:
    """Say whether `activated_convolution` does what the operations one by one do, and is the better way."""
    return (
        normalization.training
        and torch.is_grad_enabled()
        and x.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and normalizes_alone(x)
    )


def _is_reduced(normalization: nn.Module, x: Tensor) -> bool:
    """Say whether x is evaluated in bfloat16, with normalizations that fold into the convolutions."""
    return bfloat16.takes(x) and not normalization.training and not torch.is_grad_enabled()


def _sum(y: Tensor, added: Tensor | None) -> Tensor:
    # In place, as y is a fresh tensor that no gradient needs.
    return y if added is None else y.add_(added)


def _rectify(x: Tensor) -> Tensor:
    # In place, as x is a fresh tensor that no gradient needs: it saves a full-size tensor for each ReLU.
    return x.relu_()
