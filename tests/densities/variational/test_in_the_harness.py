"""What the suite does with any model, done with one that is no flow."""

import math

import pytest
import torch

import flowbench
from flowbench.config.experiments import load_experiment
from flowbench.evaluation.measuring import Request
from flowbench.figures.drawing import draw_run
from flowbench.planning.costs import count
from flowbench.runs.folder import RunFolder
from flowbench.tasks.loading import evaluate_run
from flowbench.throughput.measurement import measure_pass
from flowbench.trained.exporting import export_run
from flowbench.training.loop import train

TINY = ["model.blocks=1", "model.latents=2", "model.features=4"]
SHORT = ["model.free_bits=5", "train.steps=6", "train.log_every=2", "evaluate.draws=2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("iafvae") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flowbench.training.loop.draw_at_end", lambda run: [])
        train(load_experiment("iafvae/digits", [*TINY, *SHORT]), folder)
    return RunFolder(folder)


def test_the_result_says_what_the_figure_is(run):
    metric = run.result["metrics"]["test"]["bits_per_dim"]
    assert {name: metric[name] for name in ("bound", "dequantization", "draws", "levels", "weights")} == {
        "bound": "elbo",
        "dequantization": "none",
        "draws": 2,
        "levels": 17,
        "weights": "ema",
    }
    rows = [row for row in run.metrics() if "train/loss" in row]
    # The loss has free bits on top of the bound that is logged.
    assert all(row["train/loss"] > row["train/bits_per_dim"] * 64 * math.log(2) for row in rows)


def test_evaluate_adds_the_importance_weighted_bound(run):
    content, path = evaluate_run(run, Request(importance=8))
    plain, weighted = (content["metrics"]["test"][name] for name in ("bits_per_dim", "bits_per_dim_importance"))
    assert plain == run.result["metrics"]["test"]["bits_per_dim"]
    assert (weighted["bound"], weighted["K"]) == ("importance", 8)
    assert weighted["value"] < plain["value"]
    assert "importance8" in path.name


def test_an_exported_model_gives_the_same_figures(run, tmp_path):
    one, other = flowbench.load_run(run.path), flowbench.load_run(export_run(run, tmp_path / "bundle"))
    images = one.sample(4, generator=torch.Generator().manual_seed(0))
    bits = [model.bits_per_dim(images, draws=3, generator=torch.Generator().manual_seed(1)) for model in (one, other)]
    assert torch.equal(*bits)


def test_a_dry_run_and_throughput_need_no_flow():
    experiment = load_experiment("iafvae/digits", TINY)
    planned = count(experiment)
    assert planned.evaluated == 8 * (360 + 1437)
    timed = measure_pass(experiment, "train", 4, torch.device("cpu"), 2)
    assert timed["flops_per_image"] == planned.training_flops
    assert timed["floor_ratio"]["median"] > 1
    assert timed["parameters"] == planned.parameters


@pytest.mark.slow
def test_every_picture_is_drawn_but_the_log_determinants(run):
    drawn = draw_run(run)
    assert [line.partition(":")[0] for line in drawn.left_out] == ["log_det"]
    assert {path.stem for path in drawn.paths} == {
        "compression", "extrapolation", "interpolation", "latents", "likelihood", "manifold", "outsiders",
        "reconstructions", "samples",
    }  # fmt: skip
