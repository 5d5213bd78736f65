"""Models of other people: density models made of what they have, counted as ours are."""

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from flowbench.densities.adapted import Adapted
from flowbench.densities.model import DensityModel

__all__ = ["from_log_prob"]


def from_log_prob(
    module: nn.Module,
    *,
    image_shape: tuple[int, int, int],
    levels: int = 256,
    space: Literal["unit", "pixel", "logit"] = "unit",
    sample: Callable[[int], Tensor] | None = None,
) -> DensityModel:
    """Make a density model of any module that has a log-density of floats, of zuko, nflows, normflows or one's own.

    Dequantization, the constants of the change of variables and the labels are ours, so that its bits/dim are counted
    as those of our models. Of a package's own `bits_per_dim` nothing is used.

    Args:
        module: its `log_prob(x)` takes floats (batch, channels, height, width) and returns nats, (batch,).
        image_shape: (channels, height, width).
        levels: grey levels.
        space: where x lies: unit, in [0, 1); pixel, in [0, levels); logit, after our logit (α = 0.05). The density is
            that of x in its own space.
        sample: from n to n points of that space; None: the model has no samples.

    Raises:
        InputError: in evaluation mode an image's figure depends on what stands beside it, or differs the second time,
            or measuring changes the module; `log_prob` is missing or gives another shape.

    Examples:
        >>> import math, torch, flowbench as fb
        >>> class Uniform(torch.nn.Module):
        ...     def log_prob(self, x):
        ...         return torch.zeros(len(x))
        >>> model = fb.adapters.from_log_prob(Uniform(), image_shape=(1, 4, 4), levels=17)
        >>> images = torch.randint(17, (5, 1, 4, 4), dtype=torch.uint8)
        >>> math.isclose(model.bits_per_dim(images).mean().item(), math.log2(17), rel_tol=1e-6)
        True
    """
    return Adapted(module, image_shape, levels, space, sample)
