"""A density model made of anybody's log-density of floats: dequantization, constants and labels are ours."""

import copy
import math
from collections.abc import Callable
from typing import Literal, cast

import torch
from torch import Tensor, nn

from flowbench.densities.model import DensityModel, ImageShape, Terms
from flowbench.densities.modes import evaluating
from flowbench.densities.preprocessing import Logit, dequantize
from flowbench.errors import InputError, did_you_mean, in_words

__all__ = ["Adapted", "Space"]

Space = Literal["unit", "pixel", "logit"]
SPACES = ("unit", "pixel", "logit")
TOLERANCE = 1e-3
"""Relative difference of one image's two figures that is rounding: other batches take other ways through a library."""


class Adapted(DensityModel):
    """log p(image) of a module whose `log_prob(x)` is the log-density of floats, in nats.

    Args:
        module: `log_prob(x)` takes (batch, channels, height, width) and returns (batch,).
        image_shape: (channels, height, width).
        levels: grey levels.
        space: what x is: unit, (image + noise) / levels in [0, 1); pixel, image + noise in [0, levels); logit, our
            logit (α = 0.05) of the first.
        sample: from n to n points of that space; None: there are no samples.

    Raises:
        InputError: the module fails the check, in evaluation mode: an image has the same figure whatever stands beside
            it, and the same twice. The message says what else may be wrong.
    """

    tempered = False

    def __init__(
        self,
        module: nn.Module,
        image_shape: ImageShape,
        levels: int,
        space: Space,
        sample: Callable[[int], Tensor] | None = None,
    ) -> None:
        super().__init__(image_shape, levels)
        if not isinstance(cast(object, module), nn.Module):
            raise InputError(f"{_name(module)}: is no torch.nn.Module: wrap it in one that has log_prob(x)")
        if space not in SPACES:
            raise InputError(f"space: {space!r}{did_you_mean(str(space), SPACES)}")
        self.module = module
        self.space = space
        self._sample = sample
        self._logit = Logit()
        self._check_module()

    def terms(self, images: Tensor, noise: Tensor) -> Terms:
        """Return the terms of log p; `prior` is the module's own log-density."""
        self.check(images)
        x, jacobian = self._input(images, noise)
        log_prob = _log_prob(self.module, x.to(self._dtype(x.dtype)))
        # A density of pixels is one of integers plus noise already.
        per_level = 0.0 if self.space == "pixel" else -self.dimensions * math.log(self.levels)
        zero = torch.zeros_like(log_prob)
        return Terms(log_prob, zero, jacobian, torch.full_like(log_prob, per_level))

    @torch.no_grad()
    def sample(self, n: int, temperature: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
        """Return n images, uint8 (n, channels, height, width), of the module's samples; in evaluation mode.

        Raises:
            InputError: no `sample` was given, or another temperature than 1; see `DensityModel.sample`.
            WorkFailedError: some samples are not numbers.
        """
        self.check_sampling(n, temperature)
        if self._sample is None:
            raise InputError("this model has no samples: give sample= where it is adapted")
        if temperature != 1:
            raise InputError(f"temperature is {temperature}: an adapted model is sampled at 1")
        with evaluating(self):
            x = self._drawn(n, generator)
        self.check_samples(x)
        if self.space == "logit":
            x = self._logit.inverse(x)
        scaled = x if self.space == "pixel" else x * self.levels
        return scaled.reshape(n, *self.image_shape).floor().clamp(0, self.levels - 1).to(torch.uint8)

    def _dtype(self, otherwise: torch.dtype) -> torch.dtype:
        """Return the type that the module computes in."""
        return next((one.dtype for one in self.module.parameters() if one.is_floating_point()), otherwise)

    def _drawn(self, n: int, generator: torch.Generator | None) -> Tensor:
        assert self._sample is not None
        if generator is None:
            return self._sample(n)
        # Other people's samplers take torch's global generator.
        with torch.random.fork_rng():
            torch.manual_seed(int(torch.randint(2**31, (), generator=generator, device=generator.device)))
            return self._sample(n)

    def _input(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the module takes, contiguous, and the log-Jacobian of the logit, (batch,)."""
        x = dequantize(images, noise, self.levels)
        # In float32 the largest grey level plus the largest noise rounds to the next whole number.
        x = x.clamp(max=1 - torch.finfo(x.dtype).eps / 2)
        jacobian = x.new_zeros(len(x))
        if self.space == "pixel":
            x = x * self.levels
        elif self.space == "logit":
            x, jacobian = self._logit(x)
        return x.contiguous(), jacobian  # views of other people's layers ask for it

    @torch.no_grad()
    def _check_module(self) -> None:
        """Compare an image's figures beside different neighbours, alone and twice, on copies of the module."""
        generator = torch.Generator().manual_seed(0)
        shape = (5, *self.image_shape)
        images = torch.randint(self.levels, shape, generator=generator, dtype=torch.uint8)
        images[3:] = images[3:] // 4  # neighbours of another kind: darker, less varied
        x, _ = self._input(images, torch.rand(shape, generator=generator))
        device = next((tensor.device for tensor in (*self.parameters(), *self.buffers())), x.device)
        x = x.to(device, self._dtype(x.dtype))
        one, other = copy.deepcopy(self.module).eval(), copy.deepcopy(self.module).eval()
        before = {name: value.clone() for name, value in one.state_dict().items()}
        first = _checked(one, x[:3])
        changed = [
            name
            # A method that was put onto the object in a cell is the module's own still, not its copy's.
            for module in (one, self.module)
            for name, value in module.state_dict().items()
            if not torch.equal(value, before[name])
        ]
        if changed:
            self.module.load_state_dict(before)
            raise InputError(
                f"{_name(self.module)}: log_prob changes {changed[0]} in evaluation mode: it initializes or updates "
                "itself on what is only to be measured (activation normalization does): initialize it on training "
                "images, or mark it as initialized, before it is adapted"
            )
        second, beside = _checked(one, x[:3]), _checked(other, torch.cat((x[:1], x[3:])))
        if not _same(first, second):
            raise InputError(
                f"{_name(self.module)}: log_prob gives an image another figure the second time in evaluation mode: "
                "something is drawn at random (dropout, noise): log_prob must be a function of its images"
            )
        if not _same(first[:1], beside[:1]) or not _same(first[:1], _checked(other, x[:1])):
            raise InputError(
                f"{_name(self.module)}: in evaluation mode log_prob gives an image another figure beside other images: "
                "batch normalization without moving averages, or a mean over the batch: each image must stand alone"
            )


def _log_prob(module: nn.Module, x: Tensor) -> Tensor:
    method = cast(Callable[[Tensor], Tensor], module.log_prob)
    return method(x)


def _checked(module: nn.Module, x: Tensor) -> Tensor:
    if not callable(getattr(module, "log_prob", None)):
        raise InputError(f"{_name(module)}: has no log_prob(x): wrap it in a torch.nn.Module that has")
    try:
        found = _log_prob(module, x)
    except Exception as error:  # somebody else's module: whatever it raises, the person is to see what it was given
        raise InputError(f"{_name(module)}: log_prob of floats {tuple(x.shape)}: {in_words(error)}") from error
    if not isinstance(found, Tensor) or tuple(found.shape) != (len(x),):
        what = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise InputError(f"{_name(module)}: log_prob gives {what}: give nats of each image, shape ({len(x)},)")
    return found


def _same(a: Tensor, b: Tensor) -> bool:
    return bool(torch.allclose(a.double(), b.double(), rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True))


def _name(module: object) -> str:
    return type(module).__name__
