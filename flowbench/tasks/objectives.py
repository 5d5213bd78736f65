"""What a density model is trained on: its likelihood, or a critic's verdict on its samples."""

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from flowbench.config import schema
from flowbench.config.schema import DensityData, Experiment
from flowbench.densities.critic import Critic, critic_loss, held_fixed
from flowbench.densities.flow_density import FlowDensity
from flowbench.densities.model import DensityConfig, DensityModel
from flowbench.densities.preprocessing import dequantize
from flowbench.tasks.compilation import as_compiled

__all__ = ["Adversarial", "CriticLoss", "NegativeLogLikelihood", "Opponent", "density_objective"]


@dataclass(frozen=True)
class Opponent:
    """What trains against a model, before each of its steps."""

    network: nn.Module
    """What is saved with the model."""
    objective: nn.Module
    """`objective(*batch) -> (loss, {name: value})` as the model's own; it holds `network`."""
    config: schema.Critic


def density_objective(
    experiment: Experiment[DensityData, DensityConfig], model: DensityModel, *, compiled: bool = False
) -> tuple[nn.Module, Opponent | None]:
    """Return what `train.objective` asks for: the loss of `model`, and its opponent where it has one.

    Args:
        experiment: with `optim.scale_l2` and `critic`; a critic's first weights come from torch's global generator.
        model: built for it.
        compiled: compile the likelihood.
    """
    if experiment.train.objective == "likelihood":
        return NegativeLogLikelihood(model, experiment.optim.scale_l2, compiled=compiled), None
    device = next(model.parameters()).device
    network = Critic(model.image_shape, experiment.critic.width).to(device).to(memory_format=torch.channels_last)
    loss = CriticLoss(network, cast(FlowDensity, model), experiment.critic.penalty)
    # The penalty on scales is neither the likelihood's nor weighed by λ.
    likelihood = NegativeLogLikelihood(model, 0.0, compiled=compiled)
    return (
        Adversarial(likelihood, network, experiment.train.likelihood, experiment.optim.scale_l2),
        Opponent(network, loss, experiment.critic),
    )


class NegativeLogLikelihood(nn.Module):
    """The loss of a batch: −mean log p in nats per image + coefficient · sum of squared weight-norm scales.

    And what else the model trains on (`training_terms`), which the bits/dim do not hold.
    """

    def __init__(self, model: DensityModel, coefficient: float, *, compiled: bool) -> None:
        super().__init__()
        self.model = model
        self._coefficient = coefficient
        self._to_bits = 1 / (model.dimensions * math.log(2))
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        self._terms = as_compiled(model.training_terms, device) if compiled else model.training_terms

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss in nats per image and what is logged of it, bits/dim among them; images as in `terms`."""
        terms, surplus = self._terms(images, noise)
        nats = -terms.log_prob.mean()
        loss = nats if surplus is None else nats + surplus
        if self._coefficient:
            loss = loss + self._coefficient * self.model.regularization()
        return loss, {"bits_per_dim": nats * self._to_bits}


class Adversarial(nn.Module):
    """Flow-GAN's loss of the flow (Grover et al. 2018): −mean D(G(z)) − λ · mean log p + coefficient · ‖g‖².

    G is the flow's own sampler, so in evaluation mode; z, a latent for each image of the batch, comes from torch's
    global generator, as dropout does. Under λ = 0 the likelihood is logged, and moves the averages of batch
    normalization, but no gradient comes from it.

    Args:
        likelihood: of a model that is a `FlowDensity`.
        critic: D, held fixed here; no part of this module.
        weight: λ.
        coefficient: of the sum of squared weight-norm scales, as of the loss by likelihood.
    """

    def __init__(self, likelihood: NegativeLogLikelihood, critic: nn.Module, weight: float, coefficient: float) -> None:
        super().__init__()
        self.likelihood = likelihood
        self._critic = (critic,)  # inside a tuple: its parameters are its own optimizer's
        self._weight = weight
        self._coefficient = coefficient

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, and bits/dim beside the critic's mean verdict on samples; images, noise as in `terms`."""
        (critic,) = self._critic
        with torch.set_grad_enabled(torch.is_grad_enabled() and self._weight > 0):
            nats, logged = self.likelihood(images, noise)
        with held_fixed(critic):
            verdict = critic(cast(FlowDensity, self.likelihood.model).generated(torch.randn_like(noise))).mean()
        loss = -verdict if not self._weight else self._weight * nats - verdict
        if self._coefficient:
            loss = loss + self._coefficient * self.likelihood.model.regularization()
        return loss, {**logged, "verdict": verdict}


class CriticLoss(nn.Module):
    """The critic's loss on a batch of dequantized images and as many samples of the flow, which is held fixed."""

    def __init__(self, critic: nn.Module, model: FlowDensity, penalty: float) -> None:
        super().__init__()
        self.critic = critic
        self._model = (model,)  # as in `Adversarial`
        self._penalty = penalty

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and the estimate of the Wasserstein distance; images and noise as in `terms`."""
        (model,) = self._model
        with torch.no_grad():
            made = model.generated(torch.randn_like(noise))
        loss, distance = critic_loss(self.critic, dequantize(images, noise, model.levels), made, self._penalty)
        return loss, {"wasserstein": distance}
