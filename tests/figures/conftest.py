"""Runs of a few steps on the digits, to draw."""

from collections.abc import Callable
from pathlib import Path

import pytest

from flowbench.config.experiments import load_experiment
from flowbench.figures.kinds import Subject
from flowbench.runs.folder import RunFolder
from flowbench.tasks.loading import load_run, reported_step
from flowbench.training.loop import train

TINY = {
    "glow": ["glow/digits", "model.steps=1", "model.hidden=4"],
    "real_nvp": ["real_nvp/digits", "model.features=2"],
    "nice": ["nice/digits", "model.features=2", "model.couplings=2", "model.residual_blocks=1"],
    "iafvae": ["iafvae/digits", "model.blocks=1", "model.latents=2", "model.features=4"],
    "independent": ["independent/digits"],
    "pixelcnn": ["pixelcnn/digits", "model.blocks=1", "model.filters=2", "model.components=2"],
}
SHORT = ["train.steps=3", "evaluate.draws=1", "data.batch_size=16"]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], RunFolder]:
    """Return a function from a model's name to a finished run of it, trained once, without pictures."""
    runs: dict[str, RunFolder] = {}

    def run_of(model: str) -> RunFolder:
        if model not in runs:
            name, *changes = TINY[model]
            folder = tmp_path_factory.mktemp(model)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("flowbench.training.loop.draw_at_end", lambda run: [])
                changes += SHORT if model != "independent" else []
                train(load_experiment(name, changes), folder)
            runs[model] = RunFolder(folder)
        return runs[model]

    return run_of


@pytest.fixture
def subject(
    trained: Callable[[str], RunFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Subject]:
    """Return a function from a model's name to its run, opened to be drawn into a folder of the test's own."""

    def open_run(model: str) -> Subject:
        import torch

        run = trained(model)
        here = RunFolder(run.path)
        monkeypatch.setattr(RunFolder, "figures", tmp_path / "figures")
        return Subject(here, run.experiment, load_run(run.path), reported_step(run), torch.device("cpu"))

    return open_run
