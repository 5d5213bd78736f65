"""A flow of vectors given something else: Real NVP's couplings on vectors, each of which sees a context."""

import math
from typing import Literal, cast

import torch
from torch import Tensor, nn

from flowbench.densities.bases import StandardNormal
from flowbench.densities.flows.vectors import VectorCoupling, vector_couplings
from flowbench.errors import InputError

__all__ = ["ConditionalFlow"]


class ConditionalFlow(nn.Module):
    """p(x | c) = N(f(x, c); 0, 1) |det ∂f/∂x|: affine couplings whose networks see c beside what is passed.

    Dinh et al. 2017 (arXiv:1605.08803), section 3.2, conditioned as by Winkler et al. 2019 (arXiv:1912.00042), section
    3. Initial weights come from torch's global generator.

    Args:
        dimensions: of x: d ≥ 1. Of one dimension it is a normal distribution whose mean and deviation c decides.
        context: of c, 1 or more.
        couplings, features, layers, mixing: see `vector_couplings`.

    Raises:
        InputError: there is no dimension, or no context.
    """

    def __init__(
        self,
        dimensions: int,
        context: int,
        *,
        couplings: int | None = None,
        features: int | None = None,
        layers: int | None = None,
        mixing: Literal["alternate", "permute"] = "alternate",
    ) -> None:
        super().__init__()
        if min(dimensions, context) < 1:
            raise InputError(f"a flow of {dimensions} dimensions given {context}: both are 1 or more")
        self.dimensions = dimensions
        self.base = StandardNormal()
        self.couplings = nn.ModuleList(
            vector_couplings(
                dimensions, couplings=couplings, features=features, layers=layers, mixing=mixing, context=context
            )
        )

    def forward(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Map x, (batch, d), to latents given the context, (batch, dimensions of c); see `Bijection.forward`."""
        log_det = x.new_zeros(len(x))
        for coupling in self._parts():
            x, increment = coupling(x, context)
            log_det = log_det + increment
        return x, log_det

    def inverse(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Undo `forward` under the same context; see `Bijection.inverse`."""
        log_det = z.new_zeros(len(z))
        for coupling in reversed(self._parts()):
            z, increment = coupling.inverse(z, context)
            log_det = log_det + increment
        return z, log_det

    def log_prob(self, x: Tensor, context: Tensor) -> Tensor:
        """Return log p(x | c) in nats, (batch,); gradients flow."""
        z, log_det = self(x, context)
        return cast(Tensor, self.base.log_prob(z) + log_det)

    def log_prob_by_place(self, x: Tensor, context: Tensor) -> Tensor:
        """Return log p(x | c) taken apart, in nats, (batch, d): −½ (z_i² + log 2π) + log|∂z_i/∂x_i| of all couplings.

        Couplings keep every dimension in its place, so that the parts add up to `log_prob`. They are no densities of
        single dimensions: what a dimension says of another one counts where the other one is moved.
        """
        log_scales = torch.zeros_like(x)
        for coupling in self._parts():
            x, scaled = coupling.by_place(x, context)
            log_scales = log_scales + scaled
        return log_scales - 0.5 * (x * x + math.log(2 * math.pi))

    def _parts(self) -> list[VectorCoupling]:
        return cast(list[VectorCoupling], list(self.couplings))
