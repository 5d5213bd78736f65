#!/usr/bin/env bash
# Finding: an SQLite store of MLflow 3.17.2 that was moved, with its files, to another folder writes new files to the old
# folder, which it makes again, and does not find the old files beside it.
# What it does to a user: after a move or a copy, runs look complete and their files are elsewhere: in a folder that was
# removed, or among those of the original. Metrics and parameters are in the database, and all right.
# Way out: correct experiments.artifact_location and runs.artifact_uri in the database by SQL.
# Source: whole paths are recorded (mlflow/store/tracking/sqlalchemy_store.py). Known: mlflow/mlflow#3144, #8226.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check mlflow==3.17.2
export MLFLOW_DISABLE_TELEMETRY=true
cat > "$work/log.py" <<'PYTHON'
import sys
from mlflow.tracking import MlflowClient

client = MlflowClient("sqlite:///mlflow.db")
found = client.get_experiment_by_name("mine")
run = client.create_run(found.experiment_id if found else client.create_experiment("mine"))
client.log_text(run.info.run_id, "text", sys.argv[1])
print(run.info.run_id)
PYTHON
"$work/venv/bin/python" -c 'import mlflow; print("mlflow", mlflow.__version__)'
mkdir "$work/old"
cd "$work/old"
"$work/venv/bin/python" "$work/log.py" before.txt > "$work/run" 2> /dev/null
cd "$work"
mv old new
cd new
"$work/venv/bin/python" "$work/log.py" after.txt > /dev/null 2>&1
listed=$("$work/venv/bin/python" -c "
from mlflow.tracking import MlflowClient
print(len(MlflowClient('sqlite:///mlflow.db').list_artifacts('$(tail -n 1 "$work/run")')))" 2> /dev/null)
after=$(find "$work" -name after.txt) before=$(find "$work" -name before.txt)
echo "after the move from old/ to new/, the new file is in ${after#"$work"/}"
echo "the old file is in ${before#"$work"/}, and MLflow lists $listed files of its run"
if [[ $after == "$work"/old/* && $before == "$work"/new/* && $listed == 0 ]]; then
  echo "as described: a moved store goes on in its old place"
else
  echo "CHANGED: not as described any more"
  exit 1
fi
