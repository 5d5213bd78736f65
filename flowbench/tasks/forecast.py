"""What the training loop needs of a forecaster: batches of windows, loss, validation, exact errors on every window."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from flowbench.config.registry import series_sets
from flowbench.config.schema import Experiment, ForecastData
from flowbench.data.series import series_path, series_status
from flowbench.densities.noise import step_seed
from flowbench.errors import InputError, did_you_mean
from flowbench.evaluation.measuring import Request, limited, stem_of
from flowbench.evaluation.weights import WeightAverage, Weights, reported_weights
from flowbench.forecasting.distribution import DistributionForecaster
from flowbench.forecasting.errors import mean_errors, mean_errors_and_gradient
from flowbench.forecasting.forecaster import Forecaster, ForecasterConfig, LearnedConfig
from flowbench.forecasting.metrics import mae_under, measure, measure_nll, metrics, nll_under
from flowbench.forecasting.protocol import SPLITS, Scaler, Split, fit_scaler
from flowbench.forecasting.series import Series, parse_series, read_series
from flowbench.forecasting.steps import step_name
from flowbench.forecasting.windows import ForecastWindows, WindowFeed, open_windows
from flowbench.runs.folder import RunFolder
from flowbench.runs.same_data import fingerprints_here
from flowbench.system.atomic import replacing, write_json
from flowbench.system.processes import from_leader, place
from flowbench.tasks.hand_derived import HandDerived

__all__ = ["ForecastTask", "build_forecaster", "on_other_data", "open_known", "open_series", "run_scaler", "step_notes"]

ForecastExperiment = Experiment[ForecastData, ForecasterConfig]


def build_forecaster(experiment: ForecastExperiment, data: dict[str, Any]) -> Forecaster:
    """Build the untrained forecaster for the columns that `data` tells of."""
    return experiment.model.build(
        lookback=experiment.data.lookback,
        horizon=experiment.data.horizon,
        inputs=len(data["inputs"]),
        outputs=len(data["targets"]),
        rows_per_day=data["rows_per_day"],
    )


def run_scaler(data: dict[str, Any]) -> Scaler:
    """Return the scaler that a run was trained with, of the model's inputs, from its `environment.json`."""
    return Scaler(tuple(data["inputs"]), tuple(data["mean"]), tuple(data["std"]), tuple(data.get("constant", ())))


def step_notes(data: dict[str, Any], series: Series) -> list[str]:
    """Say so where a file's rows come at another step than those of the training that `environment.json` tells of."""
    here, learned = step_name(series.step), data.get("step")
    # Runs made before say their rows a day alone.
    if learned == here or (learned is None and data["rows_per_day"] == series.rows_per_day):
        return []
    there = f"{data['rows_per_day']} rows a day" if learned is None else f"steps of {learned}"
    return [f"{series.path.name} has steps of {here}: the model was trained on {there}"]


class ForecastLoss(nn.Module):
    """The loss of a batch: the mean squared or absolute error on normalized values."""

    def __init__(self, model: Forecaster, generator: torch.Generator, loss: Literal["mse", "mae"]) -> None:
        super().__init__()
        self.model = model
        self._generator = generator
        self._loss = loss

    def forward(self, history: Tensor, future: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and what is logged of it; windows as in `Windows.batch`."""
        forecast = self.model.training_forward(history, future, self._generator)
        squared, absolute = mean_errors(forecast, future, of=self._loss)
        return absolute if self._loss == "mae" else squared, {"mae": absolute}


class HandDerivedForecastLoss(ForecastLoss, HandDerived):
    """The loss of a batch of a forecaster that has a way back of its own: `has_way_back`."""

    def leave_gradients(self, *batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """See HandDerived; batch: as in `forward`."""
        history, future = batch
        forecast, pull_back = self.model.by_hand(history)
        squared, absolute, gradient = mean_errors_and_gradient(forecast, future, of=self._loss)
        pull_back(gradient)
        return absolute if self._loss == "mae" else squared, {"mae": absolute}


class DistributionLoss(nn.Module):
    """The loss of a batch of a forecaster of distributions: −log p(future | past), in nats a value."""

    def __init__(self, model: DistributionForecaster) -> None:
        super().__init__()
        self.model = model

    def forward(self, history: Tensor, future: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and what is logged of it; windows as in `Windows.batch`."""
        nats = -self.model.log_prob(future, history).mean() / future[0].numel()
        return nats, {"nll": nats}


@dataclass(frozen=True, eq=False)
class _Measured:
    """A file that is measured on."""

    windows: ForecastWindows
    name: str
    own: Scaler | None
    """What its own training would scale its targets by, where another file than the training's is asked for."""
    trained: dict[str, Any]
    """The `data` of the training's `environment.json`."""
    foreign: bool = False
    """Whether its content is not that of the run's own data."""

    @property
    def stem(self) -> str:
        """What its evaluations are called by: two contents never share a name."""
        return stem_of(self.name, self.windows.series.sha256 if self.foreign else None)

    @property
    def notes(self) -> list[str]:
        """What must be said beside its figures."""
        own = [] if self.own is None else [f"{self.name} itself: {note}" for note in self.own.notes]
        series = self.windows.series
        return [*series.notes, *step_notes(self.trained, series), *self.windows.scaler.notes, *own]


class ForecastTask:
    """A series, its windows under a protocol, and a forecaster of them.

    Args:
        experiment: what is trained.
        device: where it lives.
        trained: the `data` of a run's `environment.json`, where its model comes back: the windows are then scaled as
            those of the training were.
        asked: the file was asked for by name: the figure under the scaler of its own stands beside the run's.
    """

    unit: ClassVar[str] = "windows"
    opponent: ClassVar[None] = None

    def __init__(
        self,
        experiment: ForecastExperiment,
        device: torch.device,
        trained: dict[str, Any] | None = None,
        *,
        asked: bool = False,
    ) -> None:
        self._experiment = experiment
        config = experiment.data
        series = open_series(config, None if trained is None else trained.get("step"))
        self._windows = open_windows(
            series, config, device=device, scaler=None if trained is None else run_scaler(trained)
        )
        foreign = trained is not None and series.sha256 != trained["fingerprint"]
        scaler = self._windows.scaler
        own = (fit_scaler(series, config) if foreign else scaler).select(self._windows.targets) if asked else None
        self.data = _described(experiment, self._windows)
        self._here = self._test = _Measured(self._windows, self.data["name"], own, trained or self.data, foreign)
        if config.test_on is not None:
            other = open_series(config.tested)
            windows = open_windows(other, config.tested, device=device, scaler=scaler)
            own = fit_scaler(other, config.tested).select(windows.targets)
            self._test = _Measured(windows, config.test_on, own, self.data)
        self.model = build_forecaster(experiment, trained or self.data).to(device)
        self._rank, ranks = place()
        _check_batch_norm(experiment, self.model, ranks)
        self._feed = WindowFeed(
            self._windows.splits["train"],
            batch_size=config.batch_size,
            seed=experiment.seed,
            rank=self._rank,
            ranks=ranks,
        )
        self.batch_size = self._feed.batch_size
        self.steps_per_epoch = self._feed.steps_per_epoch
        self._generator = torch.Generator(device)
        self.monitor, self.objective = _objective(experiment.model, self.model, self._generator)

    def prepare(self) -> bool:
        """Fit in closed form, where the model has one or nothing to learn."""
        return self.model.fit(self._windows.splits["train"])

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return this process's history and future of a step; teacher forcing draws from (seed, step) too."""
        if self.model.draws:
            self._generator.manual_seed(step_seed("teacher forcing", self._experiment.seed, step))
            # What the processes before this one draw for their windows of the global batch.
            before = (self._rank * self._feed.local, self._experiment.data.horizon)
            torch.rand(before, generator=self._generator, device=self._generator.device)
        return self._feed.batch(step)

    def validate(self, average: WeightAverage | None, run: RunFolder | None = None) -> dict[str, float]:
        """Return MAE and MSE on the validation part, normalized; of a density its negative log-likelihood, a value.

        No samples are drawn: a flow's mean would take most of the time of a validation.
        """
        return from_leader(lambda: self._validated(average, run))

    def population(self, average: WeightAverage | None) -> dict[str, Tensor]:
        """Nothing: a forecaster that normalizes by batches reports its moving averages, which its weights come with."""
        return {}

    def evaluate(self, run: RunFolder, average: WeightAverage | None) -> tuple[dict[str, dict[str, Any]], list[str]]:
        """Measure every window of the test and the validation part; return metrics by split and notes."""
        return from_leader(lambda: self._evaluated(run, average))

    def _evaluated(self, run: RunFolder, average: WeightAverage | None) -> tuple[dict[str, dict[str, Any]], list[str]]:
        measured: dict[str, dict[str, Any]] = {}
        for split in ("test", "validation"):
            content, _ = self._measured(run, average, split)
            measured |= content["metrics"]
        config, notes = self._experiment.data, list(dict.fromkeys([*self._here.notes, *self._test.notes]))
        if config.test_on is not None:
            notes.append(f"tested on {config.test_on}, scaled as {self.data['name']} was in training")
        elif config.protocol == "report":
            notes.append(
                "report protocol: the scaler has seen the test rows, and they lie before the training rows in time"
            )
        return measured, notes

    def choose(self, run: RunFolder, average: WeightAverage | None) -> dict[str, dict[str, Any]]:
        """Measure every window of the validation part."""
        content, _ = self._measured(run, average, "validation")
        metrics: dict[str, dict[str, Any]] = content["metrics"]
        return metrics

    def measure(self, run: RunFolder, average: WeightAverage | None, request: Request) -> tuple[dict[str, Any], Path]:
        """Evaluate once more as asked, on another split; another file is another task's (see `trained`)."""
        for option in ("draws", "importance", "batch_norm", "samples"):
            if getattr(request, option) is not None:
                raise InputError(f"--{option.replace('_', '-')}: is for density models; this run is a forecast")
        if request.split not in (None, *SPLITS):
            raise InputError(f"--split {request.split}: a series has {', '.join(SPLITS)}")
        return self._measured(run, average, request.split or "test", request.limit, request.weights)

    def _validated(self, average: WeightAverage | None, run: RunFolder | None) -> dict[str, float]:
        distribution = isinstance(self.model, DistributionForecaster) and self.model.has_density
        if run is not None:
            content, _ = self._measured(run, average, "validation")
            names = ("nll",) if distribution else ("mae", "mse")
            return {name: content["metrics"]["validation"][name]["value"] for name in names}
        windows = self._windows.splits["validation"].first(self._experiment.evaluate.limit)
        with reported_weights(average, self._experiment.weights):
            if isinstance(self.model, DistributionForecaster) and distribution:
                return {"nll": measure_nll(self.model, windows)}
            errors = measure(self.model, windows)
        return {"mae": float(errors.absolute.mean()), "mse": float(errors.squared.mean())}

    def _measured(
        self,
        run: RunFolder,
        average: WeightAverage | None,
        split: str,
        limit: int | None = None,
        weights: Weights | None = None,
    ) -> tuple[dict[str, Any], Path]:
        """Measure one split and write it, with the errors of every window, into the run's evaluations."""
        own = self._experiment.weights
        weights = weights or own
        measured = self._test if split == "test" else self._here
        windows, name = measured.windows, measured.name
        whole, limit = windows.splits[_split(split)], limit or self._experiment.evaluate.limit
        some = whole.first(limit)
        with reported_weights(average, weights):
            errors = measure(self.model, some, seed=self._experiment.seed)
        scaler = windows.scaler.select(windows.targets)
        found = metrics(errors, scaler, self._experiment.data.unit)
        if measured.own is not None:
            found["mae_own_scaler"] = mae_under(errors, scaler, measured.own)
            if "nll" in errors.scores:
                found["nll_own_scaler"] = nll_under(errors, scaler, measured.own)
        if average is not None:
            found = {name: {**metric, "weights": weights} for name, metric in found.items()}
        parts = [split, measured.stem, *([weights] if weights != own else []), *([f"limit{limit}"] if limit else [])]
        path = run.evaluations / f"{'-'.join(parts)}.json"
        with replacing(path.with_suffix(".npy")) as temporary, temporary.open("wb") as file:
            np.save(file, errors.per_window)
        content = {
            "schema": 1,
            "dataset": name,
            "split": split,
            "data_fingerprint": windows.series.sha256,
            "horizon": self._experiment.data.horizon,
            "lookback": self._experiment.data.lookback,
            "first_origin": whole.first_origin,
            "metrics": {split: limited(found, len(some), len(whole))},
            "notes": measured.notes,
            "per_window": path.with_suffix(".npy").name,
            "per_window_columns": list(errors.columns),
        }
        write_json(path, content)
        return json.loads(path.read_text(encoding="utf-8")), path


def _described(experiment: ForecastExperiment, windows: ForecastWindows) -> dict[str, Any]:
    """Return the `data` of `environment.json`: all that a forecaster must know of what it was trained on."""
    config, series, scaler = experiment.data, windows.series, windows.scaler
    return {
        "name": config.name or series.path.stem,
        "fingerprint": series.sha256,
        "status": "unverified" if config.name is None else series_status(config.name),
        "numerics": 1 if config.name is None else series_sets[config.name].numerics,
        "rows": len(series),
        "rows_per_day": series.rows_per_day,
        "step": step_name(series.step),
        "inputs": list(scaler.columns),
        "targets": list(windows.targets),
        "mean": list(scaler.mean),
        "std": list(scaler.std),
        "constant": list(scaler.constant),
        "windows": {split: len(some) for split, some in windows.splits.items()},
        "fingerprints": fingerprints_here(experiment),
    }


def _objective(config: ForecasterConfig, model: Forecaster, generator: torch.Generator) -> tuple[str, nn.Module]:
    """Return what the best epoch is best in, and the loss of a batch."""
    if isinstance(model, DistributionForecaster) and model.has_density:
        return "nll", DistributionLoss(model)
    loss = config.loss if isinstance(config, LearnedConfig) else "mse"
    of = HandDerivedForecastLoss if model.has_way_back else ForecastLoss
    return loss, of(model, generator, loss)


def _check_batch_norm(experiment: ForecastExperiment, model: Forecaster, processes: int) -> None:
    """Refuse what would give a model that normalizes by batches other statistics than its weights were trained with."""
    if not any(isinstance(module, nn.BatchNorm1d) for module in model.modules()):
        return
    why = f"{experiment.model.name} normalizes by batches as this experiment has it"
    if experiment.train.ema:
        raise InputError(f"train.ema: {why}, and averaged weights have no statistics of their own: set train.ema=0")
    if processes > 1:
        raise InputError(f"{processes} processes: {why}, and each would normalize by its own windows: train with one")


def on_other_data(run: RunFolder, data: str, device: torch.device) -> "ForecastTask":
    """Return the task of a run's forecaster on another CSV file or set; the training file need not be here.

    Args:
        run: with a checkpoint.
        data: a path that ends in .csv, or the name of a known set.
        device: where the model goes.
    """
    experiment, trained = run.experiment, run.environment["data"]
    is_file = data.lower().endswith(".csv")
    if not is_file and data not in series_sets:
        near = did_you_mean(data, series_sets)
        raise InputError(f"--data {data}: neither a CSV file (its name ends in .csv) nor a known set{near}")
    other = {"csv": data, "name": None} if is_file else {"csv": None, "name": data, "date": None}
    config = experiment.data.model_copy(update={**other, "test_on": None})
    return ForecastTask(experiment.model_copy(update={"data": config}), device, trained, asked=True)


def open_series(config: ForecastData, step: str | None = None) -> Series:
    """Read the series of a `data:` section, expected at a step; InputError where it is not here or not sound."""
    if config.name is not None:
        return open_known(config.name, date=config.date, step=step)
    assert config.csv is not None
    return read_series(config.csv, date=config.date, step=step)


def open_known(name: str, *, date: str | None = None, step: str | None = None) -> Series:
    """Read a known set, from its file or from memory; the rest as in `open_series`."""
    content = series_sets[name].content
    if content is not None:
        return parse_series(content, Path(name), date=date, step=step)
    return read_series(series_path(name), date=date, step=step)


def _split(split: str) -> Split:
    return next(known for known in SPLITS if known == split)
