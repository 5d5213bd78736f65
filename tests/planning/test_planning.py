"""Plans: counts against known figures, and that what is measured is measured where a step is affordable."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from torch import Tensor

from flowbench.cli.dry_run import _in_all
from flowbench.config.experiments import load_experiment
from flowbench.data import feed
from flowbench.errors import InputError
from flowbench.planning import costs, estimate, plan, stored_speed
from flowbench.planning.costs import count
from flowbench.planning.probe import WARM_UP, measure
from flowbench.system.threads import ONE_THREAD
from flowbench.tasks.forecast import HandDerivedForecastLoss

TINY = ["model.features=4", "evaluate.draws=2"]


def test_parameters_flops_and_passes_are_counted() -> None:
    experiment = load_experiment("real_nvp/digits", TINY)
    counted = count(experiment)
    assert counted.parameters == sum(
        parameter.numel() for parameter in experiment.model.build((1, 8, 8), 17).parameters()
    )
    # Backward costs the gradients of inputs and of weights: twice the forward pass, less the first layers' inputs.
    assert 2.5 * counted.forward_flops < counted.training_flops <= 3 * counted.forward_flops
    assert counted.steps == 800
    assert counted.evaluated == 2 * (360 + 1437)
    assert counted.normalized_steps == 0
    assert counted.data_bytes == 0


@pytest.mark.parametrize("name", ["tarflow/digits", "glow/digits", "pixelcnn/digits", "real_nvp/digits-adversarial"])
def test_a_large_model_is_counted_by_its_shapes_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    computed = count(load_experiment(name))
    monkeypatch.setattr(costs, "MOST_COMPUTED", 0)
    assert count(load_experiment(name)) == computed


@pytest.mark.parametrize(("name", "training"), [("imagenet64", 14.66), ("lsun-bedroom", 104.12)])
def test_a_set_that_does_not_fit_is_planned_as_the_feed_streams_it(
    name: str, training: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = load_experiment(f"real_nvp/{name}", ["model.features=1", "model.residual_blocks=1", "model.scales=1"])
    for gigabytes, stays in ((16, False), (400, True)):
        monkeypatch.setattr(
            feed.psutil, "virtual_memory", lambda size=gigabytes: SimpleNamespace(available=size * 2**30)
        )
        counted = count(experiment)
        assert counted.training_bytes / 2**30 == pytest.approx(training, abs=0.01)
        assert counted.held is stays
        ahead = (feed.PREFETCH + 1) * experiment.data.batch_size * 3 * 64 * 64
        assert counted.resident_bytes == (2 * counted.training_bytes if stays else ahead)
    monkeypatch.setattr(estimate, "count", lambda _: replace(counted, held=False))
    monkeypatch.setattr(estimate, "_affordable", lambda *_: False)
    lines = plan(experiment).lines
    assert (
        lines[4]
        == f"  images      {training:.1f} GiB to train on, streamed from disk: more than 40 % of the free memory"
    )
    assert lines[5].startswith("  time        unknown for")


def test_batch_norm_evaluates_twice_and_estimates_statistics() -> None:
    counted = count(load_experiment("real_nvp/digits", [*TINY, "model.batch_norm=true", "evaluate.weights=raw"]))
    assert counted.evaluated == 2 * 2 * (360 + 1437)
    assert counted.normalized_steps == 3 * (1437 // 64)


def test_activations_grow_with_the_batch() -> None:
    small, large = (count(load_experiment("real_nvp/digits", [*TINY, f"data.batch_size={n}"])) for n in (32, 64))
    assert large.activation_bytes == 2 * small.activation_bytes > 0


def test_a_few_real_steps_are_measured_in_this_process_too() -> None:
    costs = measure(load_experiment("real_nvp/digits", TINY), 0.2)
    assert costs["step_seconds"] > 0
    assert costs["item_seconds"] > 0
    assert costs["peak_bytes"] > 100 * 2**20


def test_a_plan_measures_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "_probe", lambda experiment, _: measure(experiment, 0.2))
    one = plan(load_experiment("real_nvp/digits", TINY))
    assert one.seconds is not None
    assert one.memory_how.startswith("measured on")
    assert one.lines[0].startswith("real_nvp/digits, seed 0")


@pytest.mark.parametrize(
    ("load", "cpu_seconds", "said"),
    [
        (None, 0.1, None),
        ("load 9.0 on 2 cores", 0.02, "measured on a busy machine (load 9.0 on 2 cores), so too slow, about "),
        (None, 0.05, "measured on a busy machine (it had 50% of a core), so too slow, about "),
    ],
)
def test_a_plan_says_when_its_steps_were_measured_on_a_busy_machine(
    monkeypatch: pytest.MonkeyPatch, load: str | None, cpu_seconds: float, said: str | None
) -> None:
    probed = {"step_seconds": 0.1, "step_cpu_seconds": cpu_seconds, "item_seconds": 0.01, "peak_bytes": 2**30}
    probed |= {"steps": 3, "device": "a processor", "device_type": "cpu", "threads": 1}
    monkeypatch.setattr(estimate, "_probe", lambda *_: probed)
    monkeypatch.setattr(estimate, "busy", lambda _: load)
    one = plan(load_experiment("real_nvp/digits", TINY))
    time, disk = one.lines[4], one.lines[-1]
    assert time.startswith("  time        at most " if said else "  time        ")
    assert disk.startswith("  disk ")
    assert (one.busy is None) == (said is None) == ("at most" not in time)
    if said:
        assert one.seconds is not None
        assert one.free_seconds == pytest.approx(one.seconds * cpu_seconds / 0.1)
        assert said in one.lines[5]


@pytest.mark.slow
def test_a_step_that_would_take_minutes_is_computed_and_stored_speed_gives_the_hours(tmp_path: Path) -> None:
    huge = load_experiment("real_nvp/celeba", ["data.batch_size=4096", "model.residual_blocks=1"])
    one = plan(huge)
    assert one.seconds is None
    assert one.memory_how.startswith("computed")
    assert one.memory_bytes > one.counted.activation_bytes > 2**30
    path = tmp_path / "speed.json"
    path.write_text(json.dumps(speeds(("real_nvp/celeba model.residual_blocks=1", 4096, 500.0))))
    fast = plan(huge, stored_speed(path, huge))
    assert fast.seconds is not None
    assert fast.seconds > one.counted.steps * 4096 / 500
    assert "500 items/s on A GPU" in fast.time_how


def speeds(*entries: tuple[str, int, float], **changes: Any) -> dict[str, Any]:
    known = {"pass": "train", "precision": 32, "compiled": False, **changes}
    results = [
        {**known, "experiment": name, "batch": batch, "images_per_second": {"median": speed}}
        for name, batch, speed in entries
    ]
    return {"environment": {"device_name": "A GPU"}, "results": results}


def test_a_stored_speed_is_that_of_the_very_model_batch_and_precision(tmp_path: Path) -> None:
    path, digits = tmp_path / "speed.json", load_experiment("real_nvp/digits")
    stored = speeds(
        ("real_nvp/digits", 256, 4000.0),
        ("real_nvp/digits", 64, 100.0),
        ("real_nvp/digits model.features=8", 64, 900.0),
    )
    fast = speeds(("real_nvp/digits", 64, 5000.0), precision="bf16", compiled=True)
    path.write_text(json.dumps({**stored, "results": [*fast["results"], *stored["results"]]}))
    assert stored_speed(path, digits) == (100.0, "A GPU")
    assert stored_speed(path, load_experiment("real_nvp/digits", ["model.features=8", "seed=3"])) == (900.0, "A GPU")
    assert stored_speed(path, load_experiment("real_nvp/digits", ["model.features=16"])) is None
    assert stored_speed(path, load_experiment("glow/digits")) is None
    path.write_text("{}")
    with pytest.raises(InputError, match="no results of flowbench throughput run"):
        stored_speed(path, digits)


def test_a_forecaster_is_planned_from_its_file(tmp_path: Path) -> None:
    import numpy as np
    import pandas as pd

    dates = pd.date_range("2024-01-01", periods=400, freq="h")
    pd.DataFrame({"date": dates, "x": np.arange(400.0)}).to_csv(tmp_path / "mine.csv", index=False)
    changes = [f"data.csv={tmp_path / 'mine.csv'}", "data.protocol=ratio", "data.lookback=48", "data.horizon=6"]
    counted = count(load_experiment("etth/linear", changes))
    assert counted.parameters == 48 * 6 + 6
    assert counted.forward_flops == 2 * 48 * 6
    assert measure(load_experiment("etth/linear", changes), 0.05)["step_seconds"] > 0


def test_a_linear_forecaster_is_timed_as_it_is_trained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[int] = []

    def leave(self: HandDerivedForecastLoss, *batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        asked.append(len(batch))
        return gradients(self, *batch)

    gradients = HandDerivedForecastLoss.leave_gradients
    monkeypatch.setattr(HandDerivedForecastLoss, "leave_gradients", leave)
    csv = tmp_path / "mine.csv"
    frame = pd.DataFrame({"date": pd.date_range("2024-01-01", periods=400, freq="h"), "OT": np.arange(400.0)})
    frame.to_csv(csv, index=False)
    windows = [f"data.csv={csv}", "data.protocol=ratio", "data.lookback=24", "data.horizon=6"]
    measured = measure(load_experiment("etth/nlinear", windows), 0.1)
    assert len(asked) == measured["steps"] + WARM_UP


def test_runs_of_a_table_are_planned_with_one_thread_each(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Mapping[str, str]] = []
    probed = estimate._probe

    def probe(experiment: Any, variables: Mapping[str, str]) -> dict[str, Any]:
        told.append(variables)
        return probed(experiment, variables)

    monkeypatch.setattr(estimate, "_probe", probe)
    monkeypatch.setattr(estimate, "PROBE_SECONDS", 0.1)
    small = load_experiment("real_nvp/digits", ["model.features=2", "data.batch_size=4"])
    assert ", 1 threads" in plan(small, one_thread=True).time_how
    assert told == [ONE_THREAD]


def test_side_by_side_a_table_takes_no_less_than_its_longest_run() -> None:
    plans = [{"seconds": seconds, "busy": None} for seconds in (600, 60, 60)]
    assert _in_all(plans, 3, 2) == "in all: 3 runs, 10 min 2 at a time"
    assert _in_all(plans, 3, 1) == "in all: 3 runs, 12 min one after the other"
