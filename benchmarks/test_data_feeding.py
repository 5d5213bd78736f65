"""Feeding batches of 64 CIFAR-10-sized images on one core: from memory, from a memory map, and with dequantization.

pytest benchmarks/test_data_feeding.py -n 0 --benchmark-enable
"""

import numpy as np
import pytest
import torch

from flowbench.data.feed import Feed
from flowbench.data.images import FixedPixels, Images
from flowbench.noise import training_noise

BATCH = 64
COUNT = 50_000
STEPS = 200


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    path = tmp_path_factory.mktemp("feeding") / "train.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (COUNT, 32, 32, 3), dtype=np.uint8))
    return Images("made", "train", 256, "", "unverified", FixedPixels(np.load(path, mmap_mode="r")))


@pytest.mark.parametrize("work", ["gather and flip", "gather, flip and dequantize"])
@pytest.mark.parametrize("place", ["resident", "streamed"])
def test_feeding(benchmark, prepared, place, work):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    feed = Feed(prepared, batch_size=BATCH, seed=0, flip=True, device="cpu", resident=place == "resident")
    seen = []

    def run():
        for step in range(STEPS):
            batch = feed.batch(step)
            if work != "gather and flip":
                batch = batch + training_noise(0, step, tuple(batch.shape), "cpu")
        seen.append(batch)

    try:
        benchmark.pedantic(run, rounds=10, warmup_rounds=2)
    finally:
        torch.set_num_threads(threads)
    assert seen[0].shape == (BATCH, 3, 32, 32)
    if benchmark.enabled:
        benchmark.extra_info["images_per_second"] = round(BATCH * STEPS / benchmark.stats.stats.median)
