"""What pictures of a model with latents are made from: its run's images, their white latents and the way back."""

from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from flowbench.config.registry import image_sets
from flowbench.data import Images, open_images, training_parts
from flowbench.densities.flow_density import FlowDensity
from flowbench.densities.model import DensityModel, LatentDensity
from flowbench.densities.noise import evaluation_noise
from flowbench.figures.kinds import NotDrawableError, Subject

__all__ = ["Decoded", "decode", "density_of", "encode", "flow_of", "images_to_show", "latents_of", "report_images"]

AT_ONCE = 64
"""Images that pass through a model at once: pictures must not need more memory than the training."""


class Decoded(NamedTuple):
    """What came of latents."""

    images: Tensor
    """uint8 (n, channels, height, width); those that are not numbers are white."""
    broken: int
    """How many those are: a flow's inverse may overflow far from its data."""

    @property
    def note(self) -> str:
        """What a title says of them, on a line of its own."""
        return f"\n({self.broken} of {len(self.images)} not numbers: white)" if self.broken else ""


def density_of(subject: Subject) -> DensityModel:
    """Return the subject's density model."""
    return cast(DensityModel, subject.model)


def flow_of(subject: Subject) -> FlowDensity:
    """Return the subject's model; NotDrawableError where it is no flow."""
    if not isinstance(subject.model, FlowDensity):
        raise NotDrawableError(f"{subject.experiment.model.name} is no flow: it has no log-determinant")
    return subject.model


def latents_of(subject: Subject) -> LatentDensity:
    """Return the subject's model; NotDrawableError where it has no latents."""
    if not isinstance(subject.model, LatentDensity):
        raise NotDrawableError(f"{subject.experiment.model.name} has no latents")
    return subject.model


def report_images(subject: Subject) -> Images:
    """Return the split that the run reports."""
    data = subject.experiment.data
    return open_images(data, image_sets[data.name].report_split)


def images_to_show(subject: Subject, n: int) -> Images:
    """Return n images that the model was not trained on, by a permutation of the run's seed: held-out ones if any."""
    _, holdout = training_parts(subject.experiment.data)
    images = report_images(subject) if holdout is None else holdout
    if len(images) < n:
        raise NotDrawableError(f"{images.name} {images.split} has {len(images)} images: {n} are needed")
    generator = np.random.Generator(np.random.Philox(key=[subject.experiment.seed, 0x666967]))
    return images.subset(generator.permutation(len(images))[:n])


def encode(subject: Subject, images: Images) -> tuple[Tensor, Tensor]:
    """Return images, uint8 (n, channels, height, width), and their white latents, both on the CPU.

    The noise is that of the evaluation's first draw.
    """
    model = latents_of(subject)
    pixels = torch.from_numpy(images.array.transpose(0, 3, 1, 2).copy())
    rows = np.arange(len(images)) if images.rows is None else images.rows
    noise = evaluation_noise(subject.experiment.seed, images.split, rows, 0, model.noise_shape, model.noise)
    batches = zip(torch.split(pixels, AT_ONCE), torch.split(noise, AT_ONCE), strict=True)
    latents = [model.encode(some.to(subject.device), its.to(subject.device)).cpu() for some, its in batches]
    return pixels, torch.cat(latents)


def decode(model: LatentDensity, latents: Tensor) -> Decoded:
    """Return the images of white latents, on the CPU."""
    device = next(model.parameters()).device
    parts = [model.decode(some.to(device)) for some in torch.split(latents, AT_ONCE)]
    images, broken = (torch.cat(tensors).cpu() for tensors in zip(*parts, strict=True))
    return Decoded(images, int(broken.sum()))
