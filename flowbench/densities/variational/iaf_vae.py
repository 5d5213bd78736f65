"""The IAF-VAE (Kingma et al. 2016, arXiv:1606.04934), number for number the authors' program (openai/iaf).

A residual VAE with inverse autoregressive flow: bidirectional inference, free bits, a discretized logistic (section 4
and appendix C of the paper); everything the text leaves open follows tf_train.py.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any, Literal, cast

import numpy as np
import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from flowbench.config.registry import density_models
from flowbench.densities.authors import load_variables
from flowbench.densities.model import Bound, DensityConfig, Elbo, ImageShape, LatentDensity
from flowbench.densities.modes import evaluating
from flowbench.densities.variational import discretized_logistic as logistic
from flowbench.densities.variational.convolutions import ActivatedConv, Conv, TransposedConv
from flowbench.densities.variational.residual_layer import Down, ResidualLayer, Up
from flowbench.errors import InputError

__all__ = ["IAFVAE", "IAFVAEConfig"]

Likelihood = Literal["proper", "authors"]
"""Of the decoder: see `discretized_logistic.log_prob` and `authors_log_prob`."""


@density_models.register("iafvae")
class IAFVAEConfig(DensityConfig):
    """The IAF-VAE (Kingma et al. 2016), number for number the authors' program."""

    weighs_scales = False

    depth: PositiveInt = 1
    """Sizes of latent maps: the first is half the image's size, each other half the one before (`depth`)."""
    blocks: PositiveInt = 20
    """Layers of latents at each size (`num_blocks`)."""
    latents: PositiveInt = 32
    """Channels of a layer's latents (`z_size`); a multiple of `features`, or one of its divisors."""
    features: PositiveInt = 160
    """Channels of the deterministic streams (`h_size`)."""
    free_bits: NonNegativeFloat = 0.1
    """Nats of each channel of each layer's latents that cost nothing in training (`kl_min`); no figure holds them."""
    clamp: bool = True
    """Whether the decoder's location stays within the middles of the outermost bins, as in the authors' code. With edge
    bins that reach to infinity it need not: free, it makes a black pixel certain (digits: 0.30 bits/dim, 2026-11)."""

    def build(self, image_shape: ImageShape, levels: int) -> "IAFVAE":
        """Return the untrained model for images of (channels, height, width)."""
        return IAFVAE(
            image_shape,
            levels,
            depth=self.depth,
            blocks=self.blocks,
            latents=self.latents,
            features=self.features,
            free_bits=self.free_bits,
            clamp=self.clamp,
        )


class IAFVAE(LatentDensity):
    """log p(image) ≥ E_q [log p(image | z) + log p(z) − log q(z | image)], with z in layers.

    The way up, from the image, and the way down, from a learned constant, are both needed for the posterior of a layer;
    the prior and the decoder need the way down alone.

    Args:
        image_shape: (channels, height, width), sides divisible by 2^depth.
        levels: grey levels.
        depth, blocks, latents, features, free_bits, clamp: see `IAFVAEConfig`.
        likelihood: of the decoder; `authors` gives what their program prints, which is no likelihood.

    Raises:
        InputError: the image cannot be halved so often; latents and features do not divide each other.

    Examples:
        >>> import torch, flowbench as fb
        >>> model = fb.IAFVAE((1, 8, 8), 17, blocks=1, latents=2, features=4)
        >>> model.log_prob(torch.zeros(5, 1, 8, 8, dtype=torch.uint8), draws=4).shape, model.sample(3).dtype
        (torch.Size([5]), torch.uint8)
    """

    dequantization = "none"
    noise = "normal"
    summands = Elbo._fields

    def __init__(
        self,
        image_shape: ImageShape,
        levels: int = 256,
        *,
        depth: int = 1,
        blocks: int = 20,
        latents: int = 32,
        features: int = 160,
        free_bits: float = 0.1,
        clamp: bool = True,
        likelihood: Likelihood = "proper",
    ) -> None:
        super().__init__(image_shape, levels)
        channels, height, width = image_shape
        if height % 2**depth or width % 2**depth:
            raise InputError(
                f"model.depth: {depth} halve the image {depth} times, but {height}x{width} pixels cannot be halved "
                "evenly so often: use fewer"
            )
        self.free_bits = free_bits
        self.clamp = clamp
        self.likelihood = likelihood
        self.maps = [(latents, height >> scale, width >> scale) for scale in range(1, depth + 1) for _ in range(blocks)]
        """Shape of each layer's latents, finest first."""
        self._blocks = blocks
        self.dec_log_stdv = nn.Parameter(torch.zeros(()))
        self.h_top = nn.Parameter(torch.zeros(features))
        self.x_enc = Conv(channels, features, 5, stride=2)
        self.layers = nn.ModuleList(
            ResidualLayer(latents, features, halves=scale > 0 and block == 0)
            for scale in range(depth)
            for block in range(blocks)
        )
        self.x_dec = ActivatedConv(TransposedConv(features, channels, 5))

    @property
    def bound(self) -> Bound:
        """A lower bound in expectation over the noise."""
        return "elbo"

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """All layers' noise, flat: see `from_layers`."""
        return (sum(map(prod, self.maps)),)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """All layers' latents, flat as the noise."""
        return self.noise_shape

    def terms(self, images: Tensor, noise: Tensor) -> Elbo:
        """Return log p(image | z) and log p(z) − log q(z | image) of one draw z.

        Args:
            images: uint8, (batch, channels, height, width), below `levels`.
            noise: N(0, 1), (batch, *noise_shape).
        """
        return self._bound(images, noise)[0]

    def training_terms(self, images: Tensor, noise: Tensor) -> tuple[Elbo, Tensor | None]:
        """Return the terms, and Σ max(free_bits − KL, 0) over channels of layers, KL being the batch's mean.

        Together with −mean log p that is the authors' objective over the batch's size: each channel's KL counts as
        `free_bits` where it is less. (Kingma et al. 2016, eq. 15. Each of several processes takes its own part's mean.)
        """
        elbo, divergences = self._bound(images, noise)
        if not self.free_bits:
            return elbo, None
        means = torch.cat([divergence.mean(0) for divergence in divergences])
        return elbo, (self.free_bits - means).clamp_min(0).sum()

    def location(self, images: Tensor, noise: Tensor) -> Tensor:
        """Return the decoder's location, an image from −½ to ½, at one posterior draw; arguments as in `terms`."""
        *_, last = self._downs(images, noise)
        return self._read_out(last.h)

    def decoded_location(self, white: Tensor) -> Tensor:
        """Return the decoder's location, an image from −½ to ½, of white latents, (batch, *latent_shape)."""
        h = self._top(len(white))
        for layer, noise in zip(reversed(self.layers), reversed(self.by_layer(white)), strict=True):
            h = layer(h, noise, None).h
        return self._read_out(h)

    @torch.no_grad()
    def sample(self, n: int, temperature: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
        """Return images drawn from the decoder, its latents drawn from the prior, each scaled by the temperature.

        Raises:
            InputError: see `DensityModel.sample`.
            WorkFailedError: some samples are not numbers.
        """
        self.check_sampling(n, temperature)
        device = self.h_top.device
        where = device if generator is None else generator.device
        white = temperature * torch.randn((n, *self.latent_shape), generator=generator, device=where).to(device)
        uniform = torch.rand((n, *self.image_shape), generator=generator, device=where).to(device)
        with evaluating(self):
            location = self.decoded_location(white)
        self.check_samples(location + self.dec_log_stdv)
        return logistic.draw(location, self.dec_log_stdv, self.levels, uniform, temperature)

    @torch.no_grad()
    def encode(self, images: Tensor, noise: Tensor) -> Tensor:
        """Return a draw of the posterior, each layer's latents less the prior's mean over its deviation.

        Args:
            images, noise: as in `terms`.
        """
        with evaluating(self):
            white = [(down.z - down.mean) * torch.exp(-down.log_sd) for down in self._downs(images, noise)]
        return self.from_layers(white[::-1])

    @torch.no_grad()
    def decode(self, white: Tensor) -> tuple[Tensor, Tensor]:
        """Return the grey levels nearest to the decoder's location: no logistic noise; see `LatentDensity`."""
        with evaluating(self):
            location = self.decoded_location(white)
        return self._with_broken(logistic.nearest_level(location.nan_to_num(0.5), self.levels), location)

    def by_layer(self, flat: Tensor) -> list[Tensor]:
        """Return each layer's part of flat noise or latents, (batch, latents, height, width), finest layer first."""
        parts = torch.split(flat, [prod(shape) for shape in self.maps], dim=1)
        # Channels last, as activations lie in memory.
        return [
            torch.unflatten(part, 1, (height, width, latents)).movedim(-1, 1)
            for part, (latents, height, width) in zip(parts, self.maps, strict=True)
        ]

    def from_layers(self, parts: Sequence[Tensor]) -> Tensor:
        """Undo `by_layer`."""
        return torch.cat([part.movedim(1, -1).flatten(1) for part in parts], dim=1)

    def by_scale(self, latents: Tensor) -> list[Tensor]:
        """Return the latents of each size of map, its layers' channels one after another, largest maps first."""
        layers = self.by_layer(latents)
        return [torch.cat(layers[start : start + self._blocks], dim=1) for start in range(0, len(layers), self._blocks)]

    def from_scales(self, parts: Sequence[Tensor]) -> Tensor:
        """Undo `by_scale`."""
        return self.from_layers([layer for part in parts for layer in part.chunk(self._blocks, dim=1)])

    def authors_variables(self) -> dict[str, Tensor]:
        """Return the parameters (not copies) under the names of the authors' TensorFlow variables."""
        return {self._authors_name(name): value for name, value in self.named_parameters()}

    @classmethod
    def from_authors(
        cls,
        variables: Mapping[str, np.ndarray[Any, Any]],
        hparams: Mapping[str, Any],
        *,
        likelihood: Likelihood = "proper",
    ) -> "IAFVAE":
        """Return the model with the variables of the authors' program.

        Args:
            variables: by TensorFlow name (model/x_enc/V, …), in TensorFlow's layouts.
            hparams: the program's hyper-parameters: depth, num_blocks, z_size, h_size, kl_min, image_size. The samples
                per image (k) are rows of the batch here.
            likelihood: `authors` for the figures that their program prints.

        Raises:
            InputError: a hyper-parameter is missing or not supported; a variable is missing, left over or misshapen.
        """
        for key in ("depth", "num_blocks", "z_size", "h_size", "kl_min", "image_size"):
            if key not in hparams:
                raise InputError(f"hparams: {key} is missing")
        first = variables.get("model/x_enc/V")
        if first is None:
            raise InputError("variables: model/x_enc/V is missing")
        if first.ndim != 4:
            raise InputError(f"variables: model/x_enc/V has the shape {first.shape}; a kernel has 4 dimensions")
        side = int(hparams["image_size"])
        model = cls(
            (first.shape[2], side, side),
            depth=int(hparams["depth"]),
            blocks=int(hparams["num_blocks"]),
            latents=int(hparams["z_size"]),
            features=int(hparams["h_size"]),
            free_bits=float(hparams["kl_min"]),
            likelihood=likelihood,
        )
        load_variables(model.authors_variables(), variables)
        return model

    def _bound(self, images: Tensor, noise: Tensor) -> tuple[Elbo, list[Tensor]]:
        divergences = []
        for down in self._downs(images, noise):
            assert down.posterior is not None  # it has gone up
            divergences.append(down.posterior.divergence)
        location = self._read_out(down.h)
        log_prob = logistic.log_prob if self.likelihood == "proper" else logistic.authors_log_prob
        reconstruction = log_prob(images, location, self.dec_log_stdv, self.levels).flatten(1).sum(1)
        total = cast(Tensor, sum(divergence.sum(1) for divergence in divergences))
        return Elbo(reconstruction, -total), divergences

    def _downs(self, images: Tensor, noise: Tensor) -> Iterator[Down]:
        """Go up, then yield what each layer gives on the way down, from the top."""
        self.check(images)
        h = self.x_enc(logistic.as_input(images, self.levels, noise.dtype))
        ups: list[Up] = []
        for layer in self.layers:
            assert isinstance(layer, ResidualLayer)
            h, up = layer.up(h, last=len(ups) == len(self.layers) - 1)
            ups.append(up)
        h = self._top(len(images))
        for layer, its, up in zip(reversed(self.layers), reversed(self.by_layer(noise)), reversed(ups), strict=True):
            down = layer(h, its, up)
            h = down.h
            yield down

    def _top(self, batch: int) -> Tensor:
        _, height, width = self.maps[-1]
        h = self.h_top.view(1, -1, 1, 1).expand(batch, -1, height, width)
        return h.contiguous(memory_format=torch.channels_last)

    def _read_out(self, h: Tensor) -> Tensor:
        location: Tensor = self.x_dec(h)
        return logistic.clamp_location(location, self.levels) if self.clamp else location

    def _authors_name(self, name: str) -> str:
        """Translate layers.3.flow.ar_multiconv2d.layer_0.V to model/IAF_1_1/ar_multiconv2d/layer_0/V (two blocks)."""
        parts = [part for part in name.split(".") if part not in ("conv", "flow")]
        if parts[0] == "layers":
            number = int(parts[1])
            parts = [f"IAF_{number // self._blocks}_{number % self._blocks}", *parts[2:]]
            if self.layers[number].halves:
                parts = ["down_deconv2" if part == "down_conv2" else part for part in parts]
        return "/".join(["model", *parts])
