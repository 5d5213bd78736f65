"""The layers of PixelCNN++: weight-normalized convolutions that see only what comes before, gated residual networks.

Salimans et al. 2017 (arXiv:1701.05517), section 2.3 and 2.4; all that the text leaves open follows the authors' program
(openai/pixel-cnn).
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowbench.densities.flows.conditioner import Conditioner
from flowbench.densities.flows.derived import Derived
from flowbench.densities.flows.normalization import batch_moments
from flowbench.densities.initialization import DataInitialized

__all__ = ["GatedResnet", "Nin", "Nonlinearity", "Normed", "ShiftedConv", "ShiftedDeconv", "Stream", "down_shift"]

Nonlinearity = Literal["concat_elu", "elu", "relu"]
Stream = Literal["down", "down_right"]
"""down: sees the rows above and its own whole row; down_right: the rows above, and its own row up to the pixel itself.
The network shifts both by one where the image comes in."""
WEIGHT_SD = 0.05


class Normed(DataInitialized):
    """W x + b with W = g · V / |V|, one norm for each output channel (Salimans & Kingma 2016, arXiv:1602.07868).

    Inside `initializing`, a forward pass sets g and b so that the layer's raw output, before anything is cropped, has
    mean 0 and standard deviation `init_scale` in every channel over the batch (of all processes together).

    Args:
        shape: of V, as torch's convolutions take it.
        out_axis: of V, that of the output channels.
        init_scale: see above.
    """

    def __init__(self, shape: tuple[int, int, int, int], out_axis: int, init_scale: float = 1.0) -> None:
        super().__init__()
        self.out_axis, self.init_scale = out_axis, init_scale
        self.V = nn.Parameter(WEIGHT_SD * torch.randn(shape))
        self.g = nn.Parameter(torch.ones(shape[out_axis]))
        self.b = nn.Parameter(torch.zeros(shape[out_axis]))
        self._kernels: Derived[Tensor] = Derived()

    def forward(self, x: Tensor) -> Tensor:
        """Map x, (batch, channels_in, height, width)."""
        if self.initializing:
            self._initialize(x)
        return self.cropped(self.raw(x, self.kernels(), self.b))

    def kernels(self) -> Tensor:
        """Return g · V / |V|, in V's shape."""
        return self._kernels.get(lambda: self._directions() * self._along(self.g), self.V, self.g)

    @abstractmethod
    def raw(self, x: Tensor, kernels: Tensor, biases: Tensor | None) -> Tensor:
        """Return the whole output, also what `cropped` takes away."""

    def cropped(self, y: Tensor) -> Tensor:
        """Return the part of the raw output that the layer gives."""
        return y

    def _directions(self) -> Tensor:
        axes = [axis for axis in range(4) if axis != self.out_axis]
        return self.V / self.V.square().sum(axes, keepdim=True).clamp_min(1e-12).sqrt()

    def _along(self, values: Tensor) -> Tensor:
        return values.view([-1 if axis == self.out_axis else 1 for axis in range(4)])

    @torch.no_grad()
    def _initialize(self, x: Tensor) -> None:
        mean, var = batch_moments(self.raw(x, self._directions(), None).to(self.b.dtype))
        scale = self.init_scale / torch.sqrt(var + 1e-10)
        self.g.copy_(scale)
        self.b.copy_(-mean * scale)


class ShiftedConv(Normed):
    """A convolution with zeros on top and to the left and, of the down stream, to the right.

    Args:
        stream: what it sees of its own row.
        channels_in, channels_out: of the kernel.
        size: (height, width) of the kernel; None: (2, 3) for down, (2, 2) for down_right.
        stride: 1, or 2 where both sides are halved.
        init_scale: see `Normed`.
    """

    def __init__(
        self,
        stream: Stream,
        channels_in: int,
        channels_out: int,
        size: tuple[int, int] | None = None,
        *,
        stride: int = 1,
        init_scale: float = 1.0,
    ) -> None:
        height, width = size or ((2, 3) if stream == "down" else (2, 2))
        super().__init__((channels_out, channels_in, height, width), 0, init_scale)
        self.stride = stride
        beside = ((width - 1) // 2, (width - 1) // 2) if stream == "down" else (width - 1, 0)
        self.padding = (*beside, height - 1, 0)
        """Zeros to the left, to the right, on top, below."""

    def raw(self, x: Tensor, kernels: Tensor, biases: Tensor | None) -> Tensor:
        """Return the convolution of x, (batch, channels_out, height / stride, width / stride)."""
        return F.conv2d(F.pad(x, self.padding), kernels, biases, self.stride)


class ShiftedDeconv(Normed):
    """A transposed convolution that doubles both sides; what lies outside its stream's part of the result is cropped.

    Args:
        stream: down: kernel (2, 3); down_right: kernel (2, 2).
        channels_in, channels_out: of the kernel.
    """

    def __init__(self, stream: Stream, channels_in: int, channels_out: int) -> None:
        # The norm is that of an output channel; of torch's own parametrization it would be that of an input channel.
        super().__init__((channels_in, channels_out, 2, 3 if stream == "down" else 2), 1)
        self.left = 1 if stream == "down" else 0

    def raw(self, x: Tensor, kernels: Tensor, biases: Tensor | None) -> Tensor:
        """Return a row and a column more than x reaches, as the authors' program asks for: they hold the bias alone.

        They are cropped, but belong to the statistics of the initialization.
        """
        return F.conv_transpose2d(x, kernels, biases, stride=2, output_padding=1)

    def cropped(self, y: Tensor) -> Tensor:
        """Return (batch, channels_out, 2 · height, 2 · width)."""
        return y[:, :, :-1, self.left : -1]


class Nin(Normed):
    """A dense layer on the channels of every pixel, "network in network".

    Args:
        channels_in, channels_out: of the layer.
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__((channels_out, channels_in, 1, 1), 0)

    def raw(self, x: Tensor, kernels: Tensor, biases: Tensor | None) -> Tensor:
        """Return (batch, channels_out, height, width)."""
        return F.conv2d(x, kernels, biases)


def down_shift(x: Tensor) -> Tensor:
    """Return x one row further down, zeros in its first row."""
    return F.pad(x[:, :, :-1], (0, 0, 1, 0))


def right_shift(x: Tensor) -> Tensor:
    """Return x one column further right, zeros in its first column."""
    return F.pad(x[:, :, :, :-1], (1, 0, 0, 0))


def concat_elu(x: Tensor) -> Tensor:
    """Return elu of (x, −x) side by side: twice the channels."""
    return F.elu(torch.cat((x, -x), dim=1))


_FUNCTIONS: dict[Nonlinearity, Callable[[Tensor], Tensor]] = {"concat_elu": concat_elu, "elu": F.elu, "relu": F.relu}


class GatedResnet(Conditioner):
    """x + p · sigmoid(q), with (p, q) = T(dropout(f(T(f(x)) + N f(a)))) + h W, T a shifted convolution.

    Args:
        stream: of T.
        filters: channels of x.
        beside: channels of a, what comes in from elsewhere; 0: nothing does.
        nonlinearity: f.
        dropout: probability.
        classes: size of h, 0 without classes.
    """

    def __init__(
        self, stream: Stream, filters: int, beside: int, nonlinearity: Nonlinearity, dropout: float, classes: int
    ) -> None:
        super().__init__()
        widened = 2 if nonlinearity == "concat_elu" else 1
        self.f = _FUNCTIONS[nonlinearity]
        self.first = ShiftedConv(stream, widened * filters, filters)
        self.beside = Nin(widened * beside, filters) if beside else None
        self.dropout = nn.Dropout(dropout)
        self.second = ShiftedConv(stream, widened * filters, 2 * filters, init_scale=0.1)
        self.hw = nn.Parameter(WEIGHT_SD * torch.randn(classes, 2 * filters)) if classes else None

    def net(self, x: Tensor, a: Tensor | None, h: Tensor | None) -> Tensor:
        """Return x's successor, (batch, filters, height, width).

        Args:
            x: (batch, filters, height, width).
            a: (batch, beside, height, width).
            h: one-hot classes, (batch, classes).
        """
        # What the block adds to x's gradient is summed here, before what others add: so it rounds alike whether or not
        # the block is computed again for it (`recompute`).
        return self.through(self.first, self.second, x.view_as(x), None if a is None else a.view_as(a), h)

    def through(
        self,
        first: Callable[[Tensor], Tensor],
        second: Callable[[Tensor], Tensor],
        x: Tensor,
        a: Tensor | None,
        h: Tensor | None,
    ) -> Tensor:
        """Do what `net` does with other ways to convolve: sampling has one that remembers what it saw."""
        c = first(self.f(x))
        if self.beside is not None and a is not None:
            c = c + self.beside(self.f(a))
        c = second(self.dropout(self.f(c)))
        if self.hw is not None and h is not None:
            c = c + (h @ self.hw)[:, :, None, None]
        p, q = c.chunk(2, dim=1)
        return x + p * torch.sigmoid(q)
