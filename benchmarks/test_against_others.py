"""Ours in alternation with the plain PyTorch way (Real NVP) and with normflows (Glow): same shapes, same threads."""

import gc

import numpy as np
import pytest
import torch
from plain_real_nvp import PlainRealNVP

from flowbench.config import load_experiment
from flowbench.throughput.device import Device
from flowbench.throughput.measurement import alternate
from flowbench.throughput.passes import PASSES, make_subject
from flowbench.throughput.statistics import RESAMPLES

CPU = torch.device("cpu")
ROUNDS = 7
BATCH = 16
SHAPE = (3, 32, 32)


def images(generator):
    return torch.randint(0, 256, (BATCH, *SHAPE), generator=generator, dtype=torch.uint8)


def stepper(model, loss, optimizer):
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.train()

    def run():
        optimizer.zero_grad()
        loss().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 100)
        optimizer.step()

    return run


def without_gradients(model, run):
    def evaluated():
        model.eval()
        with torch.no_grad():
            return run()

    return evaluated


def plain_real_nvp(generator):
    model = PlainRealNVP(SHAPE, scales=2, features=64, blocks=8)
    x = images(generator)
    for _ in range(2):
        with torch.no_grad():
            model.log_prob(x)
    adam = torch.optim.Adam([parameter for parameter in model.parameters() if parameter.requires_grad])
    return model, {
        "train": stepper(model, lambda: 5e-5 * model.penalty() - model.log_prob(x).mean(), adam),
        "forward": without_gradients(model, lambda: model.log_prob(x)),
        "inverse": without_gradients(model, lambda: model.sample(torch.randn(BATCH, *SHAPE))),
    }


def normflows_glow(generator):
    nf = pytest.importorskip("normflows", reason="pip install normflows: Glow is timed against it")
    levels, steps, hidden, channels = 3, 8, 256, 3
    bases, merges, flows = [], [], []
    for level in range(levels):
        wide = channels * 2 ** (levels + 1 - level)
        blocks = [nf.flows.GlowBlock(wide, hidden, split_mode="channel", scale=True) for _ in range(steps)]
        flows.append([*blocks, nf.flows.Squeeze()])
        halved = channels * 2 ** (levels - level) if level else wide
        side = SHAPE[1] // 2 ** (levels - level)
        bases.append(nf.distributions.DiagGaussian((halved, side, side)))
        if level:
            merges.append(nf.flows.Merge())
    model = nf.MultiscaleFlow(bases, flows, merges)
    x = (images(generator).float() + torch.rand(BATCH, *SHAPE, generator=generator)) / 256
    with torch.no_grad():
        model.log_prob(x)
    return model, {
        "train": stepper(model, lambda: model.forward_kld(x), torch.optim.Adamax(model.parameters(), lr=1e-4)),
        "forward": without_gradients(model, lambda: model.log_prob(x)),
        "inverse": without_gradients(model, lambda: model.sample(BATCH)),
    }


OTHERS = {
    "the plain PyTorch way": (plain_real_nvp, "real_nvp/cifar10", [], 0.0),
    "normflows": (normflows_glow, "glow/cifar10", ["model.steps=8", "model.hidden=256"], 0.03),
}


def peak(make, name, clock):
    """Peak memory of a model's pass with nothing else alive."""
    gc.collect()
    model, run = make(name)
    run()
    return clock.peak_memory(run), model


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("against", OTHERS)
def test_ours_is_faster_and_takes_no_more_memory(benchmark, ratios, against, name):
    make_theirs, experiment, keys, tolerance = OTHERS[against]
    clock, generator = Device(CPU), torch.Generator().manual_seed(0)

    def ours(name):
        subject = make_subject(load_experiment(experiment, keys), BATCH, CPU)
        return subject.model, PASSES[name](subject, compiled=False)

    def theirs(name):
        model, passes = make_theirs(generator)
        return model, passes[name]

    memories = [peak(make, name, clock)[0] for make in (ours, theirs)]
    (our_model, our_run), (their_model, their_run) = ours(name), theirs(name)
    counts = [sum(p.numel() for p in model.parameters() if p.requires_grad) for model in (our_model, their_model)]
    assert counts[0] == pytest.approx(counts[1], rel=tolerance)
    wall, work = alternate([our_run, their_run], clock, ROUNDS)
    benchmark.pedantic(our_run, rounds=1)
    ratio = float(np.median(work[1] / work[0]))
    generator = np.random.default_rng(0)
    resampled = np.median((work[1] / work[0])[generator.integers(0, ROUNDS, (RESAMPLES, ROUNDS))], axis=1)
    low, high = np.quantile(resampled, (0.025, 0.975))
    benchmark.extra_info.update(
        against=against, ratio=ratio, low=low, high=high, wall_ratio=float(np.median(wall[1] / wall[0])),
        peak_memory_bytes=memories[0], their_peak_memory_bytes=memories[1], threads=torch.get_num_threads(),
        their_images_per_second=float(np.median(BATCH / wall[1])), images_per_second=float(np.median(BATCH / wall[0])),
    )  # fmt: skip
    shown = ["–" if memory is None else f"{memory / 1e6:,.0f} MB" for memory in memories]
    ratios.append([f"{experiment} {name}, batch {BATCH}", against, f"{ratio:.2f} ({low:.2f}–{high:.2f})", *shown])
    assert high > 1
