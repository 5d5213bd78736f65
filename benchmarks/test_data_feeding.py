"""Feeding batches of 64 CIFAR-10-sized images on one core: from memory, from a memory map, and with dequantization.

pytest benchmarks/test_data_feeding.py -n 0 --benchmark-enable -s

Beside images/s of wall clock stand images per second of CPU time: on a machine with other work, those are what a core
of one's own would give. Resident and streamed rounds alternate for their ratio.
"""

import itertools
import statistics
import time

import numpy as np
import pytest
import torch

from flowbench.data.feed import Feed
from flowbench.data.images import FixedPixels, Images, VariedPixels
from flowbench.densities.noise import training_noise
from flowbench.densities.preprocessing import dequantize

BATCH = 64
COUNT = 50_000
STEPS = 200


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    path = tmp_path_factory.mktemp("feeding") / "train.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (COUNT, 32, 32, 3), dtype=np.uint8))
    return Images("made", "train", 256, "", "unverified", FixedPixels(np.load(path, mmap_mode="r")))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """5,000 images of 96x128, cut to 64x64 when they are fed, as LSUN's are."""
    count, size = 5_000, 96 * 128 * 3
    path = tmp_path_factory.mktemp("windows") / "train-00000.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, count * size, dtype=np.uint8))
    places = np.arange(count)
    index = np.stack([0 * places, places * size, 0 * places + 96, 0 * places + 128], 1)
    pixels = VariedPixels([np.load(path, mmap_mode="r")], index, 3)
    return Images("made", "train", 256, "", "unverified", pixels, window=64)


@pytest.mark.parametrize("work", ["gather and flip", "gather, flip and dequantize"])
@pytest.mark.parametrize("place", ["resident", "streamed"])
def test_feeding(benchmark, prepared, place, work):
    feed = Feed(prepared, batch_size=BATCH, seed=0, flip=True, device="cpu", resident=place == "resident")
    seen, cpu = [], []

    def run():
        start = time.process_time()
        for step in range(STEPS):
            batch = feed.batch(step)
            if work != "gather and flip":
                batch = dequantize(batch, training_noise(0, step, tuple(batch.shape), "cpu"), 256)
        cpu.append(time.process_time() - start)
        seen.append(batch)

    benchmark.pedantic(run, rounds=10, warmup_rounds=2)
    assert seen[0].shape == (BATCH, 3, 32, 32)
    if benchmark.enabled:
        benchmark.extra_info["images_per_second"] = round(BATCH * STEPS / benchmark.stats.stats.median)
        benchmark.extra_info["images_per_cpu_second"] = round(BATCH * STEPS / statistics.median(cpu))
        print(place, work, benchmark.extra_info)


@pytest.mark.parametrize("kind", ["prepared", "photographs"])
def test_streaming_sustains_the_resident_rate(benchmark, request, kind):
    """The ratio of rates, streamed over resident, of fed and dequantized batches with a warm page cache."""
    images = request.getfixturevalue(kind)
    feeds = [Feed(images, batch_size=BATCH, seed=0, flip=True, device="cpu", resident=which) for which in (True, False)]
    seconds = {"resident": [], "streamed": []}
    cpu = {"resident": [], "streamed": []}
    # On and on, as a training asks: from the start again, what was read ahead would be thrown away in every round.
    rounds = itertools.count()

    def run():
        first = next(rounds) * (STEPS // 4)
        for name, feed in zip(seconds, feeds, strict=True):
            start, used = time.perf_counter(), time.process_time()
            for step in range(first, first + STEPS // 4):
                batch = feed.batch(step)
                batch = dequantize(batch, training_noise(0, step, tuple(batch.shape), "cpu"), 256)
            seconds[name].append(time.perf_counter() - start)
            cpu[name].append(time.process_time() - used)

    benchmark.pedantic(run, rounds=20, warmup_rounds=2)
    for name, of in (("streamed over resident", seconds), ("the same by CPU time", cpu)):
        ratio = statistics.median(a / b for a, b in zip(of["resident"], of["streamed"], strict=True))
        benchmark.extra_info[name] = round(ratio, 3)
    print(kind, benchmark.extra_info)


def test_what_the_memory_allows(benchmark):
    """Images/s if a batch were only copied, 4 bytes a value, and if only its noise were drawn."""
    noise = torch.empty(BATCH, 3, 32, 32)
    other = torch.rand(noise.shape)
    cpu = {"copy": [], "draw": []}

    def run():
        for name, work in (("copy", lambda step: noise.copy_(other)), ("draw", drawn)):
            start = time.process_time()
            for step in range(STEPS):
                work(step)
            cpu[name].append(time.process_time() - start)

    def drawn(step):
        return training_noise(0, step, tuple(noise.shape), "cpu")

    benchmark.pedantic(run, rounds=10, warmup_rounds=1)
    for name, of in cpu.items():
        benchmark.extra_info[f"{name}: images_per_cpu_second"] = round(BATCH * STEPS / statistics.median(of))
    print(benchmark.extra_info)
