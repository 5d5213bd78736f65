"""Reproduce, compare and time likelihood models."""

import importlib
from typing import TYPE_CHECKING, Any

from flowbench.system.version import __version__

if TYPE_CHECKING:
    from flowbench.densities.autoregressive.pixelcnn import PixelCNN
    from flowbench.densities.flows.glow import Glow
    from flowbench.densities.flows.real_nvp import RealNVP
    from flowbench.densities.flows.tarflow import TarFlow
    from flowbench.tasks.loading import load_run

__all__ = ["Glow", "PixelCNN", "RealNVP", "TarFlow", "__version__", "load_run"]

_HANDED_ON = {
    "Glow": "flowbench.densities.flows.glow",
    "PixelCNN": "flowbench.densities.autoregressive.pixelcnn",
    "RealNVP": "flowbench.densities.flows.real_nvp",
    "TarFlow": "flowbench.densities.flows.tarflow",
    "load_run": "flowbench.tasks.loading",
}


def __getattr__(name: str) -> Any:
    # torch is imported when a name is asked for, not when the package is.
    if name in _HANDED_ON:
        return getattr(importlib.import_module(_HANDED_ON[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
