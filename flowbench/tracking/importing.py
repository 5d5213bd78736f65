"""`flowbench track import`: one run folder into MLflow, now."""

import logging
from pathlib import Path

from flowbench.errors import FlowbenchError, InputError, WorkFailedError
from flowbench.system.credentials import without_credentials
from flowbench.tracking.places import tracking_uri
from flowbench.tracking.store import explain, is_installed, open_client, patience

__all__ = ["import_run"]

_logger = logging.getLogger("flowbench.tracking")


def import_run(path: Path) -> str:
    """Copy a run's folder, or a table's, into MLflow, leaving out what is there already, and return MLflow's run id.

    Raises:
        InputError: tracking is off, mlflow is missing, `path` is no run, or another process copies it.
        WorkFailedError: MLflow did not take it; nothing of the folder is lost, the call may be repeated.
    """
    uri = tracking_uri()
    if uri is None:
        raise InputError("FLOWBENCH_TRACKING=off: unset it to import runs into MLflow")
    if not is_installed():
        raise InputError("mlflow is not installed: pip install mlflow, then import again")
    with patience(30, 2):
        note = ""
        try:
            from flowbench.tracking.tables import copy_of

            copy = copy_of(path, open_client(uri), uri, live=False)
            try:
                run_id = copy.finish()
            finally:
                note = copy.note
                copy.close()
        except FlowbenchError:
            raise
        except Exception as error:
            raise WorkFailedError(
                f"{path}: MLflow at {without_credentials(uri)} did not take the run "
                f"({'; '.join(filter(None, (explain(error), note)))}): nothing is lost, try again later"
            ) from error
    if note:
        _logger.warning("%s: %s", path, note)
    return run_id
