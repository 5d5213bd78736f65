"""The convolutions of the IAF-VAE: kernels of norm 1 times exp(g), first values from the first batch.

Salimans & Kingma 2016 (arXiv:1602.07868), in the conventions of the authors' code (Kingma et al. 2016, openai/iaf).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowbench.densities.flows.conditioner import Conditioner
from flowbench.densities.flows.derived import Derived
from flowbench.densities.flows.normalization import batch_moments
from flowbench.densities.initialization import DataInitialized
from flowbench.errors import InputError

__all__ = ["ActivatedConv", "Conv", "MaskedConv", "TransposedConv"]

INITIAL_SCALE = 0.1
"""Deviation that a convolution's outputs are initialized to, before the cube root (`Conv`)."""


class Conv(DataInitialized):
    """y = exp(g) · V/‖V‖ * x + b, with ‖V‖ over each output's kernel; zero padding as TensorFlow's SAME.

    Inside `initializing` the output for the given batch becomes r · (t − m), where t is the convolution with V/‖V‖, m
    and v are its mean and variance by channel and r = scale / √(v + 1e-10). What is stored is b = −m · r and
    g = log(r) / 3: the authors' code divides by 3 and its forward pass does not multiply by it, so that the initialized
    layer scales by the cube root of what was meant. We keep that, to start where they start.

    Args:
        channels_in: of the input.
        channels_out: of the output.
        size: side of the kernel, odd.
        stride: 1, or 2 for inputs of even sides.
        scale: `scale` of the initialization.
    """

    def __init__(
        self, channels_in: int, channels_out: int, size: int = 3, *, stride: int = 1, scale: float = INITIAL_SCALE
    ) -> None:
        super().__init__()
        self.size, self.stride, self._scale = size, stride, scale
        self.V = nn.Parameter(0.05 * torch.randn(self._shape(channels_in, channels_out)))
        self.g = nn.Parameter(torch.zeros(channels_out))
        self.b = nn.Parameter(torch.zeros(channels_out))
        self._kernels: Derived[Tensor] = Derived()

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x, (batch, channels_in, height, width), to (batch, channels_out, height/stride, width/stride)."""
        if self.initializing:
            return self._initialize(x)
        return self._convolve(x, self._kernels.get(self._scaled, self.V, self.g, keep=not self.training), self.b)

    @torch.no_grad()
    def _initialize(self, x: Tensor) -> Tensor:
        t = self._convolve(x, self._normalized(), None)
        mean, var = batch_moments(t.to(self.b.dtype))
        r = self._scale * torch.rsqrt(var + 1e-10)
        self.g.copy_(torch.log(r) / 3)
        self.b.copy_(-mean * r)
        return (t - mean.view(-1, 1, 1)) * r.view(-1, 1, 1)

    def _scaled(self) -> Tensor:
        return self._normalized() * torch.exp(self.g).view(self._by_output())

    def _normalized(self) -> Tensor:
        V = self._free()
        return V * torch.rsqrt(V.square().sum(dim=(1, 2, 3), keepdim=True).clamp_min(1e-12))

    def _free(self) -> Tensor:
        """Return the entries of the kernels that take part, V's shape."""
        return self.V

    def _shape(self, channels_in: int, channels_out: int) -> tuple[int, ...]:
        return channels_out, channels_in, self.size, self.size

    def _by_output(self) -> tuple[int, ...]:
        """Return the shape in which a value for each output multiplies the kernels."""
        return -1, 1, 1, 1

    def _convolve(self, x: Tensor, kernels: Tensor, b: Tensor | None) -> Tensor:
        if self.stride == 1:
            return F.conv2d(x, kernels, b, padding=self.size // 2)
        # SAME pads an even side by size − 2 pixels in all, the odd one after: not what padding=size // 2 does.
        before = (self.size - self.stride) // 2
        after = self.size - self.stride - before
        return F.conv2d(F.pad(x, (before, after, before, after)), kernels, b, stride=self.stride)


class MaskedConv(Conv):
    """A convolution whose kernels are masked before they are normalized; initialized to deviation 1.

    Output channel o sees, at its own position, the input channels a of groups up to its own (earlier ones alone if
    `strict`), and all channels at later positions of the raster scan: right of it in its row, and every row below. (The
    authors' order: the paper's text leaves it open.) With the larger of both counts q times the smaller, q
    neighbouring channels form a group.

    Args:
        channels_in: of the input; divides channels_out or is divided by it.
        channels_out: of the output.
        strict: see above ("zerodiagonal" in the authors' code).

    Raises:
        InputError: neither count divides the other.
    """

    def __init__(self, channels_in: int, channels_out: int, *, strict: bool) -> None:
        super().__init__(channels_in, channels_out, scale=1.0)
        self.mask: Tensor
        self.register_buffer("mask", _mask(channels_in, channels_out, strict), persistent=False)

    def _free(self) -> Tensor:
        return self.V * self.mask


class TransposedConv(Conv):
    """The adjoint of a convolution with stride 2, which doubles the sides.

    ‖V‖ is over the kernels and outputs of each *input* channel, as in the authors' code; exp(g) and b are by output.

    Args:
        channels_in, channels_out, size: as in `Conv`.
    """

    def __init__(self, channels_in: int, channels_out: int, size: int = 3) -> None:
        super().__init__(channels_in, channels_out, size, stride=2)

    def _shape(self, channels_in: int, channels_out: int) -> tuple[int, ...]:
        return channels_in, channels_out, self.size, self.size

    def _by_output(self) -> tuple[int, ...]:
        return 1, -1, 1, 1

    def _convolve(self, x: Tensor, kernels: Tensor, b: Tensor | None) -> Tensor:
        height, width = 2 * x.shape[2], 2 * x.shape[3]
        before = (self.size - self.stride) // 2
        return F.conv_transpose2d(x, kernels, b, stride=2, padding=before)[:, :, :height, :width]


class ActivatedConv(Conditioner):
    """conv(elu(x)).

    Args:
        conv: what follows the nonlinearity.
    """

    def __init__(self, conv: Conv) -> None:
        super().__init__()
        self.conv = conv

    def net(self, x: Tensor) -> Tensor:
        """Return the output for x, (batch, channels_in, height, width)."""
        y: Tensor = self.conv(F.elu(x))
        return y


def _mask(channels_in: int, channels_out: int, strict: bool) -> Tensor:
    """Return which entries of 3x3 kernels, (channels_out, channels_in, 3, 3), are free: 1, or 0."""
    larger, smaller = max(channels_in, channels_out), min(channels_in, channels_out)
    if larger % smaller:
        raise InputError(
            f"model.latents and model.features: masked convolutions between {smaller} and {larger} channels need the "
            "one to be a multiple of the other"
        )
    q = larger // smaller
    group_in = torch.arange(channels_in) // (q if channels_in > channels_out else 1)
    group_out = torch.arange(channels_out) // (q if channels_out > channels_in else 1)
    here = group_in < group_out[:, None] if strict else group_in <= group_out[:, None]
    mask = torch.zeros(channels_out, channels_in, 3, 3)
    mask[:, :, 1, 1] = here.float()
    mask[:, :, 1, 2] = 1
    mask[:, :, 2] = 1
    return mask
