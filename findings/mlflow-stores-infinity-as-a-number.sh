#!/usr/bin/env bash
# Finding: MLflow 3.17.2 gives an infinite metric back as ±1.7976931348623157e308 from an SQL store (the default since
# MLflow 3.7), and as infinite from a file store: nothing warns, and NaN comes back as NaN from both.
# What it does to a user: a loss that diverged to infinity passes `math.isfinite`, enters means and plots, and its run is
# found by `metrics.loss < 1e309` (as any number is). flowbench's mirror leaves out values that are not finite; the run
# folder has them.
# Source: mlflow/store/tracking/sqlalchemy_store.py, where a metric's value is made a row of the table: databases other
# than SQLite have no infinity.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check mlflow-skinny==3.17.2 "sqlalchemy<2.1" alembic pandas
cd "$work"
export MLFLOW_DISABLE_TELEMETRY=true MLFLOW_ALLOW_FILE_STORE=true
venv/bin/python - 2> log <<'PYTHON' || { cat log; exit 1; }
import math

import mlflow

print("mlflow", mlflow.__version__)
values = {"loss": math.inf, "log_prob": -math.inf, "undefined": math.nan, "finite": 1.5}
back = {}
for store in ("sqlite:///mlflow.db", "file:./mlruns"):
    client = mlflow.MlflowClient(store)
    run = client.create_run(client.create_experiment("one")).info.run_id
    for name, value in values.items():
        client.log_metric(run, name, value)
    back[store] = client.get_run(run).data.metrics
    print(store, {name: back[store][name] for name in values})
sql, file = back.values()
same = sql["loss"] == 1.7976931348623157e308 == -sql["log_prob"] and math.isnan(sql["undefined"])
same &= sql["finite"] == 1.5 and file["loss"] == math.inf and file["log_prob"] == -math.inf
print("as described: infinity became a number" if same else "CHANGED: not as described any more")
raise SystemExit(not same)
PYTHON
