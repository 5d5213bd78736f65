"""PixelCNN++ (Salimans et al. 2017, arXiv:1701.05517), number for number the authors' program (openai/pixel-cnn).

Each pixel's distribution is a discretized mixture of logistics whose parameters a network computes from the pixels
before it: an exact likelihood of the grey levels, and one pass of the network for each pixel of a sample.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from flowbench.config.registry import density_models
from flowbench.densities.authors import load_variables
from flowbench.densities.autoregressive.layers import Nonlinearity
from flowbench.densities.autoregressive.mixture import LogisticMixture
from flowbench.densities.autoregressive.network import SCALES, PixelNet
from flowbench.densities.autoregressive.sampler import draw_in_order
from flowbench.densities.initialization import initializing
from flowbench.densities.model import DensityConfig, DensityModel, ImageShape, Terms
from flowbench.densities.modes import evaluating
from flowbench.errors import InputError

__all__ = ["PixelCNN", "PixelCNNConfig"]

SMALLEST_UNIFORM = 1e-5
"""Uniform numbers of the sampler lie in [1e-5, 1 − 1e-5], as the authors' do."""


@density_models.register("pixelcnn")
class PixelCNNConfig(DensityConfig):
    """PixelCNN++ (Salimans et al. 2017), number for number the authors'; by default their CIFAR-10 model."""

    weighs_scales = False

    name: Literal["pixelcnn"] = "pixelcnn"
    blocks: PositiveInt = 5
    """Gated residual networks of each stream at each of the three scales (nr_resnet)."""
    filters: PositiveInt = 160
    """Channels of each stream (nr_filters)."""
    components: PositiveInt = 10
    """Of the mixture (nr_logistic_mix)."""
    nonlinearity: Nonlinearity = "concat_elu"
    """Of the residual networks."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Probability, inside the residual networks alone."""

    def build(self, image_shape: ImageShape, levels: int) -> "PixelCNN":
        """Return the untrained model; weights come from torch's global generator."""
        return PixelCNN(
            image_shape,
            levels,
            blocks=self.blocks,
            filters=self.filters,
            components=self.components,
            nonlinearity=self.nonlinearity,
            dropout=self.dropout,
        )


class PixelCNN(DensityModel):
    """p(image) = Π p(pixel | pixels before it in raster order), each a `LogisticMixture`.

    Nothing is dequantized: the likelihood is that of the grey levels. Its bound is `density_branch` where a component's
    mass in a bin is below 1e-5 and the density stands for it, as in the authors' program (`terms_and_shares`).

    Args:
        image_shape: (channels, height, width); sides multiples of 4.
        levels: grey levels.
        blocks, filters, components, nonlinearity, dropout: see `PixelCNNConfig`.
        classes: labels 0 … classes − 1 that every image has one of; 0: images have none.

    Raises:
        InputError: the sides cannot be halved twice.

    Examples:
        >>> import torch, flowbench as fb
        >>> model = fb.PixelCNN((1, 8, 8), 17, blocks=1, filters=4, components=2)
        >>> model.log_prob(torch.zeros(5, 1, 8, 8, dtype=torch.uint8)).shape, model.sample(3).dtype
        (torch.Size([5]), torch.uint8)
    """

    dequantization = "none"

    def __init__(
        self,
        image_shape: ImageShape,
        levels: int = 256,
        *,
        blocks: int = 5,
        filters: int = 160,
        components: int = 10,
        nonlinearity: Nonlinearity = "concat_elu",
        dropout: float = 0.0,
        classes: int = 0,
    ) -> None:
        super().__init__(image_shape, levels)
        channels, height, width = image_shape
        unit = 2 ** (SCALES - 1)
        if height % unit or width % unit:
            raise InputError(
                f"model.name: pixelcnn halves images twice, but {height}x{width} pixels are no multiples of {unit}: "
                "crop them, as with data.crop"
            )
        self.classes = classes
        self.mixture = LogisticMixture(channels, components, levels)
        self.net = PixelNet(
            channels,
            self.mixture.outputs,
            blocks=blocks,
            filters=filters,
            nonlinearity=nonlinearity,
            dropout=dropout,
            classes=classes,
        )

    def terms(self, images: Tensor, noise: Tensor, labels: Tensor | None = None) -> Terms:
        """Return log p(images) as `prior`; the noise is not looked at, the other terms are 0.

        Args:
            images, noise: see `DensityModel.terms`.
            labels: of a model with classes, integers (batch,), below `classes` (`log_prob` and `sample` check that).
        """
        return _only(self.mixture.log_prob(self.outputs(images, labels), images))

    def terms_and_shares(
        self, images: Tensor, noise: Tensor, labels: Tensor | None = None
    ) -> tuple[Terms, dict[str, Tensor]]:
        """Return `terms` and the `density_branch` share (`LogisticMixture.log_prob_and_density_share`)."""
        outputs = self.outputs(images, labels)
        log_prob, share = self.mixture.log_prob_and_density_share(outputs, images)
        return _only(log_prob), {"density_branch": share}

    def log_prob(
        self,
        images: Tensor,
        *,
        draws: int = 1,
        generator: torch.Generator | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Return log p in nats, (batch,); nothing is drawn. Arguments as in `DensityModel.log_prob` and `terms`."""
        self.check_levels(images)
        self.check_draws(draws)
        self._check_labels(labels)
        return self.terms(images, images, labels).log_prob

    def outputs(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return what the network says of every pixel's mixture, (batch, `mixture.outputs`, height, width)."""
        self.check(images)
        out: Tensor = self.net(self.mixture.scaled(images, self.net.out.b.dtype), self._one_hot(labels, len(images)))
        return out

    @torch.no_grad()
    def initialize(self, images: Tensor, noise: Tensor, labels: Tensor | None = None) -> None:
        """Let every layer take its scales and biases from these images, in one pass, dropout as it stands.

        Args:
            images, noise, labels: as in `terms`.

        Raises:
            InputError: there are no images.
        """
        if not len(images):
            raise InputError("the first batch is empty: there is nothing to initialize from")
        with initializing(self.net):
            self.outputs(images, labels)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Return n images, uint8 (n, channels, height, width), drawn pixel by pixel.

        At another temperature T every pixel's components are drawn from their weights to the power 1/T², normalized,
        and the logistic noise is T times as wide; at 0 it is the mean of the most probable component.

        Args:
            n, temperature, generator: see `DensityModel.sample`.
            labels: of a model with classes, integers (n,).

        Raises:
            InputError: see `DensityModel.sample`; labels are missing, or not the model's.
            WorkFailedError: some samples are not numbers.
        """
        self.check_sampling(n, temperature)
        self._check_labels(labels)
        device = self.net.out.b.device
        where = device if generator is None else generator.device

        def uniform(channels: int) -> Tensor:
            u = torch.rand((n, channels, *self.image_shape[1:]), generator=generator, device=where).to(device)
            return u.clamp_(SMALLEST_UNIFORM, 1 - SMALLEST_UNIFORM)

        u_mix, u_logistic = uniform(self.mixture.components), uniform(self.image_shape[0])
        x = self.ancestral(u_mix, u_logistic, labels, temperature=temperature)
        self.check_samples(x)
        return self.mixture.rounded(x)

    @torch.no_grad()
    def ancestral(
        self,
        u_mix: Tensor,
        u_logistic: Tensor,
        labels: Tensor | None = None,
        *,
        temperature: float = 1.0,
        rounded: bool = True,
    ) -> Tensor:
        """Return images in [−1, 1], (n, channels, height, width), a function of the uniform numbers; no dropout.

        Args:
            u_mix: of each pixel's component, (n, components, height, width), in (0, 1).
            u_logistic: of each value, (n, channels, height, width), in (0, 1).
            labels: as in `sample`.
            temperature: as in `sample`.
            rounded: to grey levels before the next value is drawn: a sample of the model. False: as in the authors'
                program, whose values lie between the levels and are fed back as they are.
        """

        def draw(outputs: Tensor, i: int, j: int) -> Tensor:
            here = (..., slice(i, i + 1), slice(j, j + 1))
            return self.mixture.draw(outputs, u_mix[here], u_logistic[here], temperature=temperature, rounded=rounded)

        n = len(u_mix)
        with evaluating(self):
            return draw_in_order(self.net, (n, *self.image_shape), self._one_hot(labels, n), draw)

    def authors_variables(self) -> dict[str, Tensor]:
        """Return the parameters (not copies) under the names of the authors' TensorFlow variables, in their order."""
        return self.net.authors_variables()

    @classmethod
    def from_authors(cls, variables: Mapping[str, np.ndarray[Any, Any]], hparams: Mapping[str, Any]) -> "PixelCNN":
        """Return the model with the variables of the authors' program, for images of 256 levels.

        Args:
            variables: by TensorFlow name (model/conv2d_0/V, …), in TensorFlow's layouts.
            hparams: the program's: image_size, nr_resnet, nr_filters, nr_logistic_mix, resnet_nonlinearity; for a
                class-conditional model class_conditional and num_classes; dropout_p where it is to be trained.

        Raises:
            InputError: a hyper-parameter is missing or not supported; a variable is missing, left over or misshapen.
        """
        for key in ("image_size", "nr_resnet", "nr_filters", "nr_logistic_mix", "resnet_nonlinearity"):
            if key not in hparams:
                raise InputError(f"hparams: {key} is missing")
        if hparams["resnet_nonlinearity"] not in ("concat_elu", "elu", "relu"):
            raise InputError(
                f"hparams: resnet_nonlinearity {hparams['resnet_nonlinearity']!r}: concat_elu, elu or relu"
            )
        first = variables.get("model/conv2d_0/V")
        if first is None or first.ndim != 4:
            raise InputError("variables: model/conv2d_0/V is missing or no kernel of a convolution")
        side = int(hparams["image_size"])
        model = cls(
            (first.shape[2] - 1, side, side),
            blocks=int(hparams["nr_resnet"]),
            filters=int(hparams["nr_filters"]),
            components=int(hparams["nr_logistic_mix"]),
            nonlinearity=hparams["resnet_nonlinearity"],
            dropout=float(hparams.get("dropout_p", 0.0)),
            classes=int(hparams.get("num_classes", 0)) if hparams.get("class_conditional") else 0,
        )
        load_variables(model.authors_variables(), variables)
        return model

    def _check_labels(self, labels: Tensor | None) -> None:
        if labels is not None and labels.numel() and self.classes:
            low, high = int(labels.min()), int(labels.max())
            if low < 0 or high >= self.classes:
                raise InputError(f"labels reach {low if low < 0 else high}, but the model has {self.classes} classes")

    def _one_hot(self, labels: Tensor | None, n: int) -> Tensor | None:
        if (labels is None) != (self.classes == 0):
            raise InputError(
                f"labels are missing: the model was made for images of {self.classes} classes"
                if self.classes
                else "labels were given to a model without classes"
            )
        if labels is None:
            return None
        if labels.shape != (n,):
            raise InputError(f"labels have shape {tuple(labels.shape)}, but there are {n} images")
        one_hot = labels[:, None] == torch.arange(self.classes, device=labels.device)
        return one_hot.to(self.net.out.b)


def _only(log_prob: Tensor) -> Terms:
    zero = torch.zeros_like(log_prob)
    return Terms(prior=log_prob, log_det=zero, preprocessing=zero, quantization=zero)
