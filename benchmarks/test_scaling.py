"""How cost grows: images/s against batch size and image size, memory against batch size.

`pytest benchmarks/test_scaling.py --figures FOLDER` also draws `scaling.png` there.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import linregress

from flowbench.figures.theme import color_of, new_figure, save, themed
from flowbench.throughput.measurement import measure_pass
from flowbench.throughput.naming import changed_preset

CPU = torch.device("cpu")
BATCHES = (4, 8, 16, 32)
SIZES = (16, 32, 64)
REPEATS = 5
MODELS = {
    "real_nvp": ("real_nvp/cifar10", ["model.residual_blocks=2", "model.features=32"]),
    "glow": ("glow/cifar10", ["model.steps=4", "model.hidden=128"]),
}
MEASURED: dict[str, dict[str, list]] = {}


def measured(name, batch, size):
    experiment, keys = MODELS[name]
    return measure_pass(changed_preset(experiment, keys), "train", batch, CPU, REPEATS, shape=(3, size, size))


@pytest.mark.parametrize("name", MODELS)
def test_memory_is_linear_in_the_batch_and_pixels_cost_alike(benchmark, results, name):
    by_batch = [measured(name, batch, 32) for batch in BATCHES]
    by_size = [measured(name, 8, size) for size in SIZES]
    benchmark.pedantic(lambda: None, rounds=1)
    results += by_batch + by_size
    MEASURED[name] = {"batch": by_batch, "size": by_size}
    benchmark.extra_info.update(MEASURED[name])
    memory = [entry["peak_memory_bytes"] for entry in by_batch]
    if None not in memory:
        assert linregress(BATCHES, memory).rvalue > 0.98
    # Operations per pixel are those of the smallest image, whatever the size.
    flops = np.array([entry["flops_per_image"] for entry in by_size]) / np.square(SIZES)
    assert flops == pytest.approx(flops[0], rel=0.1)


def test_draw(request):
    folder = request.config.getoption("--figures")
    if folder is None or not MEASURED:
        pytest.skip("no --figures FOLDER, or nothing measured")
    with themed():
        figure = new_figure(10, 3.2)
        panels = figure.subplots(1, 3)
        for name, found in MEASURED.items():
            look = {"color": color_of(name), "marker": "o", "label": name}
            for axes, key, x in ((panels[0], "batch", BATCHES), (panels[1], "size", SIZES)):
                speeds = [entry["images_per_second"] for entry in found[key]]
                medians = np.array([speed["median"] for speed in speeds])
                bounds = np.array([[speed["low"], speed["high"]] for speed in speeds]).T
                axes.errorbar(x, medians, np.abs(bounds - medians), **look)
            panels[2].plot(BATCHES, [entry["peak_memory_bytes"] / 1e6 for entry in found["batch"]], **look)
        panels[0].set(xlabel="batch size", ylabel="training, images/s", title="32 x 32 pixels", ylim=(0, None))
        panels[1].set(xlabel="side of the image, pixels", ylabel="training, images/s", title="batch 8")
        panels[1].set(xscale="log", yscale="log", xticks=SIZES, xticklabels=[str(size) for size in SIZES])
        panels[2].set(xlabel="batch size", ylabel="peak memory, MB", title="32 x 32 pixels", ylim=(0, None))
        panels[0].legend(frameon=False)
        assert save(figure, Path(folder) / "scaling.png").stat().st_size > 0
