"""The layers of a Glow step: its network, its coupling, and the learned prior of what is factored out.

Kingma & Dhariwal 2018 (arXiv:1807.03039), sections 3.3 and 3.4, in the conventions of the authors' code.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from flowbench.densities.bijection import Bijection
from flowbench.densities.flows import bfloat16
from flowbench.densities.flows.activated_conv import convolve_and_rectify, rectifies
from flowbench.densities.flows.actnorm import LOG_SCALE_FACTOR, ActNorm
from flowbench.densities.flows.conditioner import Conditioner
from flowbench.densities.flows.derived import Derived, are_finite
from flowbench.densities.flows.resnet import ResidualNet

__all__ = [
    "ConditionalPrior",
    "ConvNet",
    "CouplingNetwork",
    "GlowCoupling",
    "NormConv",
    "PriorNet",
    "ZeroConv",
    "ZeroResidualNet",
]

CouplingNetwork = Literal["convolutions", "residual"]
"""What decides in a coupling: the paper's `ConvNet`, or a `ZeroResidualNet`."""


class _Folded(NamedTuple):
    """A convolution whose normalization is folded into it."""

    kernels: Tensor
    bias: Tensor
    taps: Tensor | None
    """The kernels of a border channel that the input lacks, (channels_out, size²) (`_apart`)."""
    of_border: dict[tuple[int, int], Tensor]
    """What the border contributes, by the height and width of images: kept as long as the kernels are."""


MIN_LOG_SCALE = -80.0
"""e^-80 is among the least that float32 holds."""


class NormConv(nn.Module):
    """Convolution without biases, activation normalization and ReLU; W ~ N(0, 0.05²) at first.

    A kernel of more than one pixel sees one channel more, the last: 1 on the zero-padded border and 0 inside.

    Args:
        channels_in, channels_out: of input and output.
        size: side of the kernel, 1 or 3.
    """

    def __init__(self, channels_in: int, channels_out: int, size: int) -> None:
        super().__init__()
        self.W = nn.Parameter(0.05 * torch.randn(channels_out, channels_in + (size > 1), size, size))
        self.actnorm = ActNorm(channels_out)

        self.finite = True
        self._folded: Derived[_Folded] = Derived()
        self._reduced: Derived[_Folded] = Derived()

    def forward(self, x: Tensor) -> Tensor:
        """Map x, (batch, channels_in, height, width), to (batch, channels_out, height, width), rectified."""
        if self.actnorm.initializing:
            # W alone, without what the normalization is about to become.
            y: Tensor = self.actnorm(_convolve(x.to(self.W.dtype), _apart(self.W, torch.zeros_like(self.actnorm.b))))[0]
            return y.to(x.dtype)
        if bfloat16.takes(x):
            return _reduced_convolve(x, self._current_reduced())
        return _convolve(x, self._current())

    def rectified(self, x: Tensor) -> Tensor:
        """Return relu(self(x)); in one operation in bfloat16, and where no gradients are recorded on a CPU."""
        if bfloat16.takes(x) and not self.actnorm.initializing:
            return _reduced_convolve(x, self._current_reduced(), relu=True)
        if self.actnorm.initializing or not rectifies(x, self.W):
            return cast(Tensor, self(x)).relu_()
        return _convolve(x, self._current(), relu=True)

    def _current(self) -> _Folded:
        return self._folded.get(self._fold, self.W, self.actnorm.b, self.actnorm.logs)

    def _current_reduced(self) -> _Folded:
        return self._reduced.get(lambda: _reduced(self._fold()), self.W, self.actnorm.b, self.actnorm.logs)

    def _fold(self) -> _Folded:
        scale, shift = self.actnorm.affine()
        kernels = self.W * scale.view(-1, 1, 1, 1)
        self.finite = are_finite(kernels, shift)
        return _apart(kernels, shift)


class ZeroConv(nn.Module):
    """(conv₃ₓ₃(x) + b) · exp(3 logs), all zeros at first; the convolution sees the border as in `NormConv`.

    Args:
        channels_in, channels_out: of input and output.
        paired: the parameters are those of an output whose even channels, the first half of ours, and odd channels,
            the second half, mean two things.
    """

    def __init__(self, channels_in: int, channels_out: int, *, paired: bool = False) -> None:
        super().__init__()
        self.paired = paired
        self.W = nn.Parameter(torch.zeros(channels_out, channels_in + 1, 3, 3))
        self.b = nn.Parameter(torch.zeros(channels_out))
        self.logs = nn.Parameter(torch.zeros(channels_out))
        self.finite = True
        self._folded: Derived[_Folded] = Derived()
        self._reduced: Derived[_Folded] = Derived()

    def forward(self, x: Tensor) -> Tensor:
        """Map x, (batch, channels_in, height, width), to (batch, channels_out, height, width)."""
        sources = (self.W, self.b, self.logs)
        if bfloat16.takes(x):
            return _reduced_convolve(x, self._reduced.get(lambda: _reduced(self._fold()), *sources))
        return _convolve(x, self._folded.get(self._fold, *sources))

    def _fold(self) -> _Folded:
        scale = torch.exp(LOG_SCALE_FACTOR * self.logs)
        kernels, bias = self.W * scale.view(-1, 1, 1, 1), self.b * scale
        if self.paired:
            # Reading every other channel of the result strides over memory: the few kernels are sorted instead.
            kernels, bias = (torch.cat((one[0::2], one[1::2])) for one in (kernels, bias))
        self.finite = are_finite(kernels, bias)
        return _apart(kernels, bias)


class ConvNet(Conditioner):
    """The coupling's network: convolutions 3x3, 1x1, 3x3, the last of zeros at first, with ReLUs between.

    Args:
        channels_in, channels_out: of input and output.
        hidden: channels between.
        paired: see `ZeroConv`.
        dropout: probability with which a hidden value is dropped in training, in both layers; not in the paper.
    """

    takes_bfloat16 = True

    def __init__(
        self, channels_in: int, channels_out: int, hidden: int, *, paired: bool = False, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.l_1 = NormConv(channels_in, hidden, 3)
        self.l_2 = NormConv(hidden, hidden, 1)
        self.l_last = ZeroConv(hidden, channels_out, paired=paired)
        self.dropout = nn.Dropout(dropout)
        self.folding = [self.l_1, self.l_2, self.l_last]

    def net(self, x: Tensor) -> Tensor:
        """Map x, (batch, channels_in, height, width), to (batch, channels_out, height, width)."""
        h = self.dropout(self.l_1.rectified(x))
        y: Tensor = self.l_last(self.dropout(self.l_2.rectified(h)))
        return y


class ZeroResidualNet(ResidualNet):
    """One residual block of Real NVP (Dinh et al. 2017, section 4.1), zero at first; not in Glow's paper.

    As in Real NVP's couplings the block sees relu([x, −x]) and stands between weight-normalized convolutions with a
    skip connection; as in Glow's the output is zero at first: the magnitudes of its convolution are.

    Args:
        channels_in, channels_out: of input and output.
        hidden: width.
        dropout: probability with which an input of the block's last convolution is dropped in training.
    """

    def __init__(self, channels_in: int, channels_out: int, hidden: int, *, dropout: float = 0.0) -> None:
        super().__init__(2 * channels_in, channels_out, features=hidden, blocks=1, batch_norm=False, dropout=dropout)
        assert self.out.magnitude is not None
        nn.init.zeros_(self.out.magnitude)

    def net(self, x: Tensor) -> Tensor:
        """Map x, (batch, channels_in, height, width), to (batch, channels_out, height, width)."""
        return super().net(torch.cat((x, -x), dim=1).relu_())


class GlowCoupling(Bijection):
    """The first half a of the channels is passed and decides what happens to the second, b.

    Affine: z_b = (b + t) · s with s = sigmoid(h + 2), where t and h are the even and the odd channels of the authors'
    net(a), or the halves of a residual one's; additive: z_b = b + net(a).

    Args:
        channels: of the image, even.
        hidden: width of the network.
        affine: whether there is a scale.
        network: its kind.
        dropout: of the network.
    """

    def __init__(
        self,
        channels: int,
        hidden: int,
        *,
        affine: bool,
        network: CouplingNetwork = "convolutions",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        half = channels // 2
        channels_out = channels if affine else half
        self.affine = affine
        self.f1: Conditioner
        match network:
            case "convolutions":
                self.f1 = ConvNet(half, channels_out, hidden, paired=affine, dropout=dropout)
            case "residual":
                self.f1 = ZeroResidualNet(half, channels_out, hidden, dropout=dropout)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Transform x, (batch, channels, height, width)."""
        a, b = x.chunk(2, dim=1)
        shift, scale = self._shift_and_scale(a)
        if scale is None:
            return torch.cat((a, b + shift), dim=1), x.new_zeros(x.shape[0])
        return torch.cat((a, (b + shift) * scale), dim=1), scale.log().flatten(1).sum(1)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Undo `forward`."""
        a, b = z.chunk(2, dim=1)
        shift, scale = self._shift_and_scale(a)
        if scale is None:
            return torch.cat((a, b - shift), dim=1), z.new_zeros(z.shape[0])
        return torch.cat((a, b / scale - shift), dim=1), -scale.log().flatten(1).sum(1)

    def _shift_and_scale(self, a: Tensor) -> tuple[Tensor, Tensor | None]:
        h = self.f1(a)
        if not self.affine:
            return h, None
        shift, h = h.chunk(2, dim=1)
        # Not logsigmoid, which torch computes twenty times as slowly on a CPU; the bound keeps its logarithm finite.
        return shift, torch.sigmoid((h + 2).clamp_min(MIN_LOG_SCALE))


class PriorNet(Conditioner):
    """One convolution of zeros at first, from what is kept to mean and log standard deviation of what is not.

    Args:
        channels: of the input; the output has twice as many.
    """

    takes_bfloat16 = True

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = ZeroConv(channels, 2 * channels, paired=True)

    def net(self, x: Tensor) -> Tensor:
        """Map x, (batch, channels, height, width), to (batch, 2 · channels, height, width)."""
        y: Tensor = self.conv(x)
        return y


class ConditionalPrior(Bijection):
    """The learned prior of the second half b of the channels given the first, a, as a bijection: b becomes white.

    b ~ N(μ(a), σ(a)²) is ε = (b − μ) / σ with ε ~ N(0, 1) and log-determinant −Σ log σ; μ and log σ are the even and
    the odd channels of the authors' network's output.

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
        mean, log_sd = h.chunk(2, dim=1)
        return torch.cat((a, (b - mean) * torch.exp(-log_sd)), dim=1), -log_sd.flatten(1).sum(1)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Give the second half of the channels of z its mean and scale again."""
        a, white = z.chunk(2, dim=1)
        h = self.prior(a)
        mean, log_sd = h.chunk(2, dim=1)
        return torch.cat((a, mean + white * log_sd.exp()), dim=1), log_sd.flatten(1).sum(1)


def _apart(kernels: Tensor, bias: Tensor) -> _Folded:
    """Return what `_convolve` takes; of a wide input's kernels those of the border are set apart."""
    channels_out, channels, size, _ = kernels.shape
    if size == 1 or channels <= channels_out:
        return _Folded(kernels, bias, None, {})
    last = kernels[:, :-1].contiguous(memory_format=torch.channels_last)
    return _Folded(last, bias, kernels[:, -1].flatten(1), {})


def _reduced(folded: _Folded) -> _Folded:
    """Return kernels in bfloat16 where no gradients are recorded; `bfloat16.convolution` casts where they are."""
    return folded if torch.is_grad_enabled() else folded._replace(kernels=folded.kernels.to(torch.bfloat16))


def _reduced_convolve(x: Tensor, folded: _Folded, *, relu: bool = False) -> Tensor:
    """Convolve x, bfloat16, as `_convolve` does; the border is added in float32, and so is then the result."""
    convolve = bfloat16.convolution if torch.is_grad_enabled() else bfloat16.convolve
    kernels, bias = folded.kernels, folded.bias
    if kernels.shape[-1] == 1:
        return convolve(x, kernels, bias, relu=relu)
    if folded.taps is None:
        return convolve(_bordered(x, folded), kernels, bias, relu=relu, padded=True)
    y = convolve(x, kernels, bias) + _border_of(folded, x.shape[2], x.shape[3])
    return y.to(x.dtype).relu_() if relu else y


def _convolve(x: Tensor, folded: _Folded, *, relu: bool = False) -> Tensor:
    """Convolve x, of which `folded` may see the border as one more channel; `relu` needs that `rectifies` says so."""
    kernels, bias = folded.kernels, folded.bias
    convolution = convolve_and_rectify if relu else F.conv2d
    if kernels.shape[-1] == 1:
        return convolution(x, kernels, bias)
    if folded.taps is None:
        # A narrow input takes the border as one more channel; after the convolution it would cost a wide addition.
        return convolution(_bordered(x, folded), kernels, bias)
    y = F.conv2d(x, kernels, bias, padding=1) + _border_of(folded, x.shape[2], x.shape[3])
    return y.relu_() if relu else y


def _bordered(x: Tensor, folded: _Folded) -> Tensor:
    """Return x with a border of zeros, and as the last channel 1 there and 0 inside."""
    border = _border_of(folded, x.shape[2], x.shape[3]).to(x.dtype)
    return torch.cat((F.pad(x, (1, 1, 1, 1)), border.expand(len(x), -1, -1, -1)), dim=1)


def _border_of(folded: _Folded, height: int, width: int) -> Tensor:
    """Return the border of images of this size as a channel, or what it adds to a convolution by `taps`.

    Returns:
        (1, 1, height + 2, width + 2), 1 at the border and 0 inside; with taps (channels_out, height, width).
    """
    if (height, width) not in folded.of_border:
        if folded.taps is None:
            border = _kept(_border, height, width, folded.bias)
        else:
            # The same for all images; in the order of memory of the convolution's result.
            seen = _kept(_border_seen, height, width, folded.taps)
            border = (seen @ folded.taps.T).view(height, width, -1).permute(2, 0, 1)
        folded.of_border[height, width] = border
    return folded.of_border[height, width]


def _border(height: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a border of ones around zeros, (1, 1, height + 2, width + 2)."""
    return F.pad(torch.zeros(1, 1, height, width, dtype=dtype, device=device), (1, 1, 1, 1), value=1.0)


def _border_seen(height: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return what kernels of 3x3 see of the border at each pixel, (height · width, 9)."""
    return F.unfold(_border(height, width, dtype, device), 3)[0].T


_Make = Callable[[int, int, torch.dtype, torch.device], Tensor]
_borders: dict[tuple[object, ...], Tensor] = {}


def _kept(
    make: Callable[[int, int, torch.dtype, torch.device], Tensor], height: int, width: int, like: Tensor
) -> Tensor:
    """Return make(height, width, …) of the type and device of `like`, made once: in training it took a step's 25th."""
    if torch.compiler.is_compiling() or is_in_torch_dispatch_mode():
        # A compiler, and whoever counts operations or only pretends to compute, is to see it made.
        return make(height, width, like.dtype, like.device)
    key = (make, height, width, like.dtype, like.device)
    if key not in _borders:
        with torch.inference_mode(False):  # training needs it, too
            _borders[key] = make(height, width, like.dtype, like.device)
    return _borders[key]
