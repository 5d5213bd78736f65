"""Forecast a CSV file of your own, a date column and numbers: `python examples/forecast_csv.py FILE.csv OUT.csv`."""

import sys
from pathlib import Path

import flowbench
from flowbench.config.experiments import load_experiment
from flowbench.forecasting.forecast import forecast_next
from flowbench.forecasting.series import read_series
from flowbench.runs.folder import RunFolder
from flowbench.tasks.forecast import run_scaler
from flowbench.training.loop import train

windows = ["data.protocol=ratio", "data.lookback=48", "data.horizon=24"]
run = RunFolder(Path(sys.argv[2]).with_suffix(".run"))
result = train(load_experiment("etth/nlinear", [f"data.csv={sys.argv[1]}", *windows, "train.epochs=3"]), run.path)
scaler = run_scaler(run.environment["data"])
forecast = forecast_next(flowbench.load_run(run.path), read_series(sys.argv[1]), scaler)
forecast.to_csv(sys.argv[2], index=False)
errors = result["metrics"]["test"]["mae_original"]["per_column"]
print(forecast.head(3), "\ntest MAE in the file's units:", {name: round(error, 3) for name, error in errors.items()})
