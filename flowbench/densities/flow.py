"""A flow as an object: a bijection with the distribution of its latents is a density over its own input space."""

from typing import cast

import torch
from torch import Tensor

from flowbench.densities.bases import Base
from flowbench.densities.bijection import Bijection
from flowbench.densities.modes import evaluating
from flowbench.errors import InputError

__all__ = ["Flow"]


class Flow(Bijection):
    """p(x) = p_base(f(x)) |det ∂f/∂x|, x being floats: logit-space images (NCHW), or vectors (batch, d).

    Grey levels are counted by the density model that such a flow is part of (`flowbench.Run.model`).
    """

    input_shape: tuple[int, ...]
    """Of one x: (channels, height, width), or (d,)."""
    base: Base
    """The distribution of the latents."""

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x) in nats, (batch,); gradients flow.

        In training mode batch normalization, where a flow of images has it, normalizes by the batch.

        Args:
            x: floats, (batch, channels, height, width) or (batch, d).

        Raises:
            InputError: another shape or kind of number than the flow takes, or no tensor.
        """
        if not isinstance(cast(object, x), Tensor):
            raise InputError(f"x is {type(x).__name__}: give a tensor, for example torch.as_tensor(x).float()")
        if tuple(x.shape[1:]) != self.input_shape or x.ndim != len(self.input_shape) + 1 or not x.is_floating_point():
            expected = ", ".join(map(str, self.input_shape))
            raise InputError(f"x is {x.dtype} of shape {tuple(x.shape)}; the flow takes floats (batch, {expected})")
        weights = next(self.parameters()).dtype
        if x.dtype != weights:
            raise InputError(
                f"x is {x.dtype}, the flow's weights are {weights}: give x.to({weights}), or flow.double()"
            )
        z, log_det = self(x)
        log_prob: Tensor = self.base.log_prob(z) + log_det
        return log_prob

    @torch.no_grad()
    def sample(self, n: int, temperature: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
        """Return n points of the input space, (n, channels, height, width) or (n, d).

        Args:
            n: 0 or more.
            temperature: of the base: p^(1/temperature²), normalized.
            generator: None: torch's global one.
        """
        parameter = next(self.parameters())
        z = self.base.sample((n, *self.input_shape), temperature, generator, parameter.device)
        with evaluating(self):  # the inverse is that of evaluation mode
            x, _ = self.inverse(z.to(parameter.dtype))
        return x
