"""A normflows Glow as a model of one's own: `flowbench train normflows_glow/digits --import normflows_glow.py`."""

from typing import Literal

import normflows as nf
import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from flowbench import adapters
from flowbench.config.registry import density_models
from flowbench.densities.model import DensityConfig, DensityModel


class Unlabelled(nn.Module):
    """A multi-scale flow, whose log-density asks for labels that there are none of."""

    def __init__(self, flow: nf.MultiscaleFlow) -> None:
        super().__init__()
        self.flow = flow

    def log_prob(self, x: Tensor) -> Tensor:
        """Return nats, (batch,), of x, (batch, channels, height, width)."""
        return self.flow.log_prob(x, None)

    def sample(self, n: int) -> Tensor:
        """Return n points."""
        return self.flow.sample(n)[0]


@density_models.register("normflows_glow")
class NormflowsGlow(DensityConfig):
    """The `model:` section: what the package's constructors take."""

    name: Literal["normflows_glow"] = "normflows_glow"
    levels: PositiveInt = 2
    steps: PositiveInt = 4
    hidden: PositiveInt = 32

    def build(self, image_shape: tuple[int, int, int], levels: int) -> DensityModel:
        """Return the untrained model of images after our logit."""
        channels, height, width = image_shape
        bases, flows, merges = [], [], []
        for number in range(self.levels):
            deep = self.levels - number
            blocks = [nf.flows.GlowBlock(channels * 2 ** (deep + 1), self.hidden) for _ in range(self.steps)]
            flows.append([*blocks, nf.flows.Squeeze()])
            merges += [nf.flows.Merge()] if number else []
            latent = (channels * 2 ** (deep + (number == 0)), height // 2**deep, width // 2**deep)
            bases.append(nf.distributions.DiagGaussian(latent, trainable=False))
        glow = Unlabelled(nf.MultiscaleFlow(bases, flows, merges, class_cond=False))
        # Its activation normalization takes its scale from the first batch that it meets, an evaluation's, too: here
        # from noise of about the size of logits, before anything is measured.
        with torch.no_grad():
            glow.log_prob(torch.randn(64, *image_shape))
        return adapters.from_log_prob(glow, image_shape=image_shape, levels=levels, space="logit", sample=glow.sample)
