"""Ours in alternation with the plain PyTorch way (Real NVP) and with normflows (Glow): same shapes, same threads."""

import importlib.util

import numpy as np
import pytest
import torch
from other_ways import compare, megabytes, normflows_glow, ours, plain, plain_tarflow

from flowbench.throughput.passes import PASSES
from flowbench.throughput.statistics import RESAMPLES

ROUNDS = 7
BATCH = 16
OTHERS = {
    "the plain PyTorch way": (plain, "real_nvp/cifar10", [], 0.0, BATCH),
    "normflows": (
        normflows_glow, "glow/cifar10", ["model.steps=8", "model.hidden=256", "model.learn_top=false"], 0.03, BATCH,
    ),
    "the plain TarFlow": (plain_tarflow, "tarflow/cifar10-small", [], 0.0, 64),
}  # fmt: skip


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("against", OTHERS)
def test_ours_is_faster_and_trains_in_no_more_memory(benchmark, ratios, against, name):
    make_theirs, experiment, keys, tolerance, batch = OTHERS[against]
    if against == "normflows" and importlib.util.find_spec("normflows") is None:
        pytest.skip("pip install normflows: Glow is timed against it")
    threads = torch.get_num_threads()
    wall, work, facts = compare((ours, name, batch, experiment, keys), (make_theirs, name, batch), ROUNDS, threads)
    benchmark.pedantic(lambda: None, rounds=1)
    (our_size, our_memory), (their_size, their_memory) = facts
    assert our_size == pytest.approx(their_size, rel=tolerance)
    paired = work[1] / work[0]
    resampled = np.median(paired[np.random.default_rng(0).integers(0, ROUNDS, (RESAMPLES, ROUNDS))], axis=1)
    ratio, low, high = float(np.median(paired)), *np.quantile(resampled, (0.025, 0.975)).tolist()
    benchmark.extra_info.update(
        against=against, ratio=ratio, low=low, high=high, wall_ratio=float(np.median(wall[1] / wall[0])),
        peak_memory_bytes=our_memory, their_peak_memory_bytes=their_memory, threads=threads, parameters=our_size,
        images_per_second=float(np.median(batch / wall[0])), their_images_per_second=float(np.median(batch / wall[1])),
    )  # fmt: skip
    shown = f"{ratio:.2f} ({low:.2f}–{high:.2f})"
    ratios.append(
        [f"{experiment} {name}, batch {batch}", against, shown, megabytes(our_memory), megabytes(their_memory)]
    )
    assert high > 1
    if name == "train" and our_memory is not None:
        assert our_memory <= their_memory


def test_recomputation_halves_the_memory_for_two_fifths_more_time(benchmark, ratios):
    threads = torch.get_num_threads()
    keys = ["train.recompute=true"]
    _, work, facts = compare((ours, "train", BATCH, "real_nvp/cifar10", keys), (plain, "train", BATCH), ROUNDS, threads)
    benchmark.pedantic(lambda: None, rounds=1)
    faster = float(np.median(work[1] / work[0]))
    memories = [memory for _, memory in facts]
    benchmark.extra_info.update(ratio=faster, peak_memory_bytes=memories[0], their_peak_memory_bytes=memories[1])
    shown = (f"{faster:.2f}", *map(megabytes, memories))
    ratios.append(["real_nvp/cifar10 train, train.recompute", "the plain PyTorch way", *shown])
    assert faster >= 1 / 1.4
    if None not in memories:
        assert memories[0] <= 0.5 * memories[1]
