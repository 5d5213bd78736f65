"""A critic of images, and the losses by which a flow and a critic train each other (WGAN with gradient penalty)."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from flowbench.densities.model import ImageShape

__all__ = ["Critic", "critic_loss", "held_fixed"]


class Critic(nn.Module):
    """D(x), one number an image: convolutions of stride 2 down to 2x2 places, then a linear map.

    The discriminator of Flow-GAN's authors for CIFAR-10 (`model.py` of ermongroup/flow-gan): 5x5 kernels, leaky ReLU of
    slope 0.2, then layer normalization over channels and pixels, and twice the width at each. Normalization by batches
    would make the penalty, a gradient for each image, depend on the others.

    Args:
        image_shape: (channels, height, width).
        width: features of the first convolution.
    """

    def __init__(self, image_shape: ImageShape, width: int) -> None:
        super().__init__()
        channels, *sides = image_shape
        halvings = max(1, math.ceil(math.log2(max(sides) / 2)))
        layers: list[nn.Module] = []
        for number in range(halvings):
            wider = width * 2**number
            layers += [nn.Conv2d(channels, wider, 5, stride=2, padding=2), nn.LeakyReLU(0.2), nn.GroupNorm(1, wider)]
            channels, sides = wider, [-(-side // 2) for side in sides]
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * math.prod(sides), 1))
        for module in self.layers:
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return D(x), (batch,), higher for what looks real; x (batch, channels, height, width), images in [0, 1]."""
        verdict: Tensor = self.layers(x)
        return verdict.squeeze(1)


def critic_loss(critic: nn.Module, real: Tensor, made: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Return what a critic minimizes, mean D(made) − mean D(real) + penalty · mean (‖∇D(x̂)‖ − 1)², and minus its first
    two terms: the critic's estimate of the Wasserstein distance.

    x̂ = u · real + (1 − u) · made with u uniform for each pair (Gulrajani et al. 2017, algorithm 1). The norm is over
    all values of an image; the program of Flow-GAN's authors takes it over the rows alone.

    Args:
        critic: images to (batch,).
        real, made: (batch, channels, height, width) each.
        penalty: weight of the last term.
    """
    share = torch.rand((len(real), *[1] * (real.ndim - 1)), device=real.device, dtype=real.dtype)
    between = torch.lerp(made, real, share).requires_grad_()
    (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    steepness = (slope.flatten(1).norm(dim=1) - 1).square().mean()
    distance = critic(real).mean() - critic(made).mean()
    return penalty * steepness - distance, distance


@contextmanager
def held_fixed(module: nn.Module) -> Iterator[None]:
    """Inside the block what `module` computes has gradients for its input alone, not for its parameters."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    module.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_()
