#!/usr/bin/env bash
# Finding: MLflow 3.17.2 migrates the database of an older MLflow (here 3.2.0) as soon as a client opens it, unasked;
# the older MLflow cannot open it afterwards.
# What it does to a user: who looks into a shared store once with a newer MLflow shuts everybody else out, without a copy
# to go back to. MLflow's upgrade guide has a step of its own for it: a backup, then `mlflow db upgrade`.
# Source: mlflow/store/db/utils.py: where a table of the new version is missing, `_initialize_tables` comes before
# `_verify_schema`, and upgrades. mlflow/mlflow#19943 is about that order, #16517 one who met the end of it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for name in older newer; do python3 -m venv "$work/$name"; done
"$work/older/bin/pip" install --quiet --disable-pip-version-check mlflow-skinny==3.2.0 "sqlalchemy<2.1" alembic pandas
"$work/newer/bin/pip" install --quiet --disable-pip-version-check mlflow==3.17.2
export MLFLOW_DISABLE_TELEMETRY=true
cd "$work"
cat > open.py <<'PYTHON'
import sqlite3
import mlflow

try:
    count = len(mlflow.MlflowClient("sqlite:///mlflow.db").search_experiments())
    outcome = f"opens it and finds {count} experiment"
except Exception as error:
    outcome = f"fails: {error}"
(version,) = sqlite3.connect("mlflow.db").execute("SELECT version_num FROM alembic_version").fetchone()
print(f"mlflow {mlflow.__version__} {outcome}; the schema is now {version}")
PYTHON
first=$(older/bin/python open.py 2> /dev/null)
second=$(newer/bin/python open.py 2> /dev/null)
third=$(older/bin/python open.py 2> /dev/null)
printf '%s\n' "$first" "$second" "$third"
if [[ $first == *opens* && $second == *opens* && ${first##* } != "${second##* }" && $third == *fails* ]]; then
  echo "as described: opened by the newer, lost to the older"
else
  echo "CHANGED: not as described any more"
  exit 1
fi
