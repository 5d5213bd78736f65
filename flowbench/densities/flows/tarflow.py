"""TarFlow (Zhai et al. 2024, arXiv:2412.06329), number for number the authors' program (apple/ml-tarflow).

An image is a sequence of patches. Each block shifts and scales every patch by what a causal transformer reads in the
patches before it; blocks alternately read from the first to the last and from the last to the first.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from flowbench.config.registry import density_models
from flowbench.densities.authors import as_it_is, load_variables
from flowbench.densities.bases import Base, StandardNormal
from flowbench.densities.bijection import Bijection
from flowbench.densities.flow import Flow
from flowbench.densities.flow_density import FlowConfig
from flowbench.densities.flows.tarflow_block import Guidance, TarFlowBlock
from flowbench.densities.flows.tarflow_density import NoisyFlowDensity
from flowbench.densities.model import DensityModel
from flowbench.densities.preprocessing import Logit, Preprocessing, Symmetric
from flowbench.errors import InputError

__all__ = ["Guidance", "LearnedVariance", "TarFlow", "TarFlowConfig", "images_of", "patches_of"]

ImageShape = tuple[int, int, int]


@density_models.register("tarflow")
class TarFlowConfig(FlowConfig):
    """TarFlow (Zhai et al. 2024), number for number the authors'; by default their ImageNet 64x64 model."""

    numerics = 1
    weighs_scales = False

    name: Literal["tarflow"] = "tarflow"
    logit: Annotated[float, Field(gt=0, lt=0.5)] | None = None
    """α of a logit before the flow; None, as in the paper: pixels go to [−1, 1]."""
    patch: PositiveInt = 2
    """Pixels of a patch's side; the number of patches is that of an image's steps in sampling."""
    width: PositiveInt = 768
    """Features of a token in the transformers."""
    blocks: PositiveInt = 8
    layers: PositiveInt = 8
    """Layers of attention and MLP in each block's transformer."""
    head: PositiveInt = 64
    """Features of an attention head; divides `width`."""
    coupling: Literal["affine", "additive"] = "affine"
    """additive: patches are shifted only, and the latents' variances are learned (the authors' `nvp` switched off)."""
    noise_std: Annotated[float, Field(ge=0)] = 0.0
    """σ of Gaussian noise in training, on pixels in [−1, 1], in place of dequantization; samples are then denoised.
    Better pictures, worse likelihoods (section 3.4 of the paper); what is evaluated is dequantized all the same."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout probability of what attention and MLP add; not in the paper."""

    @property
    def moves_with_raw_weights(self) -> bool:
        """Under additive couplings the latents' variances follow the raw weights' latents."""
        return self.coupling == "additive"

    @model_validator(mode="after")
    def _noise_on_pixels(self) -> "TarFlowConfig":
        if self.noise_std and self.logit is not None:
            raise ValueError("noise_std is of pixels in [-1, 1]: set logit to null, or noise_std to 0")
        return self

    def build(self, image_shape: ImageShape, levels: int) -> DensityModel:
        """Return the untrained flow over the images."""
        flow = self.flow(image_shape)
        return NoisyFlowDensity(flow, self.preprocessing(), self.base(), image_shape, levels, self.noise_std)

    def preprocessing(self) -> Preprocessing:
        """Return what is done to the dequantized pixels before the flow."""
        return Symmetric() if self.logit is None else Logit(self.logit)

    def flow(self, image_shape: ImageShape) -> "TarFlow":
        """Return the untrained flow for images of (channels, height, width)."""
        return TarFlow(
            image_shape,
            patch=self.patch,
            width=self.width,
            blocks=self.blocks,
            layers=self.layers,
            head=self.head,
            affine=self.coupling == "affine",
            dropout=self.dropout,
        )

    def base(self) -> Base | None:
        """Return None: the flow knows whether the variances of its latents are learned."""
        return None


class TarFlow(Flow):
    """The flow from images to latents; initial weights from torch's global generator.

    Latents are patches, (batch, T, E): T patches in the rows' order, their E = channels · patch² values by channel, row
    and column. `inverse` also takes them as an image, (batch, channels, height, width).

    Args:
        image_shape: (channels, height, width).
        patch, width, blocks, layers, head, dropout: see `TarFlowConfig`.
        affine: False is `coupling: additive`.
        classes: of labels; 0: none.
        expansion: hidden features of the MLPs, in multiples of `width`.

    Raises:
        InputError: patches do not tile the image, or heads do not divide the width.

    Examples:
        >>> import torch, flowbench as fb
        >>> flow = fb.TarFlow((1, 8, 8), patch=2, width=16, blocks=2, layers=1, head=8)
        >>> flow.log_prob(torch.zeros(5, 1, 8, 8)).shape, flow.sample(3).shape
        (torch.Size([5]), torch.Size([3, 1, 8, 8]))
    """

    inverse_compiles = False

    def __init__(
        self,
        image_shape: ImageShape,
        *,
        patch: int,
        width: int,
        blocks: int,
        layers: int,
        head: int = 64,
        affine: bool = True,
        classes: int = 0,
        expansion: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        channels, height, side = image_shape
        if height % patch or side % patch:
            raise InputError(f"model.patch: patches of {patch}x{patch} pixels do not tile an image of {height}x{side}")
        if width % head:
            raise InputError(f"model.head: heads of {head} features do not divide model.width {width}")
        self.image_shape = self.input_shape = image_shape
        self.patch = patch
        self.classes = classes
        tokens, features = height * side // patch**2, channels * patch**2
        self.blocks = torch.nn.ModuleList(
            TarFlowBlock(
                tokens,
                features,
                width=width,
                layers=layers,
                head=head,
                expansion=expansion,
                reverse=number % 2 == 1,
                affine=affine,
                classes=classes,
                dropout=dropout,
            )
            for number in range(blocks)
        )
        self.base: Base = StandardNormal() if affine else LearnedVariance((tokens, features), patch)

    def forward(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map images x to latents (batch, T, E).

        Args:
            x: in [−1, 1], (batch, channels, height, width).
            y: labels, int64 (batch,); below 0 and None: no label, which is the mean of all classes' vectors.

        Returns:
            z, and log|det ∂z/∂x| in nats, (batch,).
        """
        tokens = patches_of(x, self.patch)
        log_det = x.new_zeros(len(x))
        labels = self._labels(y, len(x))
        for block in self.blocks:
            tokens, increment = block(tokens, labels)
            log_det = log_det + increment
        return tokens, log_det

    def inverse(self, z: Tensor, y: Tensor | None = None, guidance: Guidance | None = None) -> tuple[Tensor, Tensor]:
        """Map latents, (batch, T, E) or arranged as an image, to images: blocks · (T − 1) steps, one after the other.

        Args:
            z: latents as `forward` gives them; to sample, `base.color` of white ones.
            y: labels, as in `forward`.
            guidance: away from what the model does without labels; None: none. The log-determinant is then that of the
                map from z, guided.

        Returns:
            x, and log|det ∂x/∂z| in nats, (batch,).
        """
        tokens = _as_patches(z, self.patch)
        log_det = z.new_zeros(len(z))
        labels = self._labels(y, len(z))
        for block in reversed(self.blocks):
            assert isinstance(block, TarFlowBlock)
            tokens, increment = block.inverse(tokens, labels, guidance)
            log_det = log_det + increment
        return images_of(tokens, self.image_shape, self.patch), log_det

    def layers(self) -> Iterator[Bijection]:
        """Yield the blocks."""
        for block in self.blocks:
            assert isinstance(block, TarFlowBlock)
            yield block

    def by_scale(self, z: Tensor) -> list[Tensor]:
        """Return the latents as an image: there is a single scale."""
        return [images_of(z, self.image_shape, self.patch)]

    def from_scales(self, parts: Sequence[Tensor]) -> Tensor:
        """Return the latents, (batch, T, E), of an image of them."""
        (z,) = parts
        return patches_of(z, self.patch)

    def authors_variables(self) -> dict[str, Tensor]:
        """Return the parameters, and a learned `var` (not copies), under the names of the authors' program."""
        named = {
            name.replace(".transformer.", "."): value for name, value in self.blocks.named_parameters(prefix="blocks")
        }
        return named | ({"var": self.base.var} if isinstance(self.base, LearnedVariance) else {})

    @classmethod
    def from_authors(cls, variables: Mapping[str, np.ndarray[Any, Any]], hparams: Mapping[str, Any]) -> "TarFlow":
        """Return the flow with the parameters of the authors' program.

        Args:
            variables: by PyTorch name (blocks.0.pos_embed, …). `var` may be left out: it is 1 where scales are
                learned, and before training. `attn_mask`, a constant of their checkpoints, is left aside.
            hparams: img_size, patch_size, channels, num_blocks, layers_per_block, nvp, num_classes; head_dim,
                in_channels and expansion, by default the program's 64, 3 and 4.

        Raises:
            InputError: a hyper-parameter is missing; a variable is missing, left over or misshapen.
        """
        for key in ("img_size", "patch_size", "channels", "num_blocks", "layers_per_block", "nvp", "num_classes"):
            if key not in hparams:
                raise InputError(f"hparams: {key} is missing")
        side = int(hparams["img_size"])
        flow = cls(
            (int(hparams.get("in_channels", 3)), side, side),
            patch=int(hparams["patch_size"]),
            width=int(hparams["channels"]),
            blocks=int(hparams["num_blocks"]),
            layers=int(hparams["layers_per_block"]),
            head=int(hparams.get("head_dim", 64)),
            affine=bool(hparams["nvp"]),
            classes=int(hparams["num_classes"]),
            expansion=int(hparams.get("expansion", 4)),
        )
        told = {name: value for name, value in variables.items() if not name.endswith(".attn_mask")}
        load_variables(flow.authors_variables(), told, as_it_is, optional=["var"])
        return flow

    def _labels(self, y: Tensor | None, images: int) -> Tensor | None:
        if y is None:
            return None
        if not self.classes:
            raise InputError("y: this model has no classes")
        if y.shape != (images,):
            raise InputError(f"y: has the shape {tuple(y.shape)}; one label for each of {images} images is needed")
        if images and (largest := int(y.max())) >= self.classes:
            raise InputError(f"y: holds {largest}; the classes are 0 to {self.classes - 1}, below 0 for none")
        return y


class LearnedVariance(Base):
    """z ~ N(0, var), with a variance for every value of the latents that follows them in training.

    In training mode var ← var + 0.1 · (mean of z² over the batch − var) after each use (the authors' `update_prior`).

    Args:
        shape: of the latents of an image, (T, E).
        patch: pixels of a patch's side.
    """

    var: Tensor  # (T, E)

    def __init__(self, shape: tuple[int, int], patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.register_buffer("var", torch.ones(shape))

    def log_prob(self, z: Tensor) -> Tensor:
        """Return −½ Σ (z²/var + log var + log 2π), (batch,), of latents (batch, T, E)."""
        # A copy: the variances move before the gradients are computed.
        var = self.var.clone() if self.training else self.var
        log_prob = -0.5 * (z * z / var + torch.log(2 * math.pi * var)).flatten(1).sum(1)
        if self.training:
            self.update(z)
        return log_prob

    @torch.no_grad()
    def update(self, z: Tensor) -> None:
        """Move the variances a tenth of the way to the mean squares of latents z, (batch, T, E)."""
        squares = z.detach().square().mean(0)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(squares)
            squares /= dist.get_world_size()
        # A step with a non-finite loss is skipped by the trainer: the variances must forget its batch as well.
        self.var.lerp_(torch.where(torch.isfinite(squares), squares, self.var), 0.1)

    def sample(
        self, shape: tuple[int, ...], temperature: float, generator: torch.Generator | None, device: torch.device
    ) -> Tensor:
        """Return temperature · √var · N(0, 1), (n, T, E)."""
        return self.color(StandardNormal().sample(shape, temperature, generator, device))

    def whiten(self, z: Tensor) -> Tensor:
        """Return z / √var, (batch, T, E), of latents of that shape or arranged as images."""
        return _as_patches(z, self.patch) / self.var.sqrt()

    def color(self, white: Tensor) -> Tensor:
        """Return √var · white, (batch, T, E), of white latents of that shape or arranged as images."""
        return _as_patches(white, self.patch) * self.var.sqrt()


def patches_of(x: Tensor, patch: int) -> Tensor:
    """Return images, (batch, channels, height, width), as patches in the rows' order, (batch, T, channels · patch²)."""
    batch, channels, height, width = x.shape
    cells = x.reshape(batch, channels, height // patch, patch, width // patch, patch)
    return cells.permute(0, 2, 4, 1, 3, 5).reshape(batch, height * width // patch**2, channels * patch**2)


def images_of(tokens: Tensor, image_shape: ImageShape, patch: int) -> Tensor:
    """Return the images that `patches_of` cuts into these tokens, (batch, *image_shape)."""
    channels, height, width = image_shape
    cells = tokens.reshape(len(tokens), height // patch, width // patch, channels, patch, patch)
    return cells.permute(0, 3, 1, 4, 2, 5).reshape(len(tokens), *image_shape)


def _as_patches(z: Tensor, patch: int) -> Tensor:
    return patches_of(z, patch) if z.ndim == 4 else z
