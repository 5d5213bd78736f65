"""Exact figures from Python: of a run as it reports itself, of any density model, on any images."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import nn

from flowbench.api.own_data import LEVELS, arrays_of, series_of
from flowbench.api.shown import metric_of
from flowbench.api.stored import StoredRun, check_own_data
from flowbench.config.schema import DensityData
from flowbench.data import Images, open_split
from flowbench.data.images import open_images
from flowbench.data.sets.own import OWN, images_of, own_images, split_called
from flowbench.densities.model import DensityModel
from flowbench.errors import InputError
from flowbench.evaluation.likelihood import evaluate as measure
from flowbench.evaluation.measuring import Request
from flowbench.evaluation.reported import Setting, is_normalized
from flowbench.runs.folder import RunFolder, find_run
from flowbench.system.progress import quietly
from flowbench.tasks.density import reported_setting
from flowbench.tasks.loading import evaluate_run, stopped_at

__all__ = ["Evaluation", "evaluate"]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A figure and everything that it is made of."""

    metric: str
    """`bits_per_dim`, or `mae` of a forecaster."""
    split: str
    value: float
    """bits/dim, or a normalized error; lower is better."""
    stderr: float | None
    """Standard error of `value` over images; None: windows overlap and are not independent."""
    n: int
    """Images or windows."""
    values: NDArray[np.float64] = field(repr=False)
    """Of each image or window, in order, (n,); their mean is `value`."""
    labels: dict[str, Any]
    """What the figure depends on: draws, levels, bound, dequantization, batch-norm statistics, weights, data status."""
    metrics: dict[str, dict[str, Any]] = field(repr=False)
    """Everything that was measured, as in `result.json`: `bits_per_dim_importance` among it where it was asked for."""
    notes: tuple[str, ...] = ()
    """Lines that a reader of the figure should see."""

    def __float__(self) -> float:
        return self.value


def evaluate(
    run_or_model: StoredRun | DensityModel | str | Path,
    data: Any = None,
    *,
    split: str | None = None,
    draws: int | None = None,
    importance: int | None = None,
) -> Evaluation:
    """Measure every image (or window) of a split exactly.

    Args:
        run_or_model: a run, its path or name, or any density model (weights as they are, in evaluation mode).
        data: images: a known set's name, a mapping of parts to uint8 arrays, or one array, all as in `flowbench.train`;
            series: a frame, the path of a CSV file or a known set's name. None: the run's own.
        split: train, holdout (or validation), test; None: the part that is reported.
        draws: of dequantization noise per image; None: the run's own, 1 for a model.
        importance: also give the importance-weighted bound with so many samples.

    Returns:
        `value` in bits/dim (of a forecaster the normalized MAE) and `stderr`, `n` images or windows and the `values` of
        each, (n,), in order; `labels`, what the figure depends on: draws, levels, bound, dequantization, batch-norm
        statistics, weights, data status; `metrics`, everything that was measured, as in `result.json`; `metric`,
        `split` and `notes`, lines that a reader of the figure should see.

    Raises:
        InputError: a model without data, images of another shape, or a split that is not there.
        WorkFailedError: some figure is not finite; the message names the images.

    Examples:
        >>> import flowbench as fb
        >>> run = fb.train("independent/digits", "runs/one", progress=False)
        >>> measured = fb.evaluate(run)
        >>> f"{measured.value:.4f}", measured.n, measured.values.shape, measured.labels["bound"]
        ('2.4106', 360, (360,), 'exact')
    """
    with quietly():
        return _evaluated(run_or_model, data, split, draws, importance)


def _evaluated(
    run_or_model: Any, data: Any, split: str | None, draws: int | None, importance: int | None
) -> Evaluation:
    if importance is not None and importance < 2:
        # As on the command line: one sample says nothing of its own error.
        raise InputError(f"importance is {importance}: give the number of samples, 2 or more")
    if isinstance(run_or_model, str | Path):
        run_or_model = StoredRun(find_run(str(run_or_model)).path)
    if isinstance(run_or_model, StoredRun):
        folder = RunFolder(run_or_model.path)
        if data is None or isinstance(data, str | Path | pd.DataFrame):
            return _of_run(folder, data, split, draws, importance)
        experiment = run_or_model.experiment
        if experiment.kind != "density":
            raise InputError(
                f"{folder.path}: data: {type(data).__name__}: a forecaster takes a DataFrame or a CSV file"
            )
        model: Any = run_or_model.model
        images = _images_of_run(experiment.data, data, split)
        setting, notes = _as_it_stands(folder, model)
        measured = _of_images(model, images, setting, draws, importance)
        return replace(measured, notes=(*measured.notes, *notes))
    if data is None:
        raise InputError("data: a model knows of no images: give some, or the name of a set")
    return _of_model(run_or_model, data, split, Setting(batch_norm="running"), draws, importance)


def _of_run(folder: RunFolder, data: Any, split: str | None, draws: int | None, importance: int | None) -> Evaluation:
    kind = folder.experiment.kind
    if data is None:
        check_own_data(folder)
    elif isinstance(data, pd.DataFrame):
        if kind == "density":
            raise InputError(f"{folder.path}: data: a frame is a series; a density model takes images")
        data = series_of(data)
    # Of a known set of images the part that chooses is cut from the training part; elsewhere it is a split of its own.
    cut = kind == "density" and data is None and not folder.experiment.data.name.startswith(OWN)
    part = split if split is None or cut else split_called(split)
    content, path = evaluate_run(
        folder, Request(split=part, data=None if data is None else str(data), draws=draws, importance=importance)
    )
    measured, metric = content["metrics"][content["split"]], metric_of(kind)
    stored = np.load(path.with_suffix(".npy"), allow_pickle=False).astype(np.float64)
    # Of each window mae and mse are kept, in this order.
    values = stored if stored.ndim == 1 else stored[:, 0]
    status = content.get("data_status")
    return _evaluation(metric, content["split"], measured, values, status, content["notes"])


def _of_model(
    model: nn.Module, data: Any, split: str | None, setting: Setting, draws: int | None, importance: int | None
) -> Evaluation:
    if not isinstance(model, DensityModel):
        raise InputError(f"{type(model).__name__}: is no density model of images: flowbench.adapters makes one of it")
    return _of_images(model, _images(model, data, split), setting, draws, importance)


def _as_it_stands(folder: RunFolder, model: DensityModel) -> tuple[Setting, list[str]]:
    """Return what the figures of a run's model are called, and what a reader must know of an unfinished run."""
    setting, stopped = reported_setting(folder.experiment), stopped_at(folder)
    if stopped is None:
        return setting, []
    # Until its end a run has no statistics of its training set, and without them its averaged weights are left out.
    weights = "raw" if is_normalized(model) else setting.weights
    return replace(setting, batch_norm="running", weights=weights), [str(stopped)]


def _images_of_run(config: DensityData, data: Any, split: str | None) -> Images:
    """Return arrays as a run's training would see them: its grey levels, its crops."""
    part, array = _part_of(arrays_of(data, split or "test"), split)
    name = own_images({part: array}, config.levels or LEVELS)
    return open_images(config.model_copy(update={"name": name, "holdout": 0}), split_called(part))


def _of_images(
    model: DensityModel, images: Images, setting: Setting, draws: int | None, importance: int | None
) -> Evaluation:
    if (images.shape, images.levels) != (model.image_shape, model.levels):
        raise InputError(
            f"data: images of {images.shape} with {images.levels} levels; the model takes {model.image_shape} with "
            f"{model.levels}"
        )
    # The statistics and weights that the model has are measured, and called what the run calls them.
    reported, weights = setting.batch_norm, setting.weights
    asked = Setting(
        seed=setting.seed, draws=setting.draws if draws is None else draws, importance=importance, batch_norm="running"
    )
    measured = measure(model, images, asked)
    normalized = is_normalized(model)
    names = {"batch_norm": reported if normalized else None, "weights": weights}
    metrics = {name: {**metric, **names} for name, metric in measured.metrics.items()}
    return _evaluation("bits_per_dim", images.split, metrics, measured.bits_per_dim, images.status, measured.notes)


def _images(model: DensityModel, data: Any, split: str | None) -> Images:
    if isinstance(data, str):
        from flowbench.config.registry import image_sets

        return open_split(data, image_sets[data].report_split if split is None else split_called(split))
    part, array = _part_of(arrays_of(data, split or "test"), split)
    return images_of(part, array, model.levels)


def _part_of(arrays: dict[str, NDArray[np.uint8]], split: str | None) -> tuple[str, NDArray[np.uint8]]:
    if not arrays:
        raise InputError("data: there are no images in it")
    part = split or ("test" if "test" in arrays else next(iter(arrays)))
    if part not in arrays:
        raise InputError(f"data: there is no {part!r} in it: {', '.join(arrays)}")
    return part, arrays[part]


def _evaluation(
    metric: str, split: str, metrics: dict[str, dict[str, Any]], values: NDArray[np.float64], status: Any, notes: Any
) -> Evaluation:
    figure = metrics[metric]
    known = ("value", "stderr", "n", "terms", "per_step", "per_column")
    labels = {**{key: value for key, value in figure.items() if key not in known}, "data_status": status}
    return Evaluation(
        metric, split, figure["value"], figure["stderr"], figure["n"], values, labels, metrics, tuple(notes)
    )
