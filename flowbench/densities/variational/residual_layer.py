"""One layer of the residual VAE: a part of the latents, inferred on the way up and on the way down.

Kingma et al. 2016 (arXiv:1606.04934), section 4 and appendix C.3, in the conventions of the authors' code.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from flowbench.densities.initialization import DataInitialized
from flowbench.densities.variational.convolutions import ActivatedConv, Conv, TransposedConv
from flowbench.densities.variational.inverse_autoregressive import InverseAutoregressiveFlow

__all__ = ["Down", "Posterior", "ResidualLayer", "Up"]

RESIDUAL = 0.1
"""Factor on what a layer adds to the stream."""


class Up(NamedTuple):
    """What a layer's way up leaves for its way down, (batch, channels, height, width) each."""

    mean: Tensor
    log_sd: Tensor
    context: Tensor


class Posterior(NamedTuple):
    """One draw of a layer's latents under the posterior, (batch, latents, height, width) each."""

    mean: Tensor
    """Of the Gaussian before the flow."""
    log_sd: Tensor
    """Its log deviation."""
    z0: Tensor
    """The draw of that Gaussian."""
    log_q: Tensor
    """log q of the draw after the flow, elementwise, in nats."""
    log_p: Tensor
    """log p of the draw after the flow, elementwise, in nats."""

    @property
    def divergence(self) -> Tensor:
        """Σ log q − log p over positions, (batch, latents), in nats: one draw's estimate, which may be negative."""
        return (self.log_q - self.log_p).flatten(2).sum(2)


class Down(NamedTuple):
    """What a layer's way down gives, (batch, channels, height, width) each."""

    h: Tensor
    z: Tensor
    mean: Tensor
    """Of the prior."""
    log_sd: Tensor
    """Log deviation of the prior."""
    posterior: Posterior | None
    """None where z was drawn from the prior."""


class ResidualLayer(DataInitialized):
    """Up: h + 0.1 f(h), with statistics of the posterior. Down: draws z, then h + 0.1 f(h, z).

    The prior is N(pz_mean, exp(2 pz_logsd)), the posterior before the flow N(qz_mean + rz_mean, exp(2 (qz_logsd +
    rz_logsd))): q on the way up, p and r on the way down.

    Args:
        latents: channels of z.
        features: channels of the streams.
        halves: whether the way up halves the sides (and the way down doubles them).
    """

    def __init__(self, latents: int, features: int, *, halves: bool) -> None:
        super().__init__()
        self.latents, self.features, self.halves = latents, features, halves
        self.up_conv1 = ActivatedConv(Conv(features, 2 * (latents + features), stride=2 if halves else 1))
        self.up_conv3 = ActivatedConv(Conv(features, features))
        self.down_conv1 = ActivatedConv(Conv(features, 4 * latents + 2 * features))
        self.flow = InverseAutoregressiveFlow(latents, features)
        last = TransposedConv if halves else Conv
        self.down_conv2 = ActivatedConv(last(latents + features, features))

    def up(self, h: Tensor, *, last: bool = False) -> tuple[Tensor, Up]:
        """Return the stream above, and what the way down needs.

        Args:
            h: the stream, (batch, features, height, width); sides are even where the layer halves.
            last: whether nothing reads the stream above: it is h then, and the convolution that would make it does not
                run but to be initialized (the authors' code makes and counts it, too).
        """
        z, f = self.latents, self.features
        mean, log_sd, context, rest = self.up_conv1(h).split((z, z, f, f), dim=1)
        up = Up(mean, log_sd, context)
        if last and not self.initializing:
            return h, up
        shortcut = h[:, :, ::2, ::2] if self.halves else h
        return shortcut + RESIDUAL * self.up_conv3(rest), up

    def forward(self, h: Tensor, noise: Tensor, up: Up | None) -> Down:
        """Go down.

        Args:
            h: the stream, (batch, features, height, width).
            noise: N(0, 1), (batch, latents, height, width).
            up: of this layer's way up; None: z is drawn from the prior.
        """
        z_, f = self.latents, self.features
        p_mean, p_log_sd, r_mean, r_log_sd, context, rest = self.down_conv1(h).split((z_, z_, z_, z_, f, f), dim=1)
        posterior = None
        if up is None:
            z = p_mean + p_log_sd.exp() * noise
        else:
            # Before there is a posterior worth the name, the authors initialize with draws of the prior.
            mean, log_sd = (p_mean, p_log_sd) if self.initializing else (up.mean + r_mean, up.log_sd + r_log_sd)
            z0 = mean + log_sd.exp() * noise
            z, s = self.flow(z0, up.context + context)
            log_q = _log_normal(noise, log_sd) + s
            log_p = _log_normal((z - p_mean) * torch.exp(-p_log_sd), p_log_sd)
            posterior = Posterior(mean, log_sd, z0, log_q, log_p)
        shortcut = F.interpolate(h, scale_factor=2, mode="nearest") if self.halves else h
        h = shortcut + RESIDUAL * self.down_conv2(torch.cat((z, rest), dim=1))
        return Down(h, z, p_mean, p_log_sd, posterior)


def _log_normal(white: Tensor, log_sd: Tensor) -> Tensor:
    """Return the elementwise log-density, in nats, of mean + exp(log_sd) · white."""
    return -0.5 * (math.log(2 * math.pi) + white.square()) - log_sd
