#!/usr/bin/env bash
# Finding: Optuna 5.0.0 that is given MLflow 3.17.2's database adds its tables to it, then refuses it, and advises to
# update Optuna; MLflow that is given Optuna's adds its tables and stops at a revision that it cannot locate. Both keep
# their schema's version in the one row of a table of one name, `alembic_version`.
# What it does to a user: one PostgreSQL database for studies and runs cannot work; the advice (it is the newest Optuna)
# leads nowhere, and either database keeps the other's tables.
# Way out: a database, or a PostgreSQL schema, for each.
# Source: optuna/storages/_rdb/storage.py (`_VersionManager`), mlflow/store/db/utils.py. Known: optuna/optuna#2866,
# mlflow/mlflow#3374.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check mlflow==3.17.2 optuna==5.0.0
cd "$work"
MLFLOW_DISABLE_TELEMETRY=true venv/bin/python 2> log - <<'PYTHON' || { cat log; exit 1; }
import sqlite3
import mlflow
import optuna

print("mlflow", mlflow.__version__, "optuna", optuna.__version__)


def refused(open_it, file):
    def tables():
        return {name for (name,) in sqlite3.connect(file).execute("SELECT name FROM sqlite_master WHERE type = 'table'")}

    before = tables()
    try:
        open_it(f"sqlite:///{file}")
    except Exception as error:
        return str(error), len(tables() - before)
    return "", 0


def open_runs(url):
    mlflow.MlflowClient(url).search_experiments()


open_runs("sqlite:///runs.db")
optuna.storages.RDBStorage("sqlite:///studies.db")
words, added = refused(optuna.storages.RDBStorage, "runs.db")
print(f"Optuna on MLflow's database leaves {added} tables there and says: {words}")
others, more = refused(open_runs, "studies.db")
print(f"MLflow on Optuna's database leaves {more} tables there and says: {others}")
same = "updating optuna to the latest version" in words and added > 0 and "Can't locate revision" in others and more > 0
print("as described: neither, and both are left changed" if same else "CHANGED: not as described any more")
raise SystemExit(not same)
PYTHON
