"""MLflow's copy of a result file: one run with its medians as metrics and the file itself beside them."""

import re
import sys
from pathlib import Path
from typing import Any

from flowbench.errors import FlowbenchError
from flowbench.tracking.places import artifact_location, tracking_uri
from flowbench.tracking.store import explain, is_installed, open_client, patience

__all__ = ["track"]

_EXPERIMENT = "throughput"
_FIGURES = ("images_per_second", "floor_ratio")


def track(content: dict[str, Any], path: Path) -> str | None:
    """Copy a result file into MLflow and return the run's id; None where tracking is off or MLflow did not take it.

    The file is the result; a dead server costs one line on stderr.
    """
    uri = tracking_uri()
    if uri is None or not is_installed():
        return None
    try:
        with patience(10, 1):
            return _copy(content, path, uri)
    except FlowbenchError as error:
        reason = str(error)
    except Exception as error:
        reason = explain(error)
    print(f"flowbench: warning: MLflow did not take {path} ({reason}): the file is complete", file=sys.stderr)
    return None


def _copy(content: dict[str, Any], path: Path, uri: str) -> str:
    client = open_client(uri)
    experiment = client.get_experiment_by_name(_EXPERIMENT)
    if experiment is None:
        identifier = client.create_experiment(_EXPERIMENT, artifact_location=artifact_location(uri, _EXPERIMENT))
    else:
        identifier = experiment.experiment_id
    environment = content["environment"]
    run = client.create_run(identifier, run_name=f"{environment['device_name']} {environment['commit'] or ''}".strip())
    run_id: str = run.info.run_id
    for key in ("device", "device_name", "threads", "commit", "flowbench"):
        client.log_param(run_id, key, environment[key])
    for result in content["results"]:
        compiled = "-compiled" if result["compiled"] else ""
        # MLflow's names have no equals sign, which an experiment's overrides do.
        experiment_name = re.sub(r"[^\w.\- :/]", ":", result["experiment"])
        name = f"{experiment_name}/{result['pass']}/batch{result['batch']}-{result['precision']}{compiled}"
        for figure in _FIGURES:
            if result[figure] is not None:
                client.log_metric(run_id, f"{name}/{figure}", result[figure]["median"])
        if result["peak_memory_bytes"] is not None:
            client.log_metric(run_id, f"{name}/peak_memory_bytes", result["peak_memory_bytes"])
    client.log_artifact(run_id, str(path))
    client.set_terminated(run_id)
    return run_id
