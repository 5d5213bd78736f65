"""Names that experiment files use for models and data sets, each registered beside its definition.

A new model or set is a new module in one of the registry's packages: nothing else is edited.
"""

import importlib
import pkgutil
import sys
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar, cast

from flowbench.errors import InputError, did_you_mean

__all__ = ["Registry", "density_models", "figure_kinds", "forecasters", "image_sets", "series_sets"]

T = TypeVar("T")
E = TypeVar("E")


class Registry(Generic[T]):
    """A mapping from names to what the modules of some packages register under them."""

    def __init__(self, what: str, *packages: str, way_out: str = "") -> None:
        self.what = what
        """What is registered, in words."""
        self._packages = packages
        self.way_out = way_out
        """What else an error about an unknown name can advise."""
        self._entries: dict[str, T] = {}
        self._origins: dict[str, str] = {}
        self._living: list[Mapping[str, T]] = []
        self._complete = False

    def register(self, name: str) -> Callable[[E], E]:
        """Return a decorator that enters its class, function or object under `name` and gives it back unchanged.

        A module of one's own may register the same name again, as a notebook's cell does that is run twice.

        Raises:
            InputError: the name is another module's.
        """
        module = str(sys._getframe(1).f_globals["__name__"])
        ours = module.partition(".")[0] == __name__.partition(".")[0]

        def enter(entry: E) -> E:
            if not ours:
                self._load()  # names that flowbench has, but has not needed so far, are taken, too
            if name in self._entries and (ours or self._origins.get(name) != module):
                raise InputError(f"{self.what} {name!r} is registered twice: by {module}, give it another name")
            self._entries[name] = cast(T, entry)
            if not ours:
                self._origins[name] = module
            return entry

        return enter

    def look_in(self, living: Mapping[str, T]) -> None:
        """Take names from a mapping, too, whose content may change; registered ones come first."""
        self._living.append(living)

    def origin(self, name: str) -> str | None:
        """Return the module outside flowbench that registered `name`; None: it is flowbench's own, or unknown."""
        return self._origins.get(name)

    def __getitem__(self, name: str) -> T:
        """Return the entry under `name`; an InputError names the nearest one where there is none."""
        entries = self._load()
        if name not in entries:
            raise InputError(f"no {self.what} named {name!r}{did_you_mean(name, entries)}{self.way_out}")
        return entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._load()

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._load()))

    def _load(self) -> Mapping[str, T]:
        # Importing the package's modules lazily keeps `flowbench --help` free of torch.
        if not self._complete:
            for name in self._packages:
                package = importlib.import_module(name)
                for module in pkgutil.iter_modules(package.__path__, f"{name}."):
                    importlib.import_module(module.name)
            self._complete = True
        return ChainMap(self._entries, *cast(list[dict[str, T]], self._living))


# Values are the classes' own types one floor up (density.DensityConfig, forecasting.ForecasterConfig, data.ImageSet
# and data.SeriesSet; figures.kinds.FigureKind two floors up).
density_models: Registry[Any] = Registry(
    "density model",
    "flowbench.densities.flows",
    "flowbench.densities.autoregressive",
    "flowbench.densities.variational",
)
forecasters: Registry[Any] = Registry("forecaster", "flowbench.forecasting.models")
image_sets: Registry[Any] = Registry(
    "image data set",
    "flowbench.data.sets",
    way_out="; of your own images: `flowbench data prepare folder --name NAME --source DIR`",
)
series_sets: Registry[Any] = Registry("forecast data set", "flowbench.data.sets")
figure_kinds: Registry[Any] = Registry("kind of figure", "flowbench.figures")
