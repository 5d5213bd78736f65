"""What the model finds likely: bits/dim of single test images, and of images from elsewhere."""

import json
import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from flowbench.data import Images
from flowbench.data.images import load_array
from flowbench.densities.noise import evaluation_noise
from flowbench.evaluation.stored import evaluation_path
from flowbench.figures.encoded import density_of, report_images
from flowbench.figures.grids import show_grid
from flowbench.figures.kinds import NotDrawableError, Subject, figure_kind
from flowbench.figures.outsiders import outsiders
from flowbench.figures.theme import color_of, entitle, new_figure, save, themed
from flowbench.tasks.density import reported_setting

__all__ = ["bits_per_dim_of", "draw_likelihood", "draw_outsiders"]

EXTREMES = 12
IMAGES = 512
AT_ONCE = 256


@figure_kind("likelihood", "density")
def draw_likelihood(subject: Subject) -> Path:
    """Draw the histogram of the test images' bits/dim, and the most and the least likely of them."""
    images = report_images(subject)
    bits = _stored(subject, images)
    order = np.argsort(bits, kind="stable")
    ends = {"most likely": order[:EXTREMES], "least likely": order[::-1][:EXTREMES]}
    levels = density_of(subject).levels
    title = subject.title(f"bits/dim of {len(bits):,} {images.split} images")
    with themed():
        figure = new_figure(9, 4)
        left, *right = figure.subplot_mosaic([["h", "a"], ["h", "b"]], width_ratios=[1.3, 1]).values()
        left.hist(bits, 50, color=color_of(subject.experiment.model.name))
        left.axvline(bits.mean(), color="#333333", linewidth=1, label=f"mean {bits.mean():.3f}")
        left.legend(frameon=False)
        left.set(xlabel="bits/dim", ylabel="images")
        for axes, (name, chosen) in zip(right, ends.items(), strict=True):
            shown = torch.from_numpy(images.subset(chosen).array.transpose(0, 3, 1, 2).copy())
            show_grid(axes, shown, EXTREMES // 2, levels)
            low, high = sorted((bits[chosen[0]], bits[chosen[-1]]))
            axes.set_title(f"{name}: {low:.2f} to {high:.2f}")
        entitle(figure, title)
        return save(figure, subject.file("likelihood.svg"), f"{title}, with the most and the least likely of them.")


@figure_kind("outsiders", "density")
def draw_outsiders(subject: Subject) -> Path:
    """Draw the bits/dim of test images against those of other images.

    The field's known puzzle: simple images from elsewhere are often more likely than the data that a flow was trained
    on (Nalisnick et al. 2019, arXiv:1810.09136).
    """
    model = density_of(subject)
    own = report_images(subject)
    sets = {f"{own.name}, {own.split}": own.subset(np.arange(min(IMAGES, len(own)))).array}
    sets |= outsiders(model.image_shape, model.levels, besides=own.name, n=IMAGES)
    if len(sets) == 1:
        raise NotDrawableError(f"there are no other images of {model.image_shape} with {model.levels} levels")
    bits = {name: bits_per_dim_of(subject, array, name) for name, array in sets.items()}
    low = min(values.min() for values in bits.values())
    # A handful of very unlikely images must not flatten everything else: they are counted in the last bin.
    high = max(np.quantile(values, 0.98) for values in bits.values())
    bins = np.linspace(low, high, 61)
    own_color = color_of(subject.experiment.model.name)
    others = (color_of(name) for name in ("independent", "nice", "patchtst", "real_nvp"))
    colors = [own_color, *(color for color in others if color != own_color)]
    title = subject.title("bits/dim of images from elsewhere")
    with themed():
        figure = new_figure(9, 3.6)
        axes = figure.subplots()
        for place, (name, values) in enumerate(bits.items()):
            label = f"{name}: mean {values.mean():.2f}"
            color = colors[place % len(colors)]
            axes.hist(np.minimum(values, high), bins.tolist(), density=True, alpha=0.5, color=color, label=label)
        axes.set(xlabel="bits/dim (lower: more likely)", ylabel="density")
        axes.legend(frameon=False)
        entitle(figure, title)
        text = "The model's own test images against sets that it never saw; values beyond the axis are in the last bin"
        return save(figure, subject.file("outsiders.svg"), f"{title}. {text}.")


def bits_per_dim_of(subject: Subject, array: NDArray[np.uint8], name: str) -> NDArray[np.float64]:
    """Return the bits/dim of images, uint8 (n, height, width, channels), with one draw of noise, (n,)."""
    model = density_of(subject)
    found = []
    for start in range(0, len(array), AT_ONCE):
        some = array[start : start + AT_ONCE]
        places = range(start, start + len(some))
        noise = evaluation_noise(subject.experiment.seed, name, places, 0, model.noise_shape, model.noise)
        pixels = torch.from_numpy(np.ascontiguousarray(some.transpose(0, 3, 1, 2)))
        with torch.no_grad():
            terms = model.terms(pixels.to(subject.device), noise.to(subject.device))
        found.append(-terms.log_prob.double().cpu().numpy() / (model.dimensions * math.log(2)))
    return np.concatenate(found)


def _stored(subject: Subject, images: Images) -> NDArray[np.float64]:
    """Return the bits/dim of every image as an evaluation of these weights left them; measured where there is none."""
    setting = reported_setting(subject.experiment)
    evaluation = evaluation_path(subject.run.evaluations, images, setting)
    values = evaluation.with_suffix(".npy")
    if values.is_file() and _is_of(subject, evaluation):
        stored = load_array(values).astype(np.float64)
        if stored.shape == (len(images),):
            return stored
    return bits_per_dim_of(subject, images.array, images.split)


def _is_of(subject: Subject, evaluation: Path) -> bool:
    """Say whether an evaluation is of the weights that are drawn: a training that went on has left it behind."""
    if subject.run.finished:
        return True
    try:
        stopped = json.loads(evaluation.read_text(encoding="utf-8")).get("stopped")
    except (OSError, ValueError):
        return False
    return stopped is not None and stopped["step"] == subject.step
