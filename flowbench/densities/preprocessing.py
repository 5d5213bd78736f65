"""What happens to dequantized pixels before the flow: a logit (Real NVP), a shift (Glow, TarFlow) or nothing."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Center", "Logit", "Preprocessing", "Symmetric", "Unit", "dequantize"]


def dequantize(images: Tensor, noise: Tensor, levels: int) -> Tensor:
    """Return x = (images + noise) / levels in [0, 1) (Dinh et al. 2017, section 4.1; Theis et al. 2016).

    Args:
        images: uint8, below `levels`.
        noise: in [0, 1), same shape; its dtype is that of the result.
        levels: grey levels.
    """
    # In place: the converted images are nobody else's, and the batch stays in the processor's cache.
    x = images.to(noise.dtype).add_(noise)
    # For a power of two both are the same number, and the product is the faster one.
    return x.mul_(1 / levels) if levels.bit_count() == 1 else x.div_(levels)


class Preprocessing(nn.Module, ABC):
    """An elementwise, parameter-free map of images in [0, 1] to the space of the flow."""

    @abstractmethod
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return y, the shape of x (batch, channels, height, width), and log|det ∂y/∂x| in nats, (batch,)."""

    @abstractmethod
    def inverse(self, y: Tensor) -> Tensor:
        """Return the x in [0, 1] that `forward` maps to y."""


class Logit(Preprocessing):
    """y = log p − log(1 − p) with p = α + (1 − 2α) x.

    The authors' code (`preprocess` of tensorflow/models, research/real_nvp); the paper's text (Dinh et al. 2017,
    section 4.1) has α + (1 − α) x.

    Args:
        alpha: α, in (0, 1/2); 0.05 in the authors' code.
    """

    def __init__(self, alpha: float = 0.05) -> None:
        super().__init__()
        if not 0 < alpha < 0.5:
            raise ValueError(f"alpha is {alpha}: it must lie between 0 and 1/2")
        self.alpha = alpha

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and log|det ∂y/∂x| = Σ [softplus(y) + softplus(−y) + log(1 − 2α)], since −log p = softplus(−y)."""
        p = self.alpha + (1 - 2 * self.alpha) * x
        y = torch.log(p) - torch.log1p(-p)
        log_scale = F.softplus(y) + F.softplus(-y) + math.log1p(-2 * self.alpha)
        return y, log_scale.flatten(1).sum(1)

    def inverse(self, y: Tensor) -> Tensor:
        """Return x = (σ(y) − α) / (1 − 2α); a y beyond the images' range gives an x beyond [0, 1]."""
        return (torch.sigmoid(y) - self.alpha) / (1 - 2 * self.alpha)

    def extra_repr(self) -> str:
        """Return α for the module's printed form."""
        return f"alpha={self.alpha}"


class Center(Preprocessing):
    """y = x − 1/2 (Glow's code: `preprocess` of openai/glow)."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return x − 1/2 and zeros."""
        return x - 0.5, x.new_zeros(len(x))

    def inverse(self, y: Tensor) -> Tensor:
        """Return y + 1/2."""
        return y + 0.5


class Symmetric(Preprocessing):
    """y = 2x − 1, in [−1, 1] (TarFlow's code: apple/ml-tarflow)."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return 2x − 1 and D log 2."""
        return 2 * x - 1, x.new_full((len(x),), x[:1].numel() * math.log(2))

    def inverse(self, y: Tensor) -> Tensor:
        """Return (y + 1) / 2."""
        return 0.5 * (y + 1)


class Unit(Preprocessing):
    """y = x: nothing is done."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return x itself and zeros."""
        return x, x.new_zeros(len(x))

    def inverse(self, y: Tensor) -> Tensor:
        """Return y itself."""
        return y
