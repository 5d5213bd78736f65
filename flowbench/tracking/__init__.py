"""MLflow's copy of the runs: made by a process beside the training, which never waits for it.

Importing this package is cheap; mlflow itself is imported only by that process, by `import_run` and by `ui`.
"""

from flowbench.tracking.importing import import_run
from flowbench.tracking.places import tracking_uri
from flowbench.tracking.process import EventMirror, Mirror
from flowbench.tracking.state import read_mlflow_run_id
from flowbench.tracking.store import ui

__all__ = ["EventMirror", "Mirror", "import_run", "read_mlflow_run_id", "tracking_uri", "ui"]
