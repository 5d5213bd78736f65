"""Coupling layers: part of the image is passed on and decides how the other part is shifted and scaled.

Dinh et al. 2017 (arXiv:1605.08803), sections 3.2 to 3.4, in the conventions of the authors' code: y = (x + t)·exp(s),
the shift before the scale (the paper's eq. 9 scales first); s = scale · tanh(·) one learned scale each; batch
normalization of the transformed part at the end. Additive couplings have s = 0 (Dinh et al. 2015, arXiv:1410.8516).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from flowbench.densities.bijection import Bijection
from flowbench.densities.flows.conditioner import Conditioner
from flowbench.densities.flows.normalization import BatchNorm, FlowBatchNorm

__all__ = ["ChannelCoupling", "CheckerboardCoupling", "MakeNet", "checkerboard"]

MakeNet = Callable[[int, int], Conditioner]
"""From (channels_in, channels_out) to a network that keeps height and width."""


class CheckerboardCoupling(Bijection):
    """The pixels of one colour of a checkerboard decide what happens to those of the other, in all channels.

    With the mask b (1 where x is passed) the net sees relu([h, −h, b]), h = b·x or, with batch normalization, twice the
    normalized b·x. Its output, times 1 − b, is the shift and, through scale · tanh, the log-scale.

    Args:
        channels: of the image.
        size: (height, width) of the image.
        parity: pixels (i, j) with (i + j) mod 2 = parity are passed.
        make_net: gives the network; called with 2·channels + 1 inputs and 2·channels outputs (affine) or channels.
        affine: whether there is a scale; else the coupling is additive.
        batch_norm: whether the net's input and the output are normalized; without, an affine coupling learns an
            offset of its log-scale instead.
    """

    passed: Tensor  # b, (1, 1, height, width)
    transformed: Tensor  # 1 − b

    def __init__(
        self,
        channels: int,
        size: tuple[int, int],
        parity: int,
        make_net: MakeNet,
        *,
        affine: bool = True,
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        # The masks are functions of the size and stay out of checkpoints.
        self.register_buffer("passed", checkerboard(size, parity), persistent=False)
        self.register_buffer("transformed", checkerboard(size, 1 - parity), persistent=False)
        self.bn_in = BatchNorm(channels) if batch_norm else None
        self.net = make_net(2 * channels + 1, 2 * channels if affine else channels)
        self.rescaling_scale = nn.Parameter(torch.zeros(())) if affine else None
        self.scale_shift = nn.Parameter(torch.zeros(())) if affine and not batch_norm else None
        self.bn_out = FlowBatchNorm(channels, self.transformed) if batch_norm else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Transform x, (batch, channels, height, width)."""
        return _forward(x, *self._shift_and_log_scale(x), self.bn_out)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Undo `forward`; the passed pixels of z are those of x."""
        return _inverse(z, *self._shift_and_log_scale(z), self.bn_out)

    def _shift_and_log_scale(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        h = x * self.passed
        if self.bn_in is not None:
            h = 2 * self.bn_in(h)
        mask = self.passed.expand(x.shape[0], -1, -1, -1)
        out = self.net(torch.cat((h.relu(), (-h).relu_(), mask), dim=1))
        if self.rescaling_scale is None:
            return out * self.transformed, None
        shift, log_scale = out.chunk(2, dim=1)
        log_scale = torch.tanh(log_scale) * (self.rescaling_scale * self.transformed)
        if self.scale_shift is not None:
            log_scale = log_scale + self.scale_shift * self.transformed
        return shift * self.transformed, log_scale


class ChannelCoupling(Bijection):
    """One half of the channels decides what happens to the other; the halves keep their places.

    The net sees relu([h, −h]) of the passed half h, normalized with batch normalization.

    Args:
        channels: of the whole image, even.
        make_net: gives the network; called with as many inputs and outputs (affine) or half the outputs (additive).
        pass_first: whether the first half is passed; else the second.
        affine: whether there is a scale; else the coupling is additive.
        batch_norm: as in `CheckerboardCoupling`.
    """

    def __init__(
        self, channels: int, make_net: MakeNet, *, pass_first: bool, affine: bool = True, batch_norm: bool = True
    ) -> None:
        super().__init__()
        half = channels // 2
        self.pass_first = pass_first
        self.bn_in = BatchNorm(half) if batch_norm else None
        self.net = make_net(2 * half, 2 * half if affine else half)
        self.scale = nn.Parameter(torch.ones(())) if affine else None
        self.scale_shift = nn.Parameter(torch.zeros(())) if affine and not batch_norm else None
        self.bn_out = FlowBatchNorm(half) if batch_norm else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Transform x, (batch, channels, height, width)."""
        passed, moved = self._halves(x)
        moved, log_det = _forward(moved, *self._shift_and_log_scale(passed), self.bn_out)
        return self._whole(passed, moved), log_det

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Undo `forward`; the passed half of z is that of x."""
        passed, moved = self._halves(z)
        moved, log_det = _inverse(moved, *self._shift_and_log_scale(passed), self.bn_out)
        return self._whole(passed, moved), log_det

    def _shift_and_log_scale(self, passed: Tensor) -> tuple[Tensor, Tensor | None]:
        h = passed if self.bn_in is None else self.bn_in(passed)
        out = self.net(torch.cat((h.relu(), (-h).relu_()), dim=1))
        if self.scale is None:
            return out, None
        shift, log_scale = out.chunk(2, dim=1)
        log_scale = self.scale * torch.tanh(log_scale)
        if self.scale_shift is not None:
            log_scale = log_scale + self.scale_shift
        return shift, log_scale

    def _halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first, second = x.chunk(2, dim=1)
        return (first, second) if self.pass_first else (second, first)

    def _whole(self, passed: Tensor, moved: Tensor) -> Tensor:
        return torch.cat((passed, moved) if self.pass_first else (moved, passed), dim=1)


def checkerboard(size: tuple[int, int], parity: int) -> Tensor:
    """Return the mask that is 1 at pixels (i, j) with (i + j) mod 2 = parity, else 0, (1, 1, height, width)."""
    height, width = size
    distance = torch.arange(height).view(-1, 1) + torch.arange(width)
    return (distance % 2 == parity).to(torch.get_default_dtype()).view(1, 1, height, width)


def _forward(x: Tensor, shift: Tensor, log_scale: Tensor | None, bn_out: FlowBatchNorm | None) -> tuple[Tensor, Tensor]:
    z = x + shift
    log_det = x.new_zeros(x.shape[0])
    if log_scale is not None:
        z = z * torch.exp(log_scale)
        log_det = log_scale.flatten(1).sum(1)
    if bn_out is not None:
        z, increment = bn_out(z)
        log_det = log_det + increment
    return z, log_det


def _inverse(z: Tensor, shift: Tensor, log_scale: Tensor | None, bn_out: FlowBatchNorm | None) -> tuple[Tensor, Tensor]:
    log_det = z.new_zeros(z.shape[0])
    if bn_out is not None:
        z, log_det = bn_out.inverse(z)
    if log_scale is not None:
        z = z * torch.exp(-log_scale)
        log_det = log_det - log_scale.flatten(1).sum(1)
    return z - shift, log_det
