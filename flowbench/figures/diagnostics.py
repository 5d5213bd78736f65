"""Whether the flow does what it promises: are its latents white, and where does its log-determinant come from."""

import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flowbench.data import Images
from flowbench.densities.bijection import Bijection
from flowbench.figures.encoded import encode, flow_of, latents_of, report_images
from flowbench.figures.kinds import Subject, figure_kind
from flowbench.figures.theme import color_of, entitle, new_figure, save, themed

__all__ = ["draw_latents", "draw_log_det", "log_det_by_layer"]

IMAGES = 512
QUANTILES = np.concatenate(
    (np.geomspace(1e-4, 0.02, 20), np.linspace(0.03, 0.97, 48), 1 - np.geomspace(0.02, 1e-4, 20))
)


@figure_kind("latents", "density")
def draw_latents(subject: Subject) -> Path:
    """Draw, for each scale, a histogram and a Q-Q plot of white latents against the standard normal."""
    images = _some(report_images(subject))
    _, latents = encode(subject, images)
    scales = [part.flatten().numpy() for part in latents_of(subject).by_scale(latents)]
    color = color_of(subject.experiment.model.name)
    title = subject.title(f"latents of {len(images):,} {images.split} images")
    with themed():
        figure = new_figure(8, 0.8 + 2.4 * len(scales))
        grid = figure.subplots(len(scales), 2, squeeze=False)
        for number, (values, (left, right)) in enumerate(zip(scales, grid, strict=True), 1):
            bins = np.linspace(-5, 5, 81)
            left.hist(
                np.clip(values, -5, 5),
                bins,
                density=True,
                histtype="stepfilled",
                color=color,
                alpha=0.6,
                label=_moments(values),
            )
            left.plot(
                bins, np.exp(-0.5 * bins**2) / math.sqrt(2 * math.pi), color="#333333", linewidth=1, label="N(0, 1)"
            )
            left.legend(frameon=False, fontsize="small", loc="upper right")
            left.set_ylim(top=1.35 * left.get_ylim()[1])
            left.set(xlabel="z", ylabel="density", title=f"scale {number} of {len(scales)}")
            expected = torch.special.ndtri(torch.from_numpy(QUANTILES)).numpy()
            right.plot(expected, expected, color="#333333", linewidth=1)
            right.plot(expected, np.quantile(values, QUANTILES), ".", color=color, markersize=5)
            right.set(xlabel="quantile of N(0, 1)", ylabel="quantile of z")
        entitle(figure, title)
        text = "By scale, finest first: histogram of all latents (beyond ±5 in the last bins) and their quantiles"
        return save(figure, subject.file("latents.svg"), f"{title}. {text}.")


@figure_kind("log_det", "density")
def draw_log_det(subject: Subject) -> Path:
    """Draw the mean log-determinant of every layer, in the order of the forward pass."""
    from matplotlib.ticker import MaxNLocator

    images = _some(report_images(subject))
    layers, values = log_det_by_layer(subject, images)
    per_dimension = values / flow_of(subject).dimensions / math.log(2)
    kinds = [type(layer).__name__ for layer in layers]
    title = subject.title("log-determinant by layer")
    with themed():
        figure = new_figure(9, 4)
        axes = figure.subplots()
        for kind in dict.fromkeys(kinds):
            at = [place for place, name in enumerate(kinds) if name == kind]
            axes.bar([place + 1 for place in at], per_dimension[at], width=0.8, label=kind)
        axes.axhline(0, color="#333333", linewidth=0.8)
        axes.set(xlabel="layer, in the order of the forward pass", ylabel="log|det|, bits/dim")
        axes.set_xlim(0.4, len(kinds) + 0.6)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        # Beside the bars: they fill the axes in either direction, and a legend over them cannot be read.
        sum_of_all = f"sum {per_dimension.sum():+.3f} bits/dim"
        axes.legend(frameon=False, title=sum_of_all, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        entitle(figure, title)
        text = f"Means over {len(images):,} {images.split} images; positive: the layer spreads the data"
        return save(figure, subject.file("log_det.svg"), f"{title}. {text}.")


def log_det_by_layer(subject: Subject, images: Images) -> tuple[list[Bijection], NDArray[np.float64]]:
    """Return the flow's layers in the order of the forward pass and each one's mean log-determinant in nats."""
    flow = flow_of(subject)
    layers = list(flow.flow.layers())
    sums: dict[nn.Module, float] = dict.fromkeys(layers, 0.0)

    def add(layer: nn.Module, _: object, result: tuple[Tensor, Tensor]) -> None:
        sums[layer] += float(result[1].double().sum())

    hooks = [layer.register_forward_hook(add) for layer in layers]
    try:
        encode(subject, images)
    finally:
        for hook in hooks:
            hook.remove()
    return layers, np.array([sums[layer] for layer in layers]) / len(images)


def _some(images: Images) -> Images:
    return images.subset(np.arange(min(IMAGES, len(images))))


def _moments(values: NDArray[np.float32]) -> str:
    return f"mean {values.mean():.2f}, sd {values.std():.2f}"
