"""GluonTS' DeepAR on the windows of a forecast experiment, scored as flowbench scores its own distributions.

Salinas, Flunkert, Gasthaus, Januschowski: "DeepAR: Probabilistic forecasting with autoregressive recurrent networks",
International Journal of Forecasting 36 (2020). GluonTS brings older versions of libraries with it: an environment of
its own,

    python -m venv peer && peer/bin/pip install . 'gluonts[torch]==0.16.2'
    peer/bin/python benchmarks/peer_deepar.py etth/gaussian data.name=etth1 --seed 0 --out deepar.json

Where GluonTS is not installed it says so and does nothing. The columns are seven series of one model, told apart by a
category; the values are those that flowbench's models see (normalized on the training rows); the best epoch is kept by
GluonTS' own loss on what its defaults look at, the last window of each column of the validation part. Beside the window
DeepAR is given what its defaults ask for: lags of up to four weeks, the hour, the day of the week. Its likelihood is of
one step given the true ones before it, not of a window given the past alone: there is no NLL to compare, but CRPS,
coverage and the median's MAE of 99 sampled paths.
"""

import argparse
import importlib.util
import json
import math
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from flowbench.config.experiments import load_experiment
from flowbench.forecasting.scores import SAMPLES, crps_of_samples
from flowbench.forecasting.windows import ForecastWindows, open_windows
from flowbench.tasks.forecast import open_series

BATCH = 256
"""Windows of a column that are sampled at once."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment", help="whose windows")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batches", type=int, default=100, help="of 32 windows, in an epoch")
    parser.add_argument("--every", type=int, default=1, help="test every n-th window alone, for a look")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    if importlib.util.find_spec("gluonts") is None:
        print("skipped: gluonts is not installed (see the head of this file)", file=sys.stderr)
        return
    config = load_experiment(asked.experiment, asked.overrides).data
    if config.test_on is not None:
        parser.error("data.test_on: give the file that is tested on as data.name")
    opened = open_windows(open_series(config), config)
    if opened.series.step != pd.tseries.offsets.Hour():
        parser.error(
            f"{opened.series.path}: rows are {opened.series.step} apart: GluonTS' lags are given for hours here"
        )
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:  # of Lightning's checkpoints
        predictor = trained(opened, config.lookback, config.horizon, asked, folder)
    seconds = time.perf_counter() - began
    content = {
        "experiment": asked.experiment,
        "overrides": asked.overrides,
        "model": "DeepAR",
        "versions": versions(),
        "seed": asked.seed,
        "epochs": asked.epochs,
        "batches": asked.batches,
        "every": asked.every,
        "train_seconds": seconds,
        "samples": SAMPLES,
        "metrics": scores(predictor, opened, config.horizon, asked.seed, asked.every),
    }
    print(json.dumps(content, indent=2))
    if asked.out is not None:
        asked.out.write_text(json.dumps(content, indent=2) + "\n")


def versions() -> dict[str, str]:
    import gluonts

    return {"gluonts": gluonts.__version__, "torch": torch.__version__, "python": platform.python_version()}


def normalized(opened: ForecastWindows) -> np.ndarray:
    """Return the values that are forecast, as models see them, (rows, targets), float32."""
    values = opened.scaler.scale(opened.series.values).astype(np.float32)
    return values[:, values.shape[1] - len(opened.targets) :]


def entry(opened: ForecastWindows, values: np.ndarray, column: int, first: int, stop: int) -> dict[str, Any]:
    """Return rows first … stop − 1 of a target as GluonTS takes them."""
    return {
        "start": pd.Period(opened.series.dates[first].tz_localize(None), freq="h"),
        "target": values[first:stop, column],
        "feat_static_cat": np.array([column]),
    }


def trained(opened: ForecastWindows, lookback: int, horizon: int, asked: argparse.Namespace, folder: str) -> Any:
    """Train on the training rows; the last window of each column of the validation part chooses the epoch."""
    import lightning.pytorch as pl
    from gluonts.torch import DeepAREstimator

    pl.seed_everything(asked.seed)
    values, columns = normalized(opened), len(opened.targets)
    train, validation = opened.splits["train"], opened.splits["validation"]
    # Under the report's protocol the training rows come last: they begin where their windows do.
    first, stop = train.first_origin - lookback, train.first_origin + len(train) + horizon - 1
    chosen = validation.first_origin + len(validation) + horizon - 1
    begin = first if first < validation.first_origin else validation.first_origin - lookback
    estimator = DeepAREstimator(
        freq="h",
        prediction_length=horizon,
        context_length=lookback,
        num_feat_static_cat=1,
        cardinality=[columns],
        scaling=False,
        batch_size=32,
        num_batches_per_epoch=asked.batches,
        trainer_kwargs={
            "max_epochs": asked.epochs,
            "default_root_dir": folder,
            "accelerator": "cpu",
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        },
    )
    return estimator.train(
        [entry(opened, values, column, first, stop) for column in range(columns)],
        [entry(opened, values, column, begin, chosen) for column in range(columns)],
    )


def scores(predictor: Any, opened: ForecastWindows, horizon: int, seed: int, every: int) -> dict[str, Any]:
    """Return the mean scores over the test windows and columns."""
    test, values, columns = opened.splits["test"], normalized(opened), len(opened.targets)
    origins = range(test.first_origin, test.first_origin + len(test), every)
    torch.manual_seed(seed)
    totals: dict[str, float] = dict.fromkeys(("crps", "coverage_50", "coverage_90", "mae_median", "mae", "mse"), 0.0)
    variance, count = 0.0, 0
    for column in range(columns):
        for batch in _batches(origins):
            asked = [entry(opened, values, column, 0, origin) for origin in batch]
            drawn = np.stack([one.samples for one in predictor.predict(asked, num_samples=SAMPLES)])
            samples = torch.from_numpy(drawn).double().permute(0, 2, 1).unsqueeze(2)  # (windows, horizon, 1, m)
            truth = torch.from_numpy(
                np.stack([values[origin : origin + horizon, column] for origin in batch])[..., None]
            ).double()
            crps, of_windows = crps_of_samples(samples, truth)
            ordered = samples.sort(dim=-1).values
            found = {"crps": crps, "mae_median": (ordered[..., SAMPLES // 2] - truth).abs()}
            for name, below in (("coverage_50", 25), ("coverage_90", 5)):
                inside = (ordered[..., below - 1] <= truth) & (truth <= ordered[..., SAMPLES - below])
                found[name] = inside.double()
            error = samples.mean(dim=-1) - truth
            found |= {"mae": error.abs(), "mse": error.square()}
            for name, of_values in found.items():
                totals[name] += float(of_values.mean(dim=(1, 2)).sum())
            variance, count = variance + float(of_windows.sum()), count + len(batch)
    metrics: dict[str, Any] = {name: {"value": total / count, "stderr": None} for name, total in totals.items()}
    metrics["crps"]["monte_carlo_error"] = math.sqrt(variance) / count
    return {"n": len(origins), **metrics}


def _batches(origins: range) -> Iterator[range]:
    for first in range(0, len(origins), BATCH):
        yield origins[first : first + BATCH]


if __name__ == "__main__":
    main()
