"""MLflow's copy of a result file: one run with its medians as metrics and the file itself beside them."""

import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from flowbench.errors import FlowbenchError
from flowbench.tracking.places import tracking_uri
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
    # Here, where MLflow is imported anyhow: it takes seconds.
    from flowbench.tracking.copying import experiment_called

    experiment, environment = experiment_called(_EXPERIMENT, client, uri), content["environment"]
    run = client.create_run(experiment, run_name=f"{environment['device_name']} {environment['commit'] or ''}".strip())
    run_id: str = run.info.run_id
    try:
        _fill(content, path, client, run_id)
    except BaseException:
        with suppress(Exception):  # the store may be gone: what happened before is what there is to tell
            client.set_terminated(run_id, "FAILED")
        raise
    client.set_terminated(run_id)
    return run_id


def _fill(content: dict[str, Any], path: Path, client: Any, run_id: str) -> None:
    environment = content["environment"]
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
