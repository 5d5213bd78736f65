"""Glow (Kingma & Dhariwal 2018, arXiv:1807.03039), number for number the authors' program (openai/glow).

Each level squeezes the image 2x2, applies `steps` steps of activation normalization, channel mixing and coupling, and,
but for the last level, factors out half of the channels under a learned prior given the other half.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from flowbench.config.registry import density_models
from flowbench.densities.authors import load_variables
from flowbench.densities.bases import Base, StandardNormal, standard_normal_log_prob
from flowbench.densities.bijection import Bijection, Compose, Conjugate, OnFirstHalf
from flowbench.densities.flow import Flow
from flowbench.densities.flow_density import FlowConfig
from flowbench.densities.flows.actnorm import ActNorm
from flowbench.densities.flows.conv1x1 import Mixing, Permutation, permutation
from flowbench.densities.flows.glow_layers import ConditionalPrior, CouplingNetwork, GlowCoupling, ZeroConv
from flowbench.densities.flows.squeeze import Squeeze, cells_of, pixels_of
from flowbench.densities.flows.vectors import AsPixel, check_for_vectors, vector_couplings
from flowbench.errors import InputError

__all__ = ["Glow", "GlowConfig", "GlowStep", "LearnedTop"]

ImageShape = tuple[int, int, int]


@density_models.register("glow")
class GlowConfig(FlowConfig):
    """Glow (Kingma & Dhariwal 2018), number for number the authors'; by default their CIFAR-10 model."""

    name: Literal["glow"] = "glow"
    logit: Annotated[float, Field(gt=0, lt=0.5)] | None = None
    """α of a logit before the flow; None, as in the paper: pixels are centred at 0."""
    added: ClassVar[frozenset[str]] = frozenset({"network"})

    levels: PositiveInt = 3
    """Levels of the multi-scale architecture; each halves height and width."""
    steps: PositiveInt = 32
    """Steps of flow in each level."""
    hidden: PositiveInt = 512
    """Channels of the hidden layers of the couplings' networks."""
    coupling: Literal["affine", "additive"] = "affine"
    permutation: Permutation = "lu"
    """What mixes the channels: an LU-decomposed or plain 1x1 convolution, their reversal, a fixed shuffle."""
    learn_top: bool = True
    """Learn mean and scale of the coarsest latents, per channel (and at the border); else they are N(0, 1)."""
    network: CouplingNetwork = "convolutions"
    """The couplings' networks: the paper's three convolutions, or a residual block of Real NVP; `optim.scale_l2` then
    weighs the squares of its weight-normalization scales. Not in the paper."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout probability in the couplings' networks; not in the paper."""

    def flow(self, image_shape: ImageShape) -> "Glow":
        """Return the untrained flow for images of (channels, height, width)."""
        return Glow(
            image_shape,
            levels=self.levels,
            steps=self.steps,
            hidden=self.hidden,
            affine=self.coupling == "affine",
            mixing=self.permutation,
            learn_top=self.learn_top,
            network=self.network,
            dropout=self.dropout,
        )

    def base(self) -> Base | None:
        """Return None: the flow knows whether the prior of its coarsest latents is learned."""
        return None


class GlowStep(Compose):
    """Activation normalization, channel mixing, coupling.

    Args:
        channels: of the image, even.
        hidden, affine, mixing, network, dropout: see `Glow`.
    """

    def __init__(
        self, channels: int, hidden: int, affine: bool, mixing: Permutation, network: CouplingNetwork, dropout: float
    ) -> None:
        coupling = GlowCoupling(channels, hidden, affine=affine, network=network, dropout=dropout)
        super().__init__([ActNorm(channels), permutation(mixing, channels), coupling])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Transform x, (batch, channels, height, width)."""
        normalization, mixing, coupling = self.bijections
        if not isinstance(normalization, ActNorm) or not isinstance(mixing, Mixing) or normalization.initializing:
            return super().forward(x)
        # Somebody who watches the layers (`layers`) is to see each of them.
        if normalization._forward_hooks or mixing._forward_hooks:
            return super().forward(x)
        x, log_det = mixing.after(normalization, x)
        z, increment = coupling(x)
        return z, log_det + increment


class Glow(Flow):
    """The flow from images, or vectors, to latents; initial weights from torch's global generator.

    Of vectors it is `steps` steps of activation normalization, a linear map of the dimensions and a coupling of their
    halves with a dense network.

    Latents are flat, (batch, D): those of an image-shaped arrangement in which every level's latents lie where the
    squeezes put them. `unpack` gives them by level. `inverse` also takes that arrangement itself, (batch, channels,
    height, width), at any size that the levels divide: the architecture is convolutional.

    Args:
        shape: (channels, height, width) of images, or d: the dimensions of vectors.
        levels, learn_top, network, dropout: see `GlowConfig`; None: 3 levels. Images only.
        steps: in each level; None: 32, and 8 for vectors.
        hidden: width of the networks; None: 512, and 64 for vectors.
        affine: False is `coupling: additive`.
        mixing: `permutation` of `GlowConfig`.

    Raises:
        InputError: the image cannot be halved `levels` times; vectors with settings of images.

    Examples:
        >>> import torch, flowbench as fb
        >>> tuple(fb.Glow((1, 4, 4), levels=1, steps=2, hidden=4).sample(3).shape)
        (3, 1, 4, 4)
    """

    def __init__(
        self,
        shape: ImageShape | int,
        *,
        levels: int | None = None,
        steps: int | None = None,
        hidden: int | None = None,
        affine: bool = True,
        mixing: Permutation = "lu",
        learn_top: bool = False,
        network: CouplingNetwork = "convolutions",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if isinstance(shape, int):
            check_for_vectors(
                shape, levels=levels, learn_top=learn_top, network=network != "convolutions", dropout=dropout or None
            )
            self.image_shape: tuple[int, ...] = (shape,)
            self.input_shape = self.image_shape
            self.levels, self.steps_per_level = 1, steps or VECTOR_STEPS
            self.flow: Bijection = Compose(_vector_steps(shape, self.steps_per_level, hidden, affine, mixing))
            self.base: Base = StandardNormal()
            return
        levels, steps, hidden = levels or 3, steps or 32, hidden or 512
        channels, height, width = shape
        if height % 2**levels or width % 2**levels:
            raise InputError(
                f"model.levels: {levels} levels halve the image {levels} times, but {height}x{width} pixels cannot be "
                "halved evenly so often: use fewer"
            )
        self.image_shape = self.input_shape = shape
        self.levels = levels
        self.steps_per_level = steps

        def level(number: int, channels: int) -> Conjugate:
            squeezed = 4 * channels
            parts: list[Bijection] = [
                GlowStep(squeezed, hidden, affine, mixing, network, dropout) for _ in range(steps)
            ]
            if number < levels - 1:
                parts += [ConditionalPrior(squeezed), OnFirstHalf(level(number + 1, squeezed // 2))]
            return Conjugate(Squeeze(), Compose(parts))

        self.flow = level(0, channels)
        self.base = LearnedTop(shape, levels) if learn_top else StandardNormal()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map x, (batch, channels, height, width) or (batch, d), to latents, (batch, D)."""
        z, log_det = self.flow(x)
        return z.flatten(1), log_det

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Map latents, (batch, D) or arranged as an image, to the input space."""
        return self.flow.inverse(_arranged(z, self.image_shape))

    def unpack(self, z: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the white latents ε factored out at each level, finest first, and the coarsest latents z_top.

        Args:
            z: (batch, D), or arranged as an image.

        Returns:
            ε of level l, (batch, channels · 2^(l+1), height / 2^(l+1), width / 2^(l+1)), and z_top with twice as many
            channels as the last level's ε would have.
        """
        return _unpack(_arranged(z, self.image_shape), self.levels)

    def pack(self, eps: Sequence[Tensor], z_top: Tensor) -> Tensor:
        """Return the latents, (batch, D), that `unpack` splits into `eps` and `z_top`."""
        return _pack(eps, z_top).flatten(1)

    def layers(self) -> Iterator[Bijection]:
        """Yield activation normalizations, channel mixings, couplings and conditional priors."""
        yield from self.flow.layers()

    def by_scale(self, z: Tensor) -> list[Tensor]:
        """Return what `unpack` gives, in one list: the ε of each level, then z_top."""
        if len(self.image_shape) == 1:
            return [z]
        eps, z_top = self.unpack(z)
        return [*eps, z_top]

    def from_scales(self, parts: Sequence[Tensor]) -> Tensor:
        """Return the latents, (batch, D), that `by_scale` takes apart."""
        return parts[0] if len(self.image_shape) == 1 else self.pack(parts[:-1], parts[-1])

    def steps(self) -> dict[str, GlowStep]:
        """Return the steps in the order of `forward` under the authors' names: level/step."""
        numbers = [f"{level}/{step}" for level in range(self.levels) for step in range(self.steps_per_level)]
        return dict(zip(numbers, (m for m in self.modules() if isinstance(m, GlowStep)), strict=True))

    def authors_variables(self) -> dict[str, Tensor]:
        """Return the parameters (not copies) under the names of the authors' TensorFlow variables."""
        variables: dict[str, Tensor] = {}
        for step, module in self.steps().items():
            variables |= {f"model/{step}/{_authors_name(n)}": value for n, value in module.named_parameters()}
        for level, prior in enumerate(m for m in self.modules() if isinstance(m, ConditionalPrior)):
            variables |= {f"model/pool{level}/conv/{n}": value for n, value in prior.prior.conv.named_parameters()}
        return variables | {f"model/prior/p/{n[2:]}": value for n, value in self.base.named_parameters()}

    @classmethod
    def from_authors(cls, variables: Mapping[str, np.ndarray[Any, Any]], hparams: Mapping[str, Any]) -> "Glow":
        """Return the flow with the variables of the authors' program; it takes their preprocessed images.

        Args:
            variables: by TensorFlow name (model/0/0/actnorm_center/b, …), in TensorFlow's layouts.
            hparams: the program's hyper-parameters: n_levels, depth, width, flow_coupling, flow_permutation (0 or 2),
                learntop, image_size.

        Raises:
            InputError: a hyper-parameter is missing or not supported; a variable is missing, left over or misshapen.
        """
        for key in ("n_levels", "depth", "width", "flow_coupling", "flow_permutation", "learntop", "image_size"):
            if key not in hparams:
                raise InputError(f"hparams: {key} is missing")
        if hparams["flow_permutation"] not in _MIXINGS or hparams.get("ycond"):
            raise InputError("hparams: only flow_permutation 0 and 2 without ycond are supported")
        first = variables.get("model/0/0/actnorm_center/b")
        if first is None:
            raise InputError("variables: model/0/0/actnorm_center/b is missing")
        side = int(hparams["image_size"])
        flow = cls(
            (first.size // 4, side, side),
            levels=int(hparams["n_levels"]),
            steps=int(hparams["depth"]),
            hidden=int(hparams["width"]),
            affine=bool(hparams["flow_coupling"]),
            mixing=_MIXINGS[hparams["flow_permutation"]],
            learn_top=bool(hparams["learntop"]),
        )
        load_variables(flow.authors_variables(), variables)
        return flow


class LearnedTop(Base):
    """White latents but for the coarsest, z_top ~ N(μ, σ²): what a convolution of zeros gives, so μ and log σ differ
    by channel and at the image's border (the authors' `prior` with learntop).

    Args:
        image_shape: (channels, height, width).
        levels: of the flow.
    """

    def __init__(self, image_shape: ImageShape, levels: int) -> None:
        super().__init__()
        self.image_shape = image_shape
        self.levels = levels
        self.top_channels = image_shape[0] * 2 ** (levels + 1)
        self.p = ZeroConv(2 * self.top_channels, 2 * self.top_channels)

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log N(ε; 0, 1) + log N(z_top; μ, σ²) of latents (batch, D) or arranged as images, (batch,)."""
        _, top = _unpack(_arranged(z, self.image_shape), self.levels)
        mean, log_sd = self._moments(top)
        white = (top - mean) * torch.exp(-log_sd)
        others = standard_normal_log_prob(z) - standard_normal_log_prob(top)
        return others + standard_normal_log_prob(white) - log_sd.sum()

    def sample(
        self, shape: tuple[int, ...], temperature: float, generator: torch.Generator | None, device: torch.device
    ) -> Tensor:
        """Return ε = temperature · N(0, 1) and z_top = μ + temperature · σ · N(0, 1), arranged as `shape`."""
        return self.color(StandardNormal().sample(shape, temperature, generator, device))

    def whiten(self, z: Tensor) -> Tensor:
        """Return ε as it is and (z_top − μ) / σ, in z's shape."""
        eps, top = _unpack(_arranged(z, self.image_shape), self.levels)
        mean, log_sd = self._moments(top)
        return _pack(eps, (top - mean) * torch.exp(-log_sd)).reshape(z.shape)

    def color(self, white: Tensor) -> Tensor:
        """Undo `whiten`."""
        eps, top = _unpack(_arranged(white, self.image_shape), self.levels)
        mean, log_sd = self._moments(top)
        return _pack(eps, mean + log_sd.exp() * top).reshape(white.shape)

    def _moments(self, top: Tensor) -> tuple[Tensor, Tensor]:
        h = self.p(top.new_zeros(1, 2 * self.top_channels, *top.shape[2:]))
        mean, log_sd = h.chunk(2, dim=1)
        return mean, log_sd


VECTOR_STEPS = 8
_MIXINGS: dict[int, Permutation] = {0: "reverse", 2: "plain"}
_LEAVES = {
    "bijections.0.b": "actnorm_center/b",
    "bijections.0.logs": "actnorm_scale/logs",
    "bijections.1.W": "invconv/W",
}


def _vector_steps(
    dimensions: int, steps: int, hidden: int | None, affine: bool, mixing: Permutation
) -> Iterator[Bijection]:
    """Yield the steps of a flow of vectors."""
    for coupling in vector_couplings(dimensions, couplings=steps, features=hidden, affine=affine):
        yield Conjugate(AsPixel(), Compose([ActNorm(dimensions), permutation(mixing, dimensions)]))
        yield coupling


def _arranged(z: Tensor, image_shape: tuple[int, ...]) -> Tensor:
    return z.reshape(len(z), *image_shape) if z.ndim == 2 else z


def _unpack(z: Tensor, levels: int) -> tuple[list[Tensor], Tensor]:
    eps = []
    for _ in range(levels - 1):
        z, white = cells_of(z).chunk(2, dim=1)
        eps.append(white)
    return eps, cells_of(z)


def _pack(eps: Sequence[Tensor], z_top: Tensor) -> Tensor:
    z = pixels_of(z_top)
    for white in reversed(eps):
        z = pixels_of(torch.cat((z, white), dim=1))
    return z


def _authors_name(name: str) -> str:
    """Translate a step's parameter: bijections.2.f1.l_1.actnorm.logs is f1/l_1/actnorm_scale/logs."""
    if name in _LEAVES:
        return _LEAVES[name]
    name = name.removeprefix("bijections.2.").replace("actnorm.b", "actnorm_center.b")
    return name.replace("actnorm.logs", "actnorm_scale.logs").replace(".", "/")
