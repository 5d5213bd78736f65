"""The examples, run as people run them."""

import runpy
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.image import imread
from sklearn.datasets import make_moons

import flowbench as fb
from flowbench.config.experiments import load_experiment
from flowbench.data import open_split
from flowbench.runs.folder import RunFolder
from flowbench.trained.exporting import export_run
from flowbench.training.loop import train

EXAMPLES = Path(__file__).parent.parent / "examples"
Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(tmp_path)

    def call(name: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        with torch.random.fork_rng():
            runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return call


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    train(load_experiment("real_nvp/digits", ["model.features=4", "train.steps=4"]), folder / "run")
    return export_run(RunFolder(folder / "run"), folder / "exported")


def test_load_and_sample(run: Run, model: Path, tmp_path: Path) -> None:
    assert "64 samples of (1, 8, 8)" in run("sample.py", model, "out.png")
    assert imread(tmp_path / "out.png").std() > 0.1


def test_likelihood_of_ones_own_images(run: Run, model: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "mine.npy", open_split("digits", "test").array[:3])
    lines = run("likelihood.py", model, "mine.npy").splitlines()
    bits = [float(line.split()[2]) for line in lines]
    nats = [float(line.split()[-2]) for line in lines]
    assert len(lines) == 3
    assert nats == pytest.approx([-64 * np.log(2) * value for value in bits], abs=0.01)


@pytest.mark.slow
def test_a_flow_of_ones_own_fits_two_moons_better_than_a_gaussian(run: Run, tmp_path: Path) -> None:
    words = run("custom_flow.py", "moons.png").split()
    assert float(words[0]) < 2.3 < float(words[-1])
    assert imread(tmp_path / "moons.png").shape[:2] == (480, 960)


@pytest.mark.slow
def test_two_moons_integrate_to_one_and_come_near_a_zuko_flow_of_the_same_size(run: Run, tmp_path: Path) -> None:
    zuko = pytest.importorskip("zuko")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = zuko.flows.RealNVP(2, transforms=8, hidden_features=(64, 64))
        sizes = [sum(p.numel() for p in flow.parameters()) for flow in (fb.RealNVP(2), theirs)]
        nats = zuko_on_two_moons(theirs)
    assert sizes[0] == sizes[1]
    begun = time.process_time()
    words = run("two_moons.py", "moons.png").split()
    assert time.process_time() - begun < 20
    assert float(words[0]) < nats + 0.02
    assert float(words[-1]) == pytest.approx(1, abs=0.01)
    assert imread(tmp_path / "moons.png").std() > 0.1


def zuko_on_two_moons(flow: torch.nn.Module) -> float:
    """Train a zuko flow as examples/two_moons.py trains ours; return nats per test point."""
    points, test = (
        torch.tensor(make_moons(4000, noise=0.08, random_state=seed)[0], dtype=torch.float32) for seed in (0, 1)
    )
    optimizer = torch.optim.Adam(flow.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1000)
    for _ in range(1000):
        loss = -flow().log_prob(points[torch.randint(len(points), (256,))]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return -float(flow().log_prob(test).mean())


def test_forecasting_a_csv(run: Run, tmp_path: Path) -> None:
    hours = np.arange(400)
    frame = pd.DataFrame(
        {"date": pd.date_range("2024-01-01", periods=400, freq="h"), "load": np.sin(hours / 24 * 6.28)}
    )
    frame.to_csv(tmp_path / "mine.csv", index=False)
    assert "test MAE" in run("forecast_csv.py", "mine.csv", "next.csv")
    forecast = pd.read_csv(tmp_path / "next.csv", parse_dates=["date"])
    assert list(forecast["date"]) == list(pd.date_range("2024-01-17 16:00", periods=24, freq="h"))
    assert forecast["load_forecast"].between(-2, 2).all()
