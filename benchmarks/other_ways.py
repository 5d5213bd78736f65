"""Ways to compute the same, each in a process of its own; `compare` lets them take turns.

All compute with as many threads. Ours and the others keep what they free, and the images of both lie in channels-last:
anybody may switch that on. `out_of_the_box` is another way as one finds it before.
"""

import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from plain_real_nvp import PlainRealNVP
from plain_tarflow import PlainTarFlow
from torch import nn

from flowbench.config.experiments import load_experiment
from flowbench.system.device import prepare_to_compute
from flowbench.throughput.device import Device
from flowbench.throughput.passes import PASSES, make_subject
from flowbench.throughput.statistics import Samples, interval

CPU = torch.device("cpu")
SHAPE = (3, 32, 32)
LAYOUT = torch.channels_last
Pass = Callable[[], object]


@dataclass(frozen=True)
class Way:
    """`make(*arguments)` gives a pass and the number of its trained values, in the process that runs it."""

    make: Callable[..., tuple[Pass, int]]
    arguments: tuple[Any, ...] = ()
    keeps_memory: bool = True
    """Whether the process keeps what it frees, as all of flowbench's do."""


def out_of_the_box(make: Callable[..., tuple[Pass, int]], *arguments: Any) -> Way:
    """Return a way of others as one finds it: memory is given back and taken anew, images are contiguous."""
    return Way(make, (*arguments, torch.contiguous_format), keeps_memory=False)


def ours(name: str, batch: int, experiment: str, keys: list[str]) -> tuple[Pass, int]:
    subject = make_subject(load_experiment(experiment, keys), batch, CPU)
    return PASSES[name](subject, compiled=False), subject.parameters


def plain(name: str, batch: int, layout: torch.memory_format = LAYOUT) -> tuple[Pass, int]:
    model = PlainRealNVP(SHAPE, scales=2, features=64, blocks=8).to(memory_format=layout)  # type: ignore[call-overload]
    x = torch.randint(0, 256, (batch, *SHAPE), dtype=torch.uint8).to(memory_format=layout)
    with torch.no_grad():
        model.log_prob(x)
    parameters = trained(model)
    passes = {
        "train": stepper(
            model, lambda: 5e-5 * model.penalty() - model.log_prob(x).mean(), torch.optim.Adam(parameters)
        ),
        "forward": without_gradients(model, lambda: model.log_prob(x)),
        "inverse": without_gradients(model, lambda: model.sample(torch.randn(batch, *SHAPE).to(memory_format=layout))),
    }
    return passes[name](), sum(parameter.numel() for parameter in parameters)


def plain_tarflow(name: str, batch: int, layout: torch.memory_format = LAYOUT) -> tuple[Pass, int]:
    model = PlainTarFlow(SHAPE[1], patch=4, width=128, blocks=4, layers=2, head=64)
    x = torch.randint(0, 256, (batch, *SHAPE), dtype=torch.uint8).to(memory_format=layout)
    for block in model.blocks:
        # So small that sampling, as from a trained model, stays among finite numbers.
        nn.init.normal_(block.proj_out.weight, std=0.01)  # type: ignore[union-attr, arg-type]
    parameters = trained(model)
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, betas=(0.9, 0.95), weight_decay=1e-4)
    latents = torch.randn(batch, 64, 48)
    passes = {
        "train": stepper(model, lambda: model.loss(x), optimizer),
        "forward": without_gradients(model, lambda: model.loss(x)),
        "inverse": without_gradients(model, lambda: model.sample(latents)),
    }
    return passes[name](), sum(parameter.numel() for parameter in parameters)


def normflows_glow(name: str, batch: int, layout: torch.memory_format = LAYOUT) -> tuple[Pass, int]:
    import normflows as nf

    levels, steps, hidden, channels = 3, 8, 256, 3
    bases, merges, flows = [], [], []
    for level in range(levels):
        wide = channels * 2 ** (levels + 1 - level)
        blocks = [nf.flows.GlowBlock(wide, hidden, split_mode="channel", scale=True) for _ in range(steps)]
        flows.append([*blocks, nf.flows.Squeeze()])
        side = SHAPE[1] // 2 ** (levels - level)
        bases.append(nf.distributions.DiagGaussian((wide // 2 if level else wide, side, side)))
        merges += [nf.flows.Merge()] if level else []
    model = nf.MultiscaleFlow(bases, flows, merges, class_cond=False).to(memory_format=layout)
    x = torch.rand(batch, *SHAPE).to(memory_format=layout)
    with torch.no_grad():
        model.log_prob(x, None)
    parameters = trained(model)
    passes = {
        # Glow's presets do not clip.
        "train": stepper(model, lambda: model.forward_kld(x), torch.optim.Adamax(parameters, lr=1e-4), clip_norm=None),
        "forward": without_gradients(model, lambda: model.log_prob(x, None)),
        "inverse": without_gradients(model, lambda: model.sample(batch)),
    }
    return passes[name](), sum(parameter.numel() for parameter in parameters)


def compare(ways: Sequence[Way], rounds: int, threads: int) -> tuple[Samples, Samples, list[tuple[int, int | None]]]:
    """Time ways in turn: what disturbs the machine disturbs all.

    Args:
        ways: what is timed.
        rounds: of all.
        threads: of each.

    Returns:
        Seconds on the wall's clock and of the processor (`Device.time`), both (ways, rounds); parameters and peak
        memory of each.
    """
    context = multiprocessing.get_context("spawn")
    pipes, facts = [], []
    for way in ways:
        here, there = context.Pipe()
        context.Process(target=_work, args=(there, threads, way), daemon=True).start()
        facts.append(here.recv())
        pipes.append(here)
    rows = []
    for _ in range(rounds):
        row = []
        for pipe in pipes:
            pipe.send("again")
            row.append(pipe.recv())
        rows.append(row)
    for pipe in pipes:
        pipe.send("done")
    wall, work = np.array(rows).transpose(2, 1, 0)
    return wall, work, facts


def megabytes(memory: int | None) -> str:
    return "–" if memory is None else f"{memory / 1e6:,.0f} MB"


def shown(samples: Samples) -> str:
    """Return the median and its 95 % interval."""
    return "{:.2f} ({:.2f}–{:.2f})".format(*interval(samples))


def _work(pipe: Connection, threads: int, way: Way) -> None:
    torch.set_num_threads(threads)
    if way.keeps_memory:
        prepare_to_compute()
    torch.manual_seed(0)
    clock = Device(CPU)
    run, parameters = way.make(*way.arguments)
    run()
    pipe.send((parameters, clock.peak_memory(run)))
    while pipe.recv() == "again":
        pipe.send(clock.time(run))


def trained(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def stepper(
    model: torch.nn.Module,
    loss: Callable[[], torch.Tensor],
    optimizer: torch.optim.Optimizer,
    clip_norm: float | None = 100,
) -> Any:
    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(trained(model), clip_norm)
        optimizer.step()

    return lambda: model.train() and step


def without_gradients(model: torch.nn.Module, run: Pass) -> Any:
    return lambda: model.eval() and torch.no_grad()(run)
