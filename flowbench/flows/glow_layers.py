"""The layers of a Glow step: its network, its coupling, and the learned prior of what is factored out.

Kingma & Dhariwal 2018 (arXiv:1807.03039), sections 3.3 and 3.4, in the conventions of the authors' code.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowbench.flows.actnorm import LOG_SCALE_FACTOR, ActNorm
from flowbench.flows.bijection import Bijection
from flowbench.flows.conditioner import Conditioner

__all__ = ["ConditionalPrior", "ConvNet", "GlowCoupling", "NormConv", "PriorNet", "ZeroConv"]


class NormConv(nn.Module):
    """Convolution without biases, then activation normalization; W ~ N(0, 0.05²) at first.

    A kernel of more than one pixel sees one channel more, the last: 1 on the zero-padded border and 0 inside.

    Args:
        channels_in, channels_out: of input and output.
        size: side of the kernel, 1 or 3.
    """

    def __init__(self, channels_in: int, channels_out: int, size: int) -> None:
        super().__init__()
        self.W = nn.Parameter(0.05 * torch.randn(channels_out, channels_in + (size > 1), size, size))
        self.actnorm = ActNorm(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """Map x, (batch, channels_in, height, width), to (batch, channels_out, height, width)."""
        y: Tensor = self.actnorm(_convolve(x, self.W))[0]
        return y


class ZeroConv(nn.Module):
    """(conv₃ₓ₃(x) + b) · exp(3 logs), all zeros at first; the convolution sees the border as in `NormConv`.

    Args:
        channels_in, channels_out: of input and output.
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.zeros(channels_out, channels_in + 1, 3, 3))
        self.b = nn.Parameter(torch.zeros(channels_out))
        self.logs = nn.Parameter(torch.zeros(channels_out))

    def forward(self, x: Tensor) -> Tensor:
        """Map x, (batch, channels_in, height, width), to (batch, channels_out, height, width)."""
        scale = torch.exp(LOG_SCALE_FACTOR * self.logs.view(1, -1, 1, 1))
        return (_convolve(x, self.W) + self.b.view(1, -1, 1, 1)) * scale


class ConvNet(Conditioner):
    """The coupling's network: convolutions 3x3, 1x1, 3x3, the last of zeros at first, with ReLUs between.

    Args:
        channels_in, channels_out: of input and output.
        hidden: channels between.
        dropout: probability with which a hidden value is dropped in training, in both layers; not in the paper.
    """

    def __init__(self, channels_in: int, channels_out: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.l_1 = NormConv(channels_in, hidden, 3)
        self.l_2 = NormConv(hidden, hidden, 1)
        self.l_last = ZeroConv(hidden, channels_out)
        self.dropout = nn.Dropout(dropout)

    def net(self, x: Tensor) -> Tensor:
        """Map x, (batch, channels_in, height, width), to (batch, channels_out, height, width)."""
        h = self.dropout(self.l_1(x).relu())
        y: Tensor = self.l_last(self.dropout(self.l_2(h).relu()))
        return y


class GlowCoupling(Bijection):
    """The first half a of the channels is passed and decides what happens to the second, b.

    Affine: z_b = (b + t) · s with s = sigmoid(h + 2), where t and h are the even and the odd channels of net(a);
    additive: z_b = b + net(a).

    Args:
        channels: of the image, even.
        hidden: width of the network.
        affine: whether there is a scale.
        dropout: of the network.
    """

    def __init__(self, channels: int, hidden: int, *, affine: bool, dropout: float = 0.0) -> None:
        super().__init__()
        half = channels // 2
        self.affine = affine
        self.f1 = ConvNet(half, channels if affine else half, hidden, dropout)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Transform x, (batch, channels, height, width)."""
        a, b = x.chunk(2, dim=1)
        shift, log_scale = self._shift_and_log_scale(a)
        if log_scale is None:
            return torch.cat((a, b + shift), dim=1), x.new_zeros(x.shape[0])
        return torch.cat((a, (b + shift) * log_scale.exp()), dim=1), log_scale.flatten(1).sum(1)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Undo `forward`."""
        a, b = z.chunk(2, dim=1)
        shift, log_scale = self._shift_and_log_scale(a)
        if log_scale is None:
            return torch.cat((a, b - shift), dim=1), z.new_zeros(z.shape[0])
        return torch.cat((a, b * torch.exp(-log_scale) - shift), dim=1), -log_scale.flatten(1).sum(1)

    def _shift_and_log_scale(self, a: Tensor) -> tuple[Tensor, Tensor | None]:
        h = self.f1(a)
        return (h[:, 0::2], F.logsigmoid(h[:, 1::2] + 2)) if self.affine else (h, None)


class PriorNet(Conditioner):
    """One convolution of zeros at first, from what is kept to mean and log standard deviation of what is not.

    Args:
        channels: of the input; the output has twice as many.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = ZeroConv(channels, 2 * channels)

    def net(self, x: Tensor) -> Tensor:
        """Map x, (batch, channels, height, width), to (batch, 2 · channels, height, width)."""
        y: Tensor = self.conv(x)
        return y


class ConditionalPrior(Bijection):
    """The learned prior of the second half b of the channels given the first, a, as a bijection: b becomes white.

    b ~ N(μ(a), σ(a)²) is ε = (b − μ) / σ with ε ~ N(0, 1) and log-determinant −Σ log σ; μ and log σ are the even and
    the odd channels of the network's output.

    Args:
        channels: of the image, even.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.prior = PriorNet(channels // 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Whiten the second half of the channels of x, (batch, channels, height, width)."""
        a, b = x.chunk(2, dim=1)
        h = self.prior(a)
        mean, log_sd = h[:, 0::2], h[:, 1::2]
        return torch.cat((a, (b - mean) * torch.exp(-log_sd)), dim=1), -log_sd.flatten(1).sum(1)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Give the second half of the channels of z its mean and scale again."""
        a, white = z.chunk(2, dim=1)
        h = self.prior(a)
        mean, log_sd = h[:, 0::2], h[:, 1::2]
        return torch.cat((a, mean + white * log_sd.exp()), dim=1), log_sd.flatten(1).sum(1)


def _convolve(x: Tensor, W: Tensor) -> Tensor:
    if W.shape[-1] == 1:
        return F.conv2d(x, W)
    # What the border channel adds is the same for all images: convolved once, not once an image.
    border = F.pad(x.new_zeros(1, 1, *x.shape[2:]), (1, 1, 1, 1), value=1.0)
    return F.conv2d(x, W[:, :-1], padding=1) + F.conv2d(border, W[:, -1:])
