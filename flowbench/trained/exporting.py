"""A finished run, put into a folder that travels: weights, config, result and data fingerprint, with a model card."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from flowbench.config.experiments import dump_experiment
from flowbench.config.schema import Experiment
from flowbench.errors import InputError, why
from flowbench.runs.bundle import write_manifest, write_state
from flowbench.runs.folder import RunFolder
from flowbench.runs.model_card import model_card
from flowbench.system import atomic

__all__ = ["export_run"]

COPIED = ("result.json", "environment.json", "metrics.jsonl")


def export_run(run: RunFolder, out: Path, licence: str = "unknown") -> Path:
    """Write a run's model into a new folder that `evaluate`, `load_run` and model hubs take; return the folder.

    The folder appears whole or not at all. Nothing in it leads back to this machine: the path of a CSV file is cut to
    its name.

    Args:
        run: a finished run, or an exported one.
        out: the new folder.
        licence: of the weights, as model hubs name it (`apache-2.0`, `cc-by-4.0`, …).

    Raises:
        InputError: the run is not finished or has no sound checkpoint; `out` is in the way.
    """
    result, loaded = run.result, run.load_checkpoint()
    if loaded is None:
        raise InputError(f"{run.path}: has no checkpoint: nothing to export")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out {out}: exists already: give a new folder, or remove this one")
    state, _ = loaded
    experiment = _without_paths(run.experiment)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
            folder = Path(temporary) / "bundle"
            folder.mkdir()
            how = write_state(folder, state, averaged=bool(state["ema"]) and experiment.weights == "ema")
            _write_record(folder, run, experiment)
            write_manifest(
                folder,
                {
                    "experiment": experiment.name,
                    "data_fingerprint": result["data_fingerprint"],
                    "config_sha256": result["config_sha256"],
                    "packages": {"flowbench": run.environment.get("flowbench"), **run.environment["packages"]},
                    "state": how,
                },
            )
            atomic.write_text(folder / "README.md", model_card(experiment, result, run.environment, out.name, licence))
            # Over an empty folder too: a rename replaces one.
            folder.replace(out)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written: {why(error)}") from error
    return out


def _write_record(folder: Path, run: RunFolder, experiment: Experiment[Any, Any]) -> None:
    """Copy what tells how the model was made and measured, the values of every image or window included."""
    atomic.write_text(folder / "config.yaml", dump_experiment(experiment))
    # Hubs know a model by its config.json; flowbench itself reads the YAML.
    atomic.write_json(folder / "config.json", experiment.model_dump(mode="json", by_alias=True))
    for name in COPIED:
        if (run.path / name).is_file():
            shutil.copyfile(run.path / name, folder / name)
    if run.environment.get("imports"):
        # Who takes the folder must bring the module, wherever it lies there.
        imports = [{**one, "path": one["path"] and Path(one["path"]).name} for one in run.environment["imports"]]
        atomic.write_json(folder / "environment.json", {**run.environment, "imports": imports})
    if run.evaluations.is_dir():
        shutil.copytree(run.evaluations, folder / run.evaluations.name)


def _without_paths(experiment: Experiment[Any, Any]) -> Experiment[Any, Any]:
    csv = getattr(experiment.data, "csv", None)
    if csv is None:
        return experiment
    return experiment.model_copy(update={"data": experiment.data.model_copy(update={"csv": Path(csv).name})})
