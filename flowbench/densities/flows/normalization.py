"""Batch normalization, in the networks and in the flow, over batches that may be spread over several processes.

Conventions of the authors' Real NVP: biased variance, ε = 1e-4, moving averages that move by 0.1 of the difference at
each training-mode forward pass, a learned shift but no learned scale. In training mode gradients flow through the
batch's mean and variance.
"""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from flowbench.densities.bijection import Bijection

__all__ = [
    "EPSILON",
    "BatchNorm",
    "BatchStatistics",
    "FlowBatchNorm",
    "batch_moments",
    "normalizes_alone",
    "population_statistics",
    "record_together",
    "recorded_afterwards",
    "unrecorded",
    "warn_of_moving_averages",
]

MOMENTUM = 0.1
EPSILON = 1e-4


class BatchStatistics(nn.Module):
    """Mean and biased variance per channel: the batch's in training mode, moving averages in evaluation mode.

    The base of everything that normalizes by batches. `step` counts the updates of the moving averages.

    Args:
        channels: size of dimension 1 of what is normalized.
    """

    recording: ClassVar[bool] = True
    """False inside `unrecorded`, for all layers."""
    postponed: ClassVar["list[tuple[Sequence[BatchStatistics], Tensor, Tensor]] | None"] = None
    """Inside `recorded_afterwards`: layers, and what `record_together` is to record of them."""
    mean: Tensor  # (channels,)
    var: Tensor  # (channels,)
    step: Tensor  # ()

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("var", torch.ones(channels))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        # Inside `population_statistics`: sums over batches of mean, E[x²] and 1, (3, channels).
        self._sums: Tensor | None = None

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance to normalize x, (batch, channels, ...), with; in training mode record them.

        An empty batch has neither: it gets the moving averages.
        """
        if not self.training or (not len(x) and not _spread()):
            return self.mean, self.var
        mean, var = batch_moments(x)
        self.record(mean, var)
        return mean, var

    @torch.no_grad()
    def record(self, mean: Tensor, var: Tensor) -> None:
        """Move the averages towards a batch's moments, or collect these inside `population_statistics`."""
        if not BatchStatistics.recording:
            return
        if self._sums is not None:
            mean, var = mean.double(), var.double()
            self._sums += torch.stack((mean, var + mean.square(), torch.ones_like(mean)))
            return
        if BatchStatistics.postponed is not None:
            BatchStatistics.postponed.append(((self,), mean, var))
            return
        # A step with a non-finite loss is skipped by the trainer: the averages must forget its batch as well.
        for average, moment in ((self.mean, mean), (self.var, var)):
            average.lerp_(torch.where(torch.isfinite(moment), moment, average), MOMENTUM)
        self.step += 1


class BatchNorm(BatchStatistics):
    """Batch normalization inside a network: (x − mean) / √(var + ε) + beta, with beta learned and 0 at first."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x, (batch, channels, ...); moments are float32 or wider whatever x is."""
        if not self.training:
            return F.batch_norm(x, self.mean, self.var, None, self.beta, eps=EPSILON)
        if not normalizes_alone(x):
            mean, var = (_per_channel(moment, x) for moment in self.moments(x.to(self.mean.dtype)))
            return ((x - mean) * torch.rsqrt(var + EPSILON) + _per_channel(self.beta, x)).to(x.dtype)
        # One fused kernel, there and back. With momentum 1 it leaves the batch's own moments in the given buffers,
        # but the unbiased variance.
        mean, var = torch.zeros_like(self.mean), torch.zeros_like(self.var)
        y = F.batch_norm(x, mean, var, None, self.beta, training=True, momentum=1.0, eps=EPSILON)
        count = _count(x)
        self.record(mean, var * ((count - 1) / count))
        return y

    def affine(self) -> tuple[Tensor, Tensor]:
        """Return what evaluation mode multiplies with and then adds, per channel."""
        scale = torch.rsqrt(self.var + EPSILON)
        return scale, self.beta - self.mean * scale


class FlowBatchNorm(BatchStatistics, Bijection):
    """Batch normalization as a step of a flow (Dinh et al. 2017, section 3.7): z = (y − mean) / √(var + ε).

    Under a mask q (1 where the step acts, 0 where it passes y unchanged) the statistics are those of q·y over *all*
    positions, passed ones counted as zeros, and z = (y − q·mean) · exp(−½ q·log(var + ε)): the authors' code.

    In training mode `log_det` is that of the map with the batch's statistics held constant; `inverse` always uses the
    moving averages.

    Args:
        channels: of y.
        mask: q, (1, 1, height, width); None: the step acts everywhere.
    """

    mask: Tensor | None
    warned: bool = False

    def __init__(self, channels: int, mask: Tensor | None = None) -> None:
        super().__init__(channels)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Normalize x, (batch, channels, height, width)."""
        mean, var = self.moments(x if self.mask is None else x * self.mask)
        shift, log_scale = self._terms(x, mean, var)
        return (x - shift) * torch.exp(log_scale), log_scale.sum().expand(x.shape[0])

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Undo `forward` under the moving averages; in training mode it says so."""
        if self.training:
            warn_of_moving_averages(self)
        shift, log_scale = self._terms(z, self.mean, self.var)
        return z * torch.exp(-log_scale) + shift, -log_scale.sum().expand(z.shape[0])

    def _terms(self, x: Tensor, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        """Return what to subtract and the log of what to multiply with, both (1, channels, height, width)."""
        shift = _per_channel(mean, x)
        log_scale = -0.5 * torch.log(_per_channel(var, x) + EPSILON)
        if self.mask is None:
            return shift, log_scale.expand(1, -1, *x.shape[2:])
        return shift * self.mask, log_scale * self.mask


def warn_of_moving_averages(flow: nn.Module) -> None:
    """Warn, once for each layer, that `flow` in training mode is not inverted with the statistics of its batch."""
    if torch.compiler.is_compiling():
        return
    layers = [module for module in flow.modules() if isinstance(module, FlowBatchNorm)]
    if all(layer.warned for layer in layers):
        return
    for layer in layers:
        layer.warned = True
    warnings.warn(
        "a flow in training mode is inverted with the moving statistics of its batch normalization, but forward uses "
        "those of the batch: the two are no inverses of each other; call eval() first",
        RuntimeWarning,
        stacklevel=3,
    )


def batch_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance per channel of x, (batch, channels, ...), each (channels,).

    The batch is that of all processes together when torch.distributed runs with several; gradients pass through.
    """
    var, mean = torch.var_mean(x, dim=[0, *range(2, x.ndim)], correction=0)
    if not _spread():
        return mean, var
    # Two sums over processes, so that the variance never comes from a difference of large squares.
    count = torch.full_like(mean[:1], _count(x))
    sums: Tensor = _SumOverProcesses.apply(torch.cat((count * mean, count)))
    total = sums[-1]
    overall = sums[:-1] / total
    squares: Tensor = _SumOverProcesses.apply(count * (var + (mean - overall).square()))
    return overall, squares / total


def normalizes_alone(x: Tensor) -> bool:
    """Say whether torch's own batch normalization does for x: one process has the batch, and several values of it."""
    return not _spread() and _count(x) > 1


@contextmanager
def unrecorded() -> Iterator[None]:
    """Inside the block, batch normalization in training mode leaves the moving averages alone."""
    BatchStatistics.recording = False
    try:
        yield
    finally:
        BatchStatistics.recording = True


def record_together(layers: Sequence[BatchStatistics], means: Tensor, variances: Tensor) -> None:
    """Record the moments of a batch of several layers, each (layers, channels)."""
    if BatchStatistics.postponed is not None and BatchStatistics.recording:
        BatchStatistics.postponed.append((layers, means, variances))
        return
    for layer, mean, var in zip(layers, means, variances, strict=True):
        layer.record(mean, var)


@contextmanager
def recorded_afterwards() -> Iterator[None]:
    """Let moments be recorded in training mode after the block, those of all layers in a few operations.

    For what is compiled: hundreds of small tensors that a graph need not write to. After an exception none are.
    """
    BatchStatistics.postponed = []
    try:
        yield
        found = BatchStatistics.postponed
    finally:
        BatchStatistics.postponed = None
    if found:
        _record_all(found)


@torch.no_grad()
def _record_all(found: "Sequence[tuple[Sequence[BatchStatistics], Tensor, Tensor]]") -> None:
    layers = [layer for group, _, _ in found for layer in group]
    averages = [layer.mean for layer in layers] + [layer.var for layer in layers]
    before = torch.cat(averages)
    moments = torch.cat([means.flatten() for _, means, _ in found] + [variances.flatten() for *_, variances in found])
    # As in `BatchStatistics.record`.
    after = before.lerp(torch.where(torch.isfinite(moments), moments, before), MOMENTUM)
    torch._foreach_copy_(averages, torch.split(after, [len(average) for average in averages]))
    torch._foreach_add_([layer.step for layer in layers], 1)


@contextmanager
def population_statistics(model: nn.Module) -> Iterator[None]:
    """Collect batch statistics over the forward passes inside the block and make them the moving averages after it.

    Inside, batch normalization works in training mode and everything else (dropout) in evaluation mode. At the end the
    mean becomes the mean of the batches' means and the variance E[x²] − mean², E[x²] being the mean over batches too.
    Modes are as before afterwards; after an exception, or without a forward pass, so are the averages.
    """
    modes = {module: module.training for module in model.modules()}
    layers = [module for module in modes if isinstance(module, BatchStatistics)]
    model.eval()
    for layer in layers:
        layer.train()
        layer._sums = layer.mean.new_zeros((3, len(layer.mean)), dtype=torch.float64)
    try:
        yield
        for layer in layers:
            _adopt(layer)
    finally:
        for layer in layers:
            layer._sums = None
        for module, mode in modes.items():
            module.training = mode


@torch.no_grad()
def _adopt(layer: BatchStatistics) -> None:
    assert layer._sums is not None
    mean, square, count = layer._sums
    # Chosen on the device: to look at the count here would make the host wait for it in every layer.
    layer.mean.copy_(torch.where(count > 0, mean / count, layer.mean))
    layer.var.copy_(torch.where(count > 0, square / count - (mean / count).square(), layer.var))


def _per_channel(values: Tensor, x: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (x.ndim - 2))


def _count(x: Tensor) -> int:
    """Return the number of values per channel."""
    return math.prod(x.shape) // x.shape[1]


def _spread() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class _SumOverProcesses(torch.autograd.Function):
    """Sum a tensor over all processes; its gradient is the sum of theirs, as every process's loss depends on it."""

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        total = local.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total
