"""What the training loop needs of a density model on images: batches, loss, validation, exact evaluation."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar, cast, get_args

import numpy as np
import torch
from torch import Tensor

from flowbench.config.registry import image_sets
from flowbench.config.schema import DensityData, Experiment
from flowbench.data import Images, Split, check_split, open_images, training_parts
from flowbench.data.feed import Feed, batches_in_order
from flowbench.densities.flows.conditioner import set_precision, set_recompute
from flowbench.densities.flows.normalization import BatchStatistics
from flowbench.densities.model import DensityConfig, DensityModel
from flowbench.densities.noise import training_noise
from flowbench.errors import InputError
from flowbench.evaluation.likelihood import Measured, evaluate
from flowbench.evaluation.measuring import Request, limited
from flowbench.evaluation.reported import Setting, explain_batch_norm, reported_state
from flowbench.evaluation.sample_quality import inception, sample_quality
from flowbench.evaluation.stored import write_evaluation
from flowbench.evaluation.weights import WeightAverage
from flowbench.runs.folder import RunFolder
from flowbench.runs.same_data import arrays_here, change_of_data, fingerprints_here
from flowbench.system.processes import gather, leads, place
from flowbench.tasks.objectives import density_objective

__all__ = ["DensityTask", "build_density", "reported_setting"]

HOLDOUT = "holdout"
"""What the images that are put aside for choosing are called."""
TRAIN_FIGURE_IMAGES = 10_000
"""Training images that the figure beside the report split's is measured on: enough for its standard error."""


def build_density(experiment: Experiment[DensityData, DensityConfig], data: dict[str, Any]) -> DensityModel:
    """Build the untrained model for images of `data["shape"]` with `data["levels"]` grey levels."""
    channels, height, width = data["shape"]
    model = experiment.model.build((channels, height, width), data["levels"])
    set_precision(model, experiment.train.precision)
    set_recompute(model, experiment.train.recompute)
    # Convolutions are 1.15 times as fast in channels-last on AVX-512 (2026-11) and faster still on tensor cores.
    return model.to(memory_format=torch.channels_last)


def reported_setting(experiment: Experiment[DensityData, DensityConfig]) -> Setting:
    """Return how the figures that an experiment reports are measured."""
    return Setting(
        seed=experiment.seed,
        draws=experiment.evaluate.draws,
        batch_norm=experiment.evaluate.batch_norm,
        weights=experiment.weights,
        training_batch_size=experiment.data.batch_size,
        limit=experiment.evaluate.limit,
    )


class DensityTask:
    """Real images (or digits), a density model of them, and how both are fed, trained and measured.

    Args:
        experiment: what is trained.
        device: where it lives.
        trained: the `data` of a run's `environment.json`, where its model comes back: it is built for those images.
    """

    unit: ClassVar[str] = "images"
    monitor: ClassVar[str] = "bits_per_dim"

    def __init__(
        self,
        experiment: Experiment[DensityData, DensityConfig],
        device: torch.device,
        trained: dict[str, Any] | None = None,
    ) -> None:
        self._experiment, self._device = experiment, device
        config = experiment.data
        self._train, self._holdout = training_parts(config)
        # Before the first step: missing, it would end a whole training without a result. It is not opened yet.
        check_split(config.name, image_sets[config.name].report_split)
        self.data = {
            "name": config.name,
            "fingerprint": self._train.fingerprint,
            "status": self._train.status,
            "shape": list(self._train.shape),
            "levels": self._train.levels,
            "numerics": image_sets[config.name].numerics,
            **self._train.choices,
            "fingerprints": fingerprints_here(experiment),
            "arrays": arrays_here(experiment),
        }
        self.model = build_density(experiment, trained or self.data).to(device)
        self.batch_size = config.batch_size
        self._rank, self._ranks = place()
        self._feed = Feed(
            self._train,
            batch_size=config.batch_size,
            seed=experiment.seed,
            flip=config.flip,
            device=device,
            rank=self._rank,
            ranks=self._ranks,
        )
        self.steps_per_epoch = self._feed.steps_per_epoch
        self.objective, self.opponent = density_objective(experiment, self.model, compiled=experiment.train.compile)

    def prepare(self) -> bool:
        """Fit in closed form, or initialize what depends on the first batch."""
        batches = (images for _, images in batches_in_order(self._train, batch_size=1024, device=self._device))
        if self.model.fit(batches):
            return True
        self.model.initialize(*self.batch(0))
        return False

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return this process's images of a step, and its rows of the global batch's noise."""
        images = self._feed.batch(step)
        noise = training_noise(
            self._experiment.seed,
            step,
            (self.batch_size, *self.model.noise_shape),
            self._device,
            distribution=self.model.noise,
        )
        return images, noise[self._rank * len(images) : (self._rank + 1) * len(images)]

    def validate(self, average: WeightAverage | None, run: RunFolder | None = None) -> dict[str, float] | None:
        """Return bits/dim on the held-out training images, as the final figure will be measured; None without."""
        if self._holdout is None:
            return None
        measured = self._measured_holdout(self._holdout, average, run)
        return {"bits_per_dim": measured.metrics["bits_per_dim"]["value"]}

    def evaluate(self, run: RunFolder, average: WeightAverage | None) -> tuple[dict[str, dict[str, Any]], list[str]]:
        """Measure the whole report split, and training images beside it; return metrics by split and notes."""
        report = open_images(self._experiment.data, image_sets[self.data["name"]].report_split)
        some = _spread(self._train, TRAIN_FIGURE_IMAGES)
        metrics: dict[str, dict[str, Any]] = {}
        notes: list[str] = []
        for images in (report, some):
            measured = self._evaluate(images, self.setting(), average)
            metrics[images.split] = measured.metrics
            notes += measured.notes
            if leads():
                write_evaluation(run.evaluations, images, self.setting(), measured)
        explanation = explain_batch_norm(metrics)
        return metrics, [*notes, explanation] if explanation else notes

    def choose(self, run: RunFolder, average: WeightAverage | None) -> dict[str, dict[str, Any]]:
        """Measure the held-out training images."""
        return {HOLDOUT: self._measured_holdout(self._held_out(), average, run).metrics}

    def _held_out(self) -> Images:
        if self._holdout is None:
            raise InputError(f"{self._experiment.name}: data.holdout: 0 leaves no images to choose by")
        return self._holdout

    def _measured_holdout(self, images: Images, average: WeightAverage | None, run: RunFolder | None) -> Measured:
        """Measure the held-out images; keep the value of each in `run`, so that trials can be compared."""
        setting = replace(self.setting(), other_mode=False)
        measured = self._evaluate(images, setting, average)
        if run is not None and leads():
            write_evaluation(run.evaluations, images, setting, measured, part=HOLDOUT)
        return measured

    def measure(self, run: RunFolder, average: WeightAverage | None, request: Request) -> tuple[dict[str, Any], Path]:
        """Evaluate once more as asked, on any split of any set of the same shape; return the content and its file."""
        config = self._experiment.data
        data = config if request.data is None else config.model_copy(update={"name": request.data, "holdout": 0})
        split = request.split or image_sets[data.name].report_split
        part = HOLDOUT if split == HOLDOUT and request.data is None else None
        images = self._held_out() if part else open_images(data, _split(split))
        if (images.shape, images.levels) != (self.model.image_shape, self.model.levels):
            raise InputError(
                f"--data {data.name}: images of {images.shape} with {images.levels} levels; the model takes "
                f"{self.model.image_shape} with {self.model.levels}"
            )
        asked = {key: value for key, value in asdict(request).items() if value is not None}
        setting = replace(self.setting(), **{key: asked[key] for key in asked.keys() - {"split", "data"}})
        setting = self._with_statistics(run, setting)
        network = None if setting.samples is None else inception()  # before minutes of work: it may be missing
        measured = self._evaluate(images, setting, average)
        if setting.samples is not None:
            with reported_state(self.model, setting, self._train, average):
                quality = sample_quality(self.model, images, setting.samples, seed=setting.seed, network=network)
            measured = replace(measured, metrics={**measured.metrics, **quality})
        foreign = data.name != config.name or change_of_data(run) is not None
        path = write_evaluation(run.evaluations, images, setting, measured, part=part, foreign=foreign)
        return json.loads(path.read_text(encoding="utf-8")), path

    def _with_statistics(self, run: RunFolder, setting: Setting) -> Setting:
        """Return the setting without what the training images that lie here cannot give, if they are not the run's."""
        then, now = run.environment["data"]["fingerprint"], self.data["fingerprint"]
        if then == now or not any(isinstance(module, BatchStatistics) for module in self.model.modules()):
            return setting
        if setting.batch_norm == "population":
            raise InputError(
                f"{run.path}: its batch-norm statistics are those of its training images, fingerprint {then}; those of "
                f"{self.data['name']} here have {now}: prepare the earlier ones again, or give --batch-norm running"
            )
        return replace(setting, other_mode=False)

    def population(self, average: WeightAverage | None) -> dict[str, Tensor]:
        """Return the batch-norm statistics that belong to the reported weights, by buffer name."""
        with reported_state(self.model, self.setting(), self._train, average):
            return {
                f"{name}.{buffer}": getattr(module, buffer).clone()
                for name, module in self.model.named_modules()
                if isinstance(module, BatchStatistics)
                for buffer in ("mean", "var")
            }

    def _evaluate(self, images: Images, setting: Setting, average: WeightAverage | None) -> Measured:
        some = _spread(images, setting.limit or len(images))
        measured = evaluate(
            self.model,
            some,
            setting,
            average=average,
            training=self._train,
            rank=self._rank,
            ranks=self._ranks,
            gather=gather,
        )
        return replace(measured, metrics=limited(measured.metrics, len(some), len(images)), rows=some.rows)

    def setting(self) -> Setting:
        """How the experiment's own figures are measured."""
        return reported_setting(self._experiment)


def _spread(images: Images, most: int) -> Images:
    """Return at most so many images, evenly over the part: some sets are in the order of their classes."""
    number = min(most, len(images))
    return images if number == len(images) else images.subset(np.arange(number) * len(images) // number)


def _split(split: str) -> Split:
    if split not in get_args(Split):
        raise InputError(f"--split {split}: one of {', '.join(get_args(Split))}, {HOLDOUT}")
    return cast(Split, split)
