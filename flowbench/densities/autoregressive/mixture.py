"""Discretized mixtures of logistics over the values of a pixel (Salimans et al. 2017, arXiv:1701.05517, section 2.1).

Number for number the authors' program (openai/pixel-cnn), which has 256 levels and three colours written in; here every
constant follows from levels and channels.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Branches", "LogisticMixture", "Parameters"]

LOWEST_LOG_SCALE = -7.0
SMALLEST_DIFFERENCE = 1e-5
"""Below this difference of two sigmoids the density at the middle of the bin stands for it."""


class Parameters(NamedTuple):
    """What a network's output says of every pixel's mixture."""

    logits: Tensor
    """Of the components, shared by the pixel's channels, (batch, components, height, width)."""
    means: Tensor
    """(batch, channels, components, height, width), before what the channels before add."""
    log_scales: Tensor
    """The same shape, not below −7."""
    coefficients: Tensor
    """c in (−1, 1), (batch, channels · (channels − 1) / 2, components, height, width): of channel 1 given 0, 2 given 0,
    2 given 1, …"""


class Branches(NamedTuple):
    """Log-probabilities by component, and how they were computed."""

    log_probs: Tensor
    """log p(value | component, channels before), (batch, channels, components, height, width), in nats."""
    branch: Tensor
    """0: lowest value; 1: highest value; 2: difference of two sigmoids; 3: density; uint8, the same shape."""


class LogisticMixture:
    """p(pixel) = Σ_k π_k Π_c P(bin of x_c; μ_kc + Σ_{j<c} coefficient · x_j, s_kc), P a logistic distribution's mass.

    Values v = 0 … levels − 1 stand for x = 2 v / (levels − 1) − 1 in [−1, 1], in the middle of bins of width
    2 / (levels − 1); the outermost bins reach to ±∞.

    Args:
        channels: of the images.
        components: K of the mixture.
        levels: grey levels, 2 or more.
    """

    def __init__(self, channels: int, components: int, levels: int) -> None:
        self.channels, self.components, self.levels = channels, components, levels
        pairs = channels * (channels - 1) // 2
        # The authors' order for three channels: mean, log-scale and one coefficient for each; what is left comes last.
        rows = [(kind, c) for c in range(channels) for kind in ("mean", "scale", "pair") if kind != "pair" or c < pairs]
        rows += [("pair", number) for number in range(channels, pairs)]
        self._rows = {
            kind: [rows.index((kind, number)) for number in range(pairs if kind == "pair" else channels)]
            for kind in ("mean", "scale", "pair")
        }
        self.outputs = components * (1 + len(rows))
        """Values that a network must give for each pixel."""

    def scaled(self, images: Tensor, dtype: torch.dtype) -> Tensor:
        """Return x in [−1, 1] of grey levels, in the same shape."""
        middle = (self.levels - 1) / 2
        return (images.to(dtype) - middle) / middle

    def rounded(self, x: Tensor) -> Tensor:
        """Return the nearest grey levels of x, uint8: the bin that x lies in."""
        return self._nearest(x).to(torch.uint8)

    def _nearest(self, x: Tensor) -> Tensor:
        # In x's own type: a value that is no number stays none.
        return torch.floor((x + 1) * ((self.levels - 1) / 2) + 0.5).clamp(0, self.levels - 1)

    def parameters(self, outputs: Tensor) -> Parameters:
        """Return what a network's outputs, (batch, `outputs`, height, width), mean."""
        logits, others = outputs[:, : self.components], outputs[:, self.components :]
        shape = (len(others), self.outputs // self.components - 1, self.components, *others.shape[2:])
        rows = others.view(shape).unbind(1)

        def those(kind: str) -> Tensor:
            # Not by an index: a list of numbers is a tensor that a GPU waits for, and sampling asks at every pixel.
            chosen = [rows[number] for number in self._rows[kind]]
            return torch.stack(chosen, 1) if chosen else others.new_empty(shape[0], 0, *shape[2:])

        return Parameters(logits, those("mean"), those("scale").clamp_min(LOWEST_LOG_SCALE), torch.tanh(those("pair")))

    def log_prob(self, outputs: Tensor, images: Tensor) -> Tensor:
        """Return the log-probability of images, (batch,), in nats; arguments as in `by_component`."""
        return torch.logsumexp(self.by_component(outputs, images), dim=1).flatten(1).sum(1)

    def log_prob_and_density_share(self, outputs: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return `log_prob` and the share of the values that the density branch took, both (batch,).

        A value's share is the posterior weight, given the pixel, of the components that scored it by their density;
        an image's the mean over its values. Where it is 0 the log-probability is the mixture's own, else a lower bound:
        with a = half a bin's width / scale, the density is sinh(a) / a times too small and never too large.
        """
        parameters = self.parameters(outputs)
        scored = self.branches(parameters, images)
        weighted = F.log_softmax(parameters.logits, dim=1) + scored.log_probs.sum(1)
        posterior = F.softmax(weighted, dim=1)
        share = (posterior.unsqueeze(1) * (scored.branch == 3)).sum(2)
        return torch.logsumexp(weighted, dim=1).flatten(1).sum(1), share.flatten(1).mean(1)

    def by_component(self, outputs: Tensor, images: Tensor) -> Tensor:
        """Return log π_k + log p(pixel | k), (batch, components, height, width).

        Args:
            outputs: of a network, (batch, `outputs`, height, width).
            images: uint8, (batch, channels, height, width).
        """
        parameters = self.parameters(outputs)
        return F.log_softmax(parameters.logits, dim=1) + self.branches(parameters, images).log_probs.sum(1)

    def branches(self, parameters: Parameters, images: Tensor) -> Branches:
        """Return the log-probability of every value under every component, by the authors' four branches."""
        x = self.scaled(images, parameters.means.dtype)
        centred = x.unsqueeze(2) - self.conditional_means(parameters, x)
        half = 1 / (self.levels - 1)
        weight = torch.exp(-parameters.log_scales)
        upper, middle, lower = weight * (centred + half), weight * centred, weight * (centred - half)
        difference = torch.sigmoid(upper) - torch.sigmoid(lower)
        density = middle - parameters.log_scales - 2 * F.softplus(middle) - math.log((self.levels - 1) / 2)
        wide = difference > SMALLEST_DIFFERENCE
        # The clamp acts in the branch that is not taken: without it, the gradient there would be 0 · ∞.
        inside = torch.where(wide, difference.clamp_min(1e-12).log(), density)
        lowest, highest = (images == 0).unsqueeze(2), (images == self.levels - 1).unsqueeze(2)
        log_probs = torch.where(lowest, upper - F.softplus(upper), torch.where(highest, -F.softplus(lower), inside))
        branch = (3 - wide.to(torch.uint8)).masked_fill(highest, 1).masked_fill(lowest, 0)
        return Branches(log_probs, branch)

    def conditional_means(self, parameters: Parameters, x: Tensor) -> Tensor:
        """Return the means given the channels before, (batch, channels, components, height, width)."""
        means, pair = [], 0
        for channel in range(self.channels):
            mean = parameters.means[:, channel]
            for before in range(channel):
                mean = mean + parameters.coefficients[:, pair] * x[:, before : before + 1]
                pair += 1
            means.append(mean)
        return torch.stack(means, dim=1)

    def draw(
        self, outputs: Tensor, u_mix: Tensor, u_logistic: Tensor, *, temperature: float = 1.0, rounded: bool = True
    ) -> Tensor:
        """Return x in [−1, 1], (batch, channels, height, width), drawn from the mixtures by given uniform numbers.

        The component is that of the largest logit − T² log(−log u), and its logistic noise is T times log u/(1 − u):
        at T = 0 the mean of the most probable one.

        Args:
            outputs: of a network, (batch, `outputs`, height, width).
            u_mix: in (0, 1), (batch, components, height, width).
            u_logistic: in (0, 1), (batch, channels, height, width).
            temperature: T.
            rounded: to the grey levels, each channel before the next one is drawn: that is a draw from the discretized
                mixture. False: as in the authors' program, whose samples lie between the levels.
        """
        parameters = self.parameters(outputs)
        scores = parameters.logits - temperature**2 * torch.log(-torch.log(u_mix))
        chosen = scores.argmax(1)[:, None, None]

        def of_chosen(values: Tensor) -> Tensor:
            return values.gather(2, chosen.expand(-1, values.shape[1], -1, -1, -1)).squeeze(2)

        means, coefficients = of_chosen(parameters.means), of_chosen(parameters.coefficients)
        noise = temperature * (torch.log(u_logistic) - torch.log1p(-u_logistic))
        spread = of_chosen(parameters.log_scales).exp() * noise
        drawn: list[Tensor] = []
        pair = 0
        for channel in range(self.channels):
            x = means[:, channel] + spread[:, channel]
            for before in range(channel):
                x = x + coefficients[:, pair] * drawn[before]
                pair += 1
            x = x.clamp(-1, 1)
            drawn.append(self.scaled(self._nearest(x), x.dtype) if rounded else x)
        return torch.stack(drawn, dim=1)
