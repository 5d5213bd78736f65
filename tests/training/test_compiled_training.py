"""Validation and evaluation measure the weights of today, however these were moved."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule

from flowbench.config.experiments import load_experiment
from flowbench.config.schema import COMPILED_NUMERICS, Optim
from flowbench.data import Images, open_split
from flowbench.data.feed import batches_in_order
from flowbench.densities.flows.derived import Derived
from flowbench.densities.model import DensityModel
from flowbench.densities.modes import evaluating
from flowbench.densities.noise import training_noise
from flowbench.evaluation.likelihood import evaluate
from flowbench.evaluation.measuring import Request
from flowbench.evaluation.reported import Setting
from flowbench.evaluation.weights import WeightAverage
from flowbench.runs.folder import RunFolder
from flowbench.tasks import density as density_task
from flowbench.tasks.density import build_density
from flowbench.tasks.loading import evaluate_run
from flowbench.training.loop import train
from flowbench.training.optimization import make_optimizer, take_step

MODELS = {
    "real_nvp": ["model.scales=1", "model.residual_blocks=1", "model.features=2"],
    "glow": ["model.levels=1", "model.steps=1", "model.hidden=4"],
}
OPTIMIZERS = ("adam", "adamw", "adamax")
RAW = Setting(training_batch_size=40)
WAYS = {
    "raw, population": RAW,
    "raw, running": replace(RAW, batch_norm="running"),
    "ema": replace(RAW, weights="ema"),
}


@cache
def images() -> Images:
    return open_split("digits", "train").subset(np.arange(40))


def built(name: str) -> DensityModel:
    torch.manual_seed(0)
    model = build_density(
        load_experiment(f"{name}/digits", MODELS[name]), {"shape": images().shape, "levels": images().levels}
    )
    model.initialize(*batch())
    return model


@cache
def batch() -> tuple[Tensor, Tensor]:
    ((_, pixels),) = batches_in_order(images(), batch_size=40, device=torch.device("cpu"))
    return pixels, training_noise(0, 0, tuple(pixels.shape), "cpu")


def bits_per_dim(model: DensityModel, average: WeightAverage, setting: Setting) -> float:
    """What validation and evaluation would report now; kept kernels stay."""
    training = None if setting.batch_norm == "running" else images()
    measured = evaluate(model, images(), replace(setting, other_mode=False), training=training, average=average)
    value: float = measured.metrics["bits_per_dim"]["value"]
    return value


def drop_what_is_derived(model: DensityModel) -> None:
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, Derived):
                value._key = value._value = None


def assert_figures_are_of_the_weights_of_now(model: DensityModel, loss: Callable[[], Tensor], optimizer: str) -> None:
    """Train between evaluations, `loss` leaving gradients, and compare with figures that nothing was kept for."""
    parameters = list(model.parameters())
    stepping = make_optimizer(parameters, Optim(name=optimizer, lr=0.02))  # type: ignore[arg-type]
    # Each way in its turn: to put averages in place and back counts as a change.
    for way, setting in WAYS.items():
        average = WeightAverage(model, 0.5)
        seen = []
        for step in range(3):
            model.train()
            _, taken = take_step(stepping, parameters, loss(), 100)
            assert taken == 1
            average.update(step)
            seen.append(bits_per_dim(model, average, setting))
            drop_what_is_derived(model)
            assert seen[-1] == bits_per_dim(model, average, setting), way
        assert len(set(seen)) == 3


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", MODELS)
def test_figures_are_of_the_last_step_where_the_loss_leaves_nothing_but_gradients(name: str, optimizer: str) -> None:
    # As a compiled one does: a twin computes them, with the weights of the model itself.
    model = built(name)
    twin = copy.deepcopy(model)
    for own, others in zip(twin.parameters(), model.parameters(), strict=True):
        own.data = others.data

    def loss() -> Tensor:
        for own, others in zip(twin.parameters(), model.parameters(), strict=True):
            own.grad = others.grad
        value = -twin.terms(*batch()).log_prob.mean()
        value.backward()
        return value

    assert_figures_are_of_the_weights_of_now(model, loss, optimizer)


GRAPHS: list[GraphModule] = []
"""What was traced of the model of `compiled`."""


@pytest.fixture(scope="module", params=MODELS)
def compiled(request: pytest.FixtureRequest) -> Iterator[tuple[DensityModel, Any]]:
    """A model and its compiled terms: traced once for all optimizers. Where the graph would break, it raises."""
    from torch._dynamo.backends.registry import lookup_backend

    def recording(graph: GraphModule, inputs: list[Tensor]) -> Any:
        GRAPHS.append(graph)
        return lookup_backend("aot_eager")(graph, inputs)

    torch.compiler.reset()
    GRAPHS.clear()
    model = built(request.param)
    yield model, torch.compile(model.terms, dynamic=False, fullgraph=True, backend=recording)
    torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_figures_of_compiled_training_are_of_the_last_step(compiled: tuple[DensityModel, Any], optimizer: str) -> None:
    model, terms = compiled

    def loss() -> Tensor:
        value: Tensor = -terms(*batch()).log_prob.mean()
        value.backward()
        return value

    assert_figures_are_of_the_weights_of_now(model, loss, optimizer)


@pytest.mark.slow
def test_compiled_training_drops_what_evaluation_kept_and_is_traced_once(compiled: tuple[DensityModel, Any]) -> None:
    from torch._dynamo.utils import counters

    model, terms = compiled
    kept = [one for module in model.modules() for one in vars(module).values() if isinstance(one, Derived)]
    model.train()
    terms(*batch())
    traced = counters["stats"]["unique_graphs"]
    for _ in range(2):
        with torch.no_grad(), evaluating(model):
            model.terms(*batch())
        assert any(one._value is not None for one in kept)
        terms(*batch())
        assert all(one._value is None for one in kept)
    assert counters["stats"]["unique_graphs"] == traced


@pytest.mark.slow
def test_one_graph_serves_a_whole_training_and_finds_weights_and_statistics_where_they_are(
    compiled: tuple[DensityModel, Any],
) -> None:
    model, terms = compiled
    parameters = list(model.parameters())
    average = WeightAverage(model, 0.5)
    optimizer = make_optimizer(parameters, Optim(lr=0.02))
    for step, rate in enumerate((0.02, 0.01, 0.005)):
        model.train()
        optimizer.param_groups[0]["lr"] = rate
        loss = -terms(*batch()).log_prob.mean()
        loss.backward()
        take_step(optimizer, parameters, loss, 100)
        average.update(step)
        for setting in WAYS.values():
            bits_per_dim(model, average, setting)
        model.load_state_dict(model.state_dict())
    (graph,) = GRAPHS
    # What is no static input is copied into the CUDA graph's memory at each of its replays.
    inputs = [node for node in graph.graph.nodes if node.op == "placeholder"]
    copied = [node.name for node in inputs if not node.meta.get("tensor_dict", {}).get("_dynamo_static_input_type")]
    assert len(copied) == 2, copied  # images and noise
    assert len(inputs) - 2 > len(parameters)  # buffers, too


@pytest.mark.slow
def test_a_compiled_run_reports_what_its_checkpoint_is_measured_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = torch.compile
    monkeypatch.setattr(
        density_task.torch, "compile", lambda function, **_: plain(function, dynamic=False, backend="aot_eager")
    )
    torch.compiler.reset()
    keys = ["train.steps=4", "train.validate_every=2", "train.ema=0", "data.holdout=40", "train.compile=true"]
    experiment = load_experiment("glow/digits", [*MODELS["glow"], *keys, "optim.name=adam", "evaluate.draws=1"])
    result = train(experiment, tmp_path / "run")
    assert result["numerics"]["compiled"] == COMPILED_NUMERICS
    again, _ = evaluate_run(RunFolder(tmp_path / "run"), Request())
    assert result["metrics"]["test"]["bits_per_dim"] == again["metrics"]["test"]["bits_per_dim"]
    torch.compiler.reset()
