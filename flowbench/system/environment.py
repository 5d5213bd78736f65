"""What a run was made with: versions, device, threads, the commit of flowbench's own tree."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from flowbench.system.device import float32_arithmetic
from flowbench.system.version import __version__

__all__ = ["ask_for_determinism", "describe_environment", "device_name"]

_PACKAGES = ("torch", "torchvision", "numpy", "pandas", "scikit-learn", "mlflow", "optuna")


def ask_for_determinism() -> None:
    """Under FLOWBENCH_DETERMINISTIC=1 let torch use deterministic algorithms alone; before anything runs on a GPU.

    On the CPU every run is deterministic as it is.
    """
    if os.environ.get("FLOWBENCH_DETERMINISTIC") == "1":
        # cuBLAS reads this when its first handle is made.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True)


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Return versions, device, threads and source state, for `environment.json`."""
    return {
        "flowbench": __version__,
        **_source_state(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": {name: version for name in _PACKAGES if (version := _version(name)) is not None},
        "device": device.type,
        "device_name": device_name(device),
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability() if device.type == "cpu" else None,
        "float32": float32_arithmetic(device),
        "deterministic": device.type == "cpu" or torch.are_deterministic_algorithms_enabled(),
        "processes": torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1,
    }


def device_name(device: torch.device) -> str:
    """Return the name that people know the device by."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _source_state() -> dict[str, Any]:
    # Only flowbench's own checkout counts: the working folder may be any other repository.
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        # A tree that was sent somewhere without its history may be told what it is.
        told = os.environ.get("FLOWBENCH_COMMIT")
        return {"commit": told, "dirty": None if told is None else False}
    commit = _git(root, "rev-parse", "HEAD")
    status = _git(root, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if status is None else bool(status)}


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
