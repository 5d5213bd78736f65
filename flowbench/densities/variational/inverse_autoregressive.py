"""One step of inverse autoregressive flow: a Gaussian posterior made richer at the price of one pass of a masked net.

Kingma et al. 2016 (arXiv:1606.04934), section 3 and eq. 7; everything the text leaves open follows the authors' code.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowbench.densities.flows.conditioner import Conditioner
from flowbench.densities.variational.convolutions import MaskedConv

__all__ = ["InverseAutoregressiveFlow", "MaskedNet"]

NEAR_IDENTITY = 0.1
"""Factor on what the net gives: at first the flow changes little."""


class MaskedNet(Conditioner):
    """From latents and a context to the location and the log-scale of each latent, given the latents before it.

    x = elu(layer_0(z) + context), x = elu(layer_1(x)); a = layer_out_0(x), c = layer_out_1(x).

    Args:
        latents: channels of z, a and c.
        features: channels of the context and of the hidden layers.
    """

    def __init__(self, latents: int, features: int) -> None:
        super().__init__()
        self.latents, self.features = latents, features
        self.layer_0 = MaskedConv(latents, features, strict=False)
        self.layer_1 = MaskedConv(features, features, strict=False)
        self.layer_out_0 = MaskedConv(features, latents, strict=True)
        self.layer_out_1 = MaskedConv(features, latents, strict=True)

    def net(self, x: Tensor) -> Tensor:
        """Map z and the context, (batch, latents + features, height, width), to a and c, (batch, 2 · latents, …)."""
        z, context = torch.split(x, [self.latents, self.features], dim=1)
        hidden = F.elu(self.layer_1(F.elu(self.layer_0(z) + context)))
        return torch.cat((self.layer_out_0(hidden), self.layer_out_1(hidden)), dim=1)


class InverseAutoregressiveFlow(nn.Module):
    """z = (z0 − m(z0, context)) / exp(s(z0, context)), with m = 0.1 a and s = 0.1 c of a `MaskedNet`.

    Neither m nor s of a latent sees that latent or those before it in the net's order, so the Jacobian is triangular
    and log q(z) = log q0(z0) + Σ s. (The paper recommends σ z + (1 − σ) m with a sigmoid; its code does this.)

    Args:
        latents: channels of z.
        features: channels of the context.
    """

    def __init__(self, latents: int, features: int) -> None:
        super().__init__()
        self.ar_multiconv2d = MaskedNet(latents, features)

    def forward(self, z0: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return z and s, both of z0's shape.

        Args:
            z0: latents before the flow, (batch, latents, height, width).
            context: (batch, features, height, width).
        """
        m, s = (NEAR_IDENTITY * self.ar_multiconv2d(torch.cat((z0, context), dim=1))).chunk(2, dim=1)
        return (z0 - m) * torch.exp(-s), s
