"""The machine's state while a run is live: processor, memory and NVIDIA GPUs, under MLflow's names for them."""

import importlib
import time
from typing import Any

import psutil

__all__ = ["SystemSampler"]

SECONDS_BETWEEN = 10.0


class SystemSampler:
    """Takes a sample every ten seconds.

    MLflow's own monitor thread stops for good at the first failed request and stamps samples when they are sent: only
    its reading of GPUs is used (which needs nvidia-ml-py).
    """

    def __init__(self) -> None:
        self._next = time.monotonic() + SECONDS_BETWEEN
        self._gpus: Any = None
        self._looked_for_gpus = False
        # The first figure covers the time since this call.
        psutil.cpu_percent()

    def sample(self) -> dict[str, float]:
        """Return `system/…` figures by name; empty when none are due."""
        if time.monotonic() < self._next:
            return {}
        self._next = time.monotonic() + SECONDS_BETWEEN
        memory = psutil.virtual_memory()
        values = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / 1e6,
            "system_memory_usage_percentage": memory.percent,
        }
        return {f"system/{name}": float(value) for name, value in (values | self._gpu_values()).items()}

    def _gpu_values(self) -> dict[str, float]:
        if not self._looked_for_gpus:
            self._looked_for_gpus = True
            self._gpus = _gpu_monitor()
        if self._gpus is None:
            return {}
        self._gpus.clear_metrics()
        self._gpus.collect_metrics()
        values: dict[str, float] = self._gpus.aggregate_metrics()
        return values


def _gpu_monitor() -> Any:
    try:
        gpu_monitor: Any = importlib.import_module("mlflow.system_metrics.metrics.gpu_monitor")
        return gpu_monitor.GPUMonitor()
    except Exception:  # no GPU, no nvidia-ml-py, or no such class in this mlflow: each with an error of its own
        return None
