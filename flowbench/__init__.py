"""Reproduce, compare and time likelihood models: from Python everything begins with `import flowbench as fb`."""

import importlib
from typing import TYPE_CHECKING, Any

from flowbench.system.version import __version__ as __version__

if TYPE_CHECKING:
    from flowbench import errors
    from flowbench.api import adapters
    from flowbench.api.comparing import compare
    from flowbench.api.experiments import experiment
    from flowbench.api.listing import list_datasets, list_experiments, list_tables
    from flowbench.api.measured import evaluate
    from flowbench.api.reproducing import reproduce
    from flowbench.api.runs import Run, load_run, train
    from flowbench.api.studies import tune
    from flowbench.api.timing import measure_throughput
    from flowbench.densities.autoregressive.pixelcnn import PixelCNN
    from flowbench.densities.flows.glow import Glow
    from flowbench.densities.flows.nice import NICE
    from flowbench.densities.flows.real_nvp import RealNVP
    from flowbench.densities.flows.tarflow import TarFlow
    from flowbench.densities.variational.iaf_vae import IAFVAE

__all__ = [
    "IAFVAE",
    "NICE",
    "Glow",
    "PixelCNN",
    "RealNVP",
    "Run",
    "TarFlow",
    "adapters",
    "compare",
    "errors",
    "evaluate",
    "experiment",
    "list_datasets",
    "list_experiments",
    "list_tables",
    "load_run",
    "measure_throughput",
    "reproduce",
    "train",
    "tune",
]

# A name that is no attribute of its module is the module itself. A model that comes later is one line here, one above
# and one in `__all__`.
_HANDED_ON = {
    "Glow": "flowbench.densities.flows.glow",
    "IAFVAE": "flowbench.densities.variational.iaf_vae",
    "NICE": "flowbench.densities.flows.nice",
    "PixelCNN": "flowbench.densities.autoregressive.pixelcnn",
    "RealNVP": "flowbench.densities.flows.real_nvp",
    "Run": "flowbench.api.runs",
    "TarFlow": "flowbench.densities.flows.tarflow",
    "adapters": "flowbench.api.adapters",
    "compare": "flowbench.api.comparing",
    "errors": "flowbench.errors",
    "evaluate": "flowbench.api.measured",
    "experiment": "flowbench.api.experiments",
    "list_datasets": "flowbench.api.listing",
    "list_experiments": "flowbench.api.listing",
    "list_tables": "flowbench.api.listing",
    "load_run": "flowbench.api.runs",
    "measure_throughput": "flowbench.api.timing",
    "reproduce": "flowbench.api.reproducing",
    "train": "flowbench.api.runs",
    "tune": "flowbench.api.studies",
}


def __getattr__(name: str) -> Any:
    # torch is imported when a name is asked for, not when the package is.
    if name not in _HANDED_ON:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(_HANDED_ON[name])
    return module if _HANDED_ON[name].endswith(f".{name}") else getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
