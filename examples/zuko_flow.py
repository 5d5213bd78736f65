"""A zuko flow as a model of one's own: `flowbench train zuko_coupling/digits --import zuko_flow.py`."""

import math
from typing import Literal

import zuko
from pydantic import PositiveInt
from torch import Tensor, nn

from flowbench import adapters
from flowbench.config.registry import density_models
from flowbench.densities.model import DensityConfig, DensityModel


class Flattened(nn.Module):
    """A flow of vectors seen as one of images."""

    def __init__(self, flow: zuko.flows.Flow, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.flow, self.image_shape = flow, image_shape

    def log_prob(self, x: Tensor) -> Tensor:
        """Return nats, (batch,), of x, (batch, channels, height, width)."""
        return self.flow().log_prob(x.flatten(1))

    def sample(self, n: int) -> Tensor:
        """Return n points."""
        return self.flow().sample((n,)).unflatten(1, self.image_shape)


@density_models.register("zuko_coupling")
class ZukoCoupling(DensityConfig):
    """The `model:` section: what `zuko.flows.RealNVP` takes."""

    name: Literal["zuko_coupling"] = "zuko_coupling"
    transforms: PositiveInt = 6
    features: PositiveInt = 128

    def build(self, image_shape: tuple[int, int, int], levels: int) -> DensityModel:
        """Return the untrained model of images after our logit."""
        flow = zuko.flows.RealNVP(
            math.prod(image_shape), transforms=self.transforms, hidden_features=(self.features,) * 2, randmask=True
        )
        seen = Flattened(flow, image_shape)
        return adapters.from_log_prob(seen, image_shape=image_shape, levels=levels, space="logit", sample=seen.sample)
