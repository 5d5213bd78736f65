"""Training, log-likelihood and sampling passes, each timed in alternation with its own convolutions.

`pytest benchmarks/` times all of it on the CPU (`--threads 2` for two threads); `-m cuda` on a GPU, eager and compiled
with CUDA graphs, in float32 and bfloat16; `-m slow` the compiled passes on the CPU.
"""

import numpy as np
import pytest
import torch

from flowbench.system.environment import describe_environment
from flowbench.throughput.device import Device
from flowbench.throughput.measurement import prepare_pass
from flowbench.throughput.naming import changed_preset
from flowbench.throughput.passes import PASSES

ROUNDS = 5
SMALL_GLOW = ("model.steps=8", "model.hidden=256")
ON_CPU = [
    ("real_nvp/cifar10", (), 16, 32),
    ("real_nvp/cifar10", (), 16, "bf16"),
    ("glow/cifar10", SMALL_GLOW, 16, 32),
    ("glow/cifar10", SMALL_GLOW, 64, 32),
    ("real_nvp/digits", (), 64, 32),
    ("glow/cifar10-small", (), 16, 32),
    ("glow/digits", (), 64, 32),
    ("nice/digits", (), 64, 32),
    ("tarflow/cifar10-small", (), 64, 32),
]
PRESETS = [
    *(f"real_nvp/{name}" for name in ("cifar10", "cifar10-small", "imagenet32", "imagenet64", "celeba")),
    *(f"glow/{name}" for name in ("cifar10", "imagenet32", "imagenet64", "celeba")),
    "real_nvp/digits",
    "glow/digits",
]
CHOSEN = [
    ("real_nvp/cifar10-fast", 256, "bf16", True),
    ("real_nvp/cifar10-fast", 256, "bf16", False),
    ("glow/cifar10", 64, "bf16", True),
    ("glow/cifar10", 64, "bf16", False),
    ("real_nvp/cifar10", 64, 32, False),
    ("glow/cifar10", 64, 32, False),
]
"""What a borrowed GPU is asked first."""
OTHERS = [
    one
    for one in (
        (name, 64, precision, compiled) for name in PRESETS for precision in (32, "bf16") for compiled in (False, True)
    )
    if one not in CHOSEN
]


def cases(experiment, keys, batch, precision, compiled, where, *marks):
    how = "compiled" if compiled else "eager"
    head = "-".join([experiment, *keys, str(batch), str(precision), how, where])
    return [
        pytest.param(experiment, keys, batch, precision, compiled, where, name, id=f"{head}-{name}", marks=marks)
        for name in PASSES
    ]


def by_what_they_wait_for(one):
    """The training that a borrowed GPU has just compiled first; what takes minutes to compile last."""
    experiment, _, _, _, compiled, _, name = one.values
    return compiled and (experiment, name) != ("real_nvp/cifar10-fast", "train")


FIRST = [one for name, *how in CHOSEN for one in cases(name, (), *how, "cuda", pytest.mark.cuda, pytest.mark.chosen)]
CASES = [
    *sorted(FIRST, key=by_what_they_wait_for),
    *(one for name, *how in OTHERS for one in cases(name, (), *how, "cuda", pytest.mark.cuda)),
    *(one for name, keys, batch, how in ON_CPU for one in cases(name, keys, batch, how, False, "cpu")),
    *cases("glow/digits", (), 64, 32, True, "cpu", pytest.mark.slow),
]


@pytest.mark.parametrize(("experiment", "keys", "batch", "precision", "compiled", "where", "name"), CASES)
def test_pass(benchmark, results, experiment, keys, batch, precision, compiled, where, name):
    changes = [*keys, f"train.precision={precision}", f"train.compile={str(compiled).lower()}"]
    device = torch.device(where)
    clock = Device(device)
    prepared = prepare_pass(changed_preset(experiment, changes), name, batch, clock)
    floors, passes = [], []
    benchmark.pedantic(
        lambda: passes.append(clock.time(prepared.run)[1]),
        setup=lambda: floors.append(clock.time(prepared.floor)[1]),
        rounds=ROUNDS,
        warmup_rounds=1,
    )
    seconds = np.array(benchmark.stats.stats.data)
    # The first of each was the warm-up.
    entry = prepared.result(seconds, np.array(passes[1:]) / np.array(floors[1:]))
    results.append(entry)
    speed = entry["images_per_second"]["median"]
    benchmark.extra_info.update(
        entry | {"flops_per_second": speed * entry["flops_per_image"], "environment": describe_environment(device)}
    )
    assert entry["floor_ratio"]["median"] > 0.5
