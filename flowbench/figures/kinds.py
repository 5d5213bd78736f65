"""Kinds of figures, and what each is drawn from: a run's model as reported, and its data."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from flowbench.config.registry import figure_kinds
from flowbench.config.schema import Experiment
from flowbench.errors import InputError
from flowbench.runs.folder import RunFolder

__all__ = ["Draw", "FigureKind", "NotDrawableError", "Subject", "figure_kind"]


@dataclass(frozen=True)
class Subject:
    """A trained run, opened to be drawn."""

    run: RunFolder
    experiment: Experiment[Any, Any]
    model: nn.Module
    """With the weights and the batch-norm statistics that the run reports, in evaluation mode."""
    step: int
    """The training step that these weights are from."""
    device: torch.device
    stopped: str = ""
    """Where the training was stopped, if it has not come to its end."""

    def title(self, what: str, temperature: float | None = None) -> str:
        """Return the title of a picture: experiment, seed, what it shows, checkpoint step and temperature."""
        heated = "" if temperature is None else f", temperature {temperature:g}"
        when = self.stopped or f"step {self.step:,}"
        return f"{self.experiment.name}, seed {self.experiment.seed}: {what}, {when}{heated}"

    def file(self, name: str) -> Path:
        """Return where a picture of this run goes."""
        return self.run.figures / name


Draw = Callable[[Subject], Path]
Of = Literal["density", "forecast", "distributions"]


class FigureKind(NamedTuple):
    """One entry of the registry `figure_kinds`: a module of this package with a function under `@figure_kind`."""

    draw: Draw
    """Writes one picture, a function of (run, seed) alone, into the run's figures folder."""
    of: Of
    """The experiments that it is for; distributions: the forecasts that are distributions."""
    at_end: bool
    """Whether it is cheap enough to be drawn at the end of every training."""


class NotDrawableError(InputError):
    """A kind of figure does not exist for this run; the message says why."""


def figure_kind(name: str, of: Of, *, at_end: bool = True) -> Callable[[Draw], Draw]:
    """Return a decorator that makes a function a kind of figure; see `FigureKind`."""

    def enter(draw: Draw) -> Draw:
        figure_kinds.register(name)(FigureKind(draw, of, at_end))
        return draw

    return enter
