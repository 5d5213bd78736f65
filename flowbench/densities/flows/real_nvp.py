"""Real NVP (Dinh, Sohl-Dickstein & Bengio 2017, arXiv:1605.08803), number for number the authors' program.

Their program is `research/real_nvp` of tensorflow/models with `recursion_type` 2. A scale k with C channels and
d = features · 2^k is:

1. three checkerboard couplings of width d (passed pixels: i + j even, odd, even);
2. on the last scale, one more (odd);
3. on the others, squeezed 2x2 to 4C channels, three channel-wise couplings of width 2d (passed: first half, second,
   first); then, back in the image's shape, an ordered squeeze whose first 2C channels, the diagonal pixels of each
   cell, go on to scale k + 1 while the others are factored out.

Latents have the image's shape; the factored-out ones lie where their pixels lay.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from flowbench.config.registry import density_models
from flowbench.densities.authors import load_variables
from flowbench.densities.bases import Base, StandardNormal
from flowbench.densities.bijection import Bijection, Compose, Conjugate, OnFirstHalf
from flowbench.densities.flow import Flow
from flowbench.densities.flow_density import FlowConfig
from flowbench.densities.flows.conv1x1 import LUConv1x1
from flowbench.densities.flows.coupling import ChannelCoupling, CheckerboardCoupling, MakeNet
from flowbench.densities.flows.normalization import warn_of_moving_averages
from flowbench.densities.flows.resnet import ResidualNet
from flowbench.densities.flows.squeeze import OrderedSqueeze, Squeeze
from flowbench.densities.flows.vectors import check_for_vectors, vector_couplings
from flowbench.errors import InputError

__all__ = ["RealNVP", "RealNVPConfig"]


@density_models.register("real_nvp")
class RealNVPConfig(FlowConfig):
    """Real NVP (Dinh et al. 2017), number for number the authors'; by default their CIFAR-10 model."""

    name: Literal["real_nvp"] = "real_nvp"
    scales: PositiveInt = 2
    """Scales of the multi-scale architecture; each but the last halves height and width."""
    residual_blocks: PositiveInt = 8
    """Residual blocks of each coupling's network."""
    features: PositiveInt = 64
    """Width of the networks on the finest scale; it doubles with each scale, and in channel-wise couplings."""
    bottleneck: bool = False
    """Residual blocks of 1x1, 3x3 and 1x1 convolutions in place of two 3x3."""
    skip: bool = True
    """Skip connections from every residual block to the output of its network."""
    batch_norm: bool = True
    """Batch normalization in the networks and of the couplings' outputs."""
    coupling: Literal["affine", "additive"] = "affine"
    """additive: couplings 0, 1, 4 and 5 of each scale only shift (the authors' use_aff = 0); 2, 3, 6 stay affine."""
    mixing: Literal["alternate", "conv1x1"] = "alternate"
    """conv1x1: a learned 1x1 convolution before each channel-wise coupling, in place of alternating halves; not in the
    paper."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout probability in the residual blocks; not in the paper."""

    def flow(self, image_shape: tuple[int, int, int]) -> "RealNVP":
        """Return the untrained flow for images of (channels, height, width)."""
        return RealNVP(
            image_shape,
            scales=self.scales,
            residual_blocks=self.residual_blocks,
            features=self.features,
            bottleneck=self.bottleneck,
            skip=self.skip,
            batch_norm=self.batch_norm,
            affine=self.coupling == "affine",
            mixing=self.mixing,
            dropout=self.dropout,
        )


class RealNVP(Flow):
    """The flow from (logit-space) images, or vectors, to latents of the same shape.

    Initial weights come from torch's global generator. Of vectors it is affine couplings (section 3.2 of the paper)
    between halves of the dimensions, with dense networks.

    Args:
        shape: (channels, height, width) of images, or d: the dimensions of vectors.
        scales, bottleneck, skip, dropout: see `RealNVPConfig`; None: 2 scales. Images only.
        residual_blocks: of each coupling's network, for vectors its hidden layers; None: 8, and 2 for vectors.
        features: width of the networks, for images on the finest scale.
        batch_norm: see `RealNVPConfig`; None: where there are images. Images only.
        affine: False is `coupling: additive`; of vectors all couplings then only shift.
        mixing: see `RealNVPConfig`; of vectors alternate (the halves take turns) or permute (all are drawn).
        couplings: of vectors; None: 8.

    Raises:
        InputError: the image cannot be halved `scales` − 1 times; vectors with settings of images, or the reverse.

    Examples:
        >>> import torch, flowbench as fb
        >>> flow = fb.RealNVP(2)
        >>> tuple(flow.log_prob(torch.zeros(5, 2)).shape), tuple(flow.sample(3).shape)
        ((5,), (3, 2))
    """

    def __init__(
        self,
        shape: tuple[int, int, int] | int,
        *,
        scales: int | None = None,
        residual_blocks: int | None = None,
        features: int = 64,
        bottleneck: bool = False,
        skip: bool = True,
        batch_norm: bool | None = None,
        affine: bool = True,
        mixing: Literal["alternate", "conv1x1", "permute"] = "alternate",
        dropout: float = 0.0,
        couplings: int | None = None,
    ) -> None:
        super().__init__()
        self.base: Base = StandardNormal()
        self._squeeze = OrderedSqueeze()
        if isinstance(shape, int):
            check_for_vectors(
                shape,
                scales=scales,
                bottleneck=bottleneck,
                skip=not skip,
                batch_norm=batch_norm,
                dropout=dropout or None,
            )
            if mixing == "conv1x1":
                raise InputError("mixing: conv1x1 is for images: of vectors alternate or permute")
            self.input_shape: tuple[int, ...] = (shape,)
            self.scales = 1
            self.flow = Compose(
                vector_couplings(
                    shape, couplings=couplings, features=features, layers=residual_blocks, affine=affine, mixing=mixing
                )
            )
            return
        if couplings is not None or mixing == "permute":
            raise InputError("couplings and mixing: permute are for flows of vectors; of images scales says how many")
        self.input_shape = shape
        self.scales = 2 if scales is None else scales
        _check_scales(self.scales, shape)
        batch_norm = batch_norm is None or batch_norm
        net = partial(
            ResidualNet,
            blocks=8 if residual_blocks is None else residual_blocks,
            bottleneck=bottleneck,
            skip=skip,
            batch_norm=batch_norm,
            dropout=dropout,
        )
        nets = [partial(net, features=features * 2**k) for k in range(self.scales)]
        self.flow = _multi_scale(shape, nets, affine=affine, batch_norm=batch_norm, conv1x1=mixing == "conv1x1")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map x, (batch, channels, height, width) or (batch, d), to latents of the same shape."""
        z, log_det = self.flow(x)
        return z, log_det

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Map latents z, of the shape of x, to the input space; normalizers of the flow use moving averages.

        In training mode, in which `forward` does not, a RuntimeWarning says so once.
        """
        if self.training:
            warn_of_moving_averages(self)
        return self.flow.inverse(z)

    def layers(self) -> Iterator[Bijection]:
        """Yield the couplings (and the 1x1 convolutions, if there are any)."""
        yield from self.flow.layers()

    def by_scale(self, z: Tensor) -> list[Tensor]:
        """Return what is factored out at each scale, finest first, and the latents of the last scale.

        Returns:
            Of scale k < scales − 1 (batch, channels · 2^(k+1), height / 2^(k+1), width / 2^(k+1)); of the last one as
            many channels as the one before and the same size.
        """
        parts = []
        for _ in range(self.scales - 1):
            z, factored_out = self._squeeze(z)[0].chunk(2, dim=1)
            parts.append(factored_out)
        return [*parts, z]

    def from_scales(self, parts: Sequence[Tensor]) -> Tensor:
        """Return the latents, (batch, channels, height, width), that `by_scale` takes apart."""
        z = parts[-1]
        for factored_out in reversed(parts[:-1]):
            z = self._squeeze.inverse(torch.cat((z, factored_out), dim=1))[0]
        return z

    def couplings(self) -> dict[str, CheckerboardCoupling | ChannelCoupling]:
        """Return the couplings in the order of `forward` under the authors' names, such as scale_0/coupling_4."""
        numbers = [
            (k, j) for k in range(self.scales) for j in ((0, 1, 2, 4, 5, 6) if k < self.scales - 1 else range(4))
        ]
        modules = [m for m in self.modules() if isinstance(m, CheckerboardCoupling | ChannelCoupling)]
        return {f"scale_{k}/coupling_{j}": module for (k, j), module in zip(numbers, modules, strict=True)}

    def authors_variables(self) -> dict[str, Tensor]:
        """Return parameters and buffers (not copies) under the names of the authors' TensorFlow variables."""
        return {
            f"model/{coupling}/{_authors_name(name)}": tensor
            for coupling, module in self.couplings().items()
            for name, tensor in module.state_dict(keep_vars=True).items()
        }

    @classmethod
    def from_authors(cls, variables: Mapping[str, np.ndarray[Any, Any]], hparams: Mapping[str, Any]) -> "RealNVP":
        """Return the flow with the variables of the authors' program.

        Args:
            variables: by TensorFlow name (model/scale_0/coupling_0/…), in TensorFlow's layouts.
            hparams: the program's hyper-parameters: image_size, n_scale, base_dim, residual_blocks, bottleneck, skip,
                use_batch_norm, use_aff; others must have the values that this module stands for.

        Raises:
            InputError: a hyper-parameter is missing or not supported; a variable is missing, left over or misshapen.
        """
        _check_hparams(hparams)
        flow = cls(
            (_image_channels(variables), int(hparams["image_size"]), int(hparams["image_size"])),
            scales=int(hparams["n_scale"]),
            residual_blocks=int(hparams["residual_blocks"]),
            features=int(hparams["base_dim"]),
            bottleneck=bool(hparams["bottleneck"]),
            skip=bool(hparams["skip"]),
            batch_norm=bool(hparams["use_batch_norm"]),
            affine=bool(hparams["use_aff"]),
        )
        told = {name: value for name, value in variables.items() if not _LEFTOVER.search(name)}
        load_variables(flow.authors_variables(), told)
        return flow


_FIRST_KERNEL = "model/scale_0/coupling_0/resnet/h_in/weights"
_HPARAMS = ("image_size", "n_scale", "base_dim", "residual_blocks", "bottleneck", "skip", "use_batch_norm", "use_aff")
_FIXED_HPARAMS = {"recursion_type": 2, "bn_epsilon": 1e-4, "bn_decay": 0.1, "bn_lag": 0.0, "dropout_mask": 0}
# What TensorFlow's optimizers and moving averages of weights leave in a checkpoint beside the variables themselves.
_LEFTOVER = re.compile(r"(^|/)(global_step|beta[12]_power|Adam(_\d+)?|Momentum|ExponentialMovingAverage)$")


def _multi_scale(
    shape: tuple[int, int, int],
    nets: Sequence[MakeNet],
    *,
    affine: bool,
    batch_norm: bool,
    conv1x1: bool,
) -> Compose:
    """Return the couplings of one scale and all coarser ones, as the paper's section 3.6 stacks them.

    Args:
        shape: (channels, height, width) that reach this scale.
        nets: makes the networks of this scale and of each coarser one; channelwise couplings have the next scale's.
        affine: False: all couplings but the last of each kind only shift.
        batch_norm: normalize what a coupling gives on.
        conv1x1: a learned mixing of channels before each channelwise coupling, which then keeps the first half.
    """
    channels, height, width = shape
    coarsest = len(nets) == 1
    checkers = [
        CheckerboardCoupling(
            channels, (height, width), number % 2, nets[0], affine=affine or number > 1, batch_norm=batch_norm
        )
        for number in ((0, 1, 2, 3) if coarsest else (0, 1, 2))
    ]
    if coarsest:
        return Compose(checkers)
    channelwise: list[Bijection] = []
    for number in (4, 5, 6):
        channelwise += [LUConv1x1(4 * channels)] if conv1x1 else []
        channelwise += [
            ChannelCoupling(
                4 * channels,
                nets[1],
                pass_first=conv1x1 or number != 5,
                affine=affine or number == 6,
                batch_norm=batch_norm,
            )
        ]
    coarser = _multi_scale(
        (2 * channels, height // 2, width // 2), nets[1:], affine=affine, batch_norm=batch_norm, conv1x1=conv1x1
    )
    return Compose(
        [
            *checkers,
            Conjugate(Squeeze(), Compose(channelwise)),
            Conjugate(OrderedSqueeze(), OnFirstHalf(coarser)),
        ]
    )


def _check_scales(scales: int, image_shape: tuple[int, int, int]) -> None:
    _, height, width = image_shape
    factor = 2 ** (scales - 1)
    if height % factor or width % factor:
        most = next(n for n in range(scales, 0, -1) if height % 2 ** (n - 1) == 0 and width % 2 ** (n - 1) == 0)
        raise InputError(
            f"model.scales: {scales} scales halve the image {scales - 1} times, but {height}x{width} pixels can be "
            f"halved evenly only {most - 1} times: use model.scales={most} or fewer"
        )


def _check_hparams(hparams: Mapping[str, Any]) -> None:
    for key in _HPARAMS:
        if key not in hparams:
            raise InputError(f"hparams: {key} is missing")
    for key, value in _FIXED_HPARAMS.items():
        if hparams.get(key, value) != value:
            raise InputError(f"hparams: {key} is {hparams[key]!r}, but only {value!r} is supported")


def _image_channels(variables: Mapping[str, np.ndarray[Any, Any]]) -> int:
    if _FIRST_KERNEL not in variables:
        raise InputError(f"variables: {_FIRST_KERNEL} is missing")
    # The first net sees the image, its negative and the mask.
    return int((variables[_FIRST_KERNEL].shape[2] - 1) // 2)


def _authors_name(name: str) -> str:
    """Translate the name of a coupling's parameter: net.blocks.0.h_0.weights is resnet/block_0/h_0/weights."""
    return re.sub(r"\b(block|skip)s\.", r"\1_", re.sub(r"^net\.", "resnet.", name)).replace(".", "/")
