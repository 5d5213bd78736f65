import math
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flowbench.densities.flows.tarflow import TarFlow
from flowbench.throughput.convolutions import Floor, record
from flowbench.throughput.device import Device


class Small(nn.Module):
    """A module convolution, a functional one twice, and a matrix product."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.kernels = nn.Parameter(torch.randn(4, 4, 1, 1))
        self.linear = nn.Linear(4, 2)

    def forward(self, x):
        y = self.conv(x)
        y = F.conv2d(F.conv2d(y, self.kernels), self.kernels)
        return self.linear(y.movedim(1, -1)).sum()


@pytest.fixture
def model():
    return Small()


def counts(calls):
    return {(str(operator), len(arguments[0][0])): count for (operator, arguments), count in calls.items()}


def test_every_convolution_of_a_pass_is_recorded_with_its_count(model):
    x = torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        calls = record(lambda: model(x))
    assert sorted(calls.values()) == [1, 2]


def test_gradients_are_convolutions_too_and_the_first_needs_none_for_its_input(model):
    x = torch.randn(2, 3, 6, 6)
    calls = record(lambda: model(x).backward())
    backward = {key: count for key, count in calls.items() if "backward" in str(key[0])}
    assert sum(calls.values()) == 6
    assert sum(backward.values()) == 3
    masks = [arguments[-1] for (_, arguments), _ in backward.items()]
    assert (False, True, True) in masks  # images need no gradient


def test_the_floor_replays_what_was_recorded(model):
    x = torch.randn(2, 3, 6, 6)
    calls = record(lambda: model(x).backward())
    floor = Floor(calls, torch.device("cpu"), lambda: None)
    assert floor
    again = record(floor)
    assert again == calls


def test_the_floor_is_launched_as_the_pass_is(model):
    calls = record(lambda: model(torch.randn(2, 3, 6, 6)).backward())
    launched = []

    def launching(run):
        return lambda: launched.append(run()) or run

    floor = Floor(calls, torch.device("cpu"), lambda: None, launching)
    tried = len(launched)
    assert tried >= 2  # the choice between the layouts is made that way as well
    assert record(floor) == calls
    assert len(launched) == tried + 1


@pytest.fixture
def graphs(monkeypatch):
    """CUDA's graphs as far as they are asked for: what is called inside `torch.cuda.graph` is captured, not run."""
    captured = []

    class Graph:
        def replay(self):
            self.replays = getattr(self, "replays", 0) + 1

    @contextmanager
    def capturing(graph):
        captured.append(graph)
        yield

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", capturing)
    for name in ("Stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, lambda device: SimpleNamespace(wait_stream=lambda other: None))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    return captured


def test_on_a_gpu_what_a_floor_does_is_captured_once_and_replayed(graphs):
    runs = []
    replay = Device(torch.device("cuda")).as_graph(lambda: runs.append(len(graphs)))
    assert runs == [0, 1]  # once before, once captured
    replay()
    replay()
    assert runs == [0, 1]
    assert graphs[0].replays == 2
    run = lambda: None  # noqa: E731
    assert Device(torch.device("cpu")).as_graph(run) is run


def test_a_pass_without_convolutions_and_matrix_products_has_no_floor():
    scale = nn.Parameter(torch.ones(2))
    calls = record(lambda: (scale * torch.randn(3, 2)).sum().backward())
    assert not Floor(calls, torch.device("cpu"), lambda: None)


def test_without_convolutions_the_floor_is_the_matrix_products_attention_included():
    torch.manual_seed(0)
    flow = TarFlow((1, 4, 4), patch=1, width=8, blocks=1, layers=1, head=4)

    def run():
        z, log_det = flow(torch.zeros(3, 1, 4, 4))
        (z.sum() - log_det.sum()).backward()

    calls = record(run)
    flops = 0
    for (operator, arguments), count in calls.items():
        (first, _), (second, _) = arguments[-2:] if operator is not torch.ops.aten.baddbmm.default else arguments[1:3]
        flops += count * 2 * math.prod(first) * second[-1]
    # Per image: see tests/evaluation/test_flops.py; the gradients cost twice as much, but for the first layer's input.
    linear, first_layer, attention = 16 * (8 * 1 + 12 * 64 + 8 * 2), 16 * 8 * 1, 2 * 16 * 16 * 8
    assert flops == 3 * 2 * (3 * (linear + attention) - first_layer)
    floor = Floor(calls, torch.device("cpu"), lambda: None)
    assert floor
    assert record(floor) == calls
