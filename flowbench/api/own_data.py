"""Data that somebody has in memory, made known to the rooms below: arrays of images, frames of series."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from flowbench.config.schema import DensityData, Experiment, ForecastData
from flowbench.data.sets.own import own_images, own_series
from flowbench.errors import InputError, did_you_mean, one_line

__all__ = ["arrays_of", "series_of", "with_data"]

LEVELS = 256
LAYOUTS = ("NHWC", "NCHW")


def with_data(experiment: Experiment[Any, Any], data: Any) -> Experiment[Any, Any]:
    """Return the experiment on one's own data; None: on its own.

    Args:
        experiment: what of its `data:` section says how images are fed or windows are cut stays.
        data: see `flowbench.train`.

    Raises:
        InputError: data of the other kind, or ones that cannot be taken.
    """
    if data is None:
        return experiment
    config = experiment.data
    if isinstance(config, ForecastData):
        # Of a frame with an index of dates the file has a column called date.
        indexed = isinstance(data, pd.DataFrame) and isinstance(data.index, pd.DatetimeIndex)
        date = None if indexed else config.date
        changed: Any = config.model_copy(update={"name": series_of(data), "csv": None, "date": date})
        return experiment.model_copy(update={"data": changed})
    assert isinstance(config, DensityData)
    arrays = arrays_of(data)
    missing = [part for part in ("train", "test") if part not in arrays]
    if missing:
        raise InputError(f"data: there is no {missing[0]!r}: give arrays for train and test, and holdout to choose by")
    holdout = {"holdout": 0} if "holdout" in arrays else {}
    name = own_images(arrays, config.levels or LEVELS)
    return experiment.model_copy(update={"data": config.model_copy(update={"name": name, **holdout})})


def arrays_of(data: Any, part: str = "test") -> dict[str, NDArray[np.uint8]]:
    """Return images by part, as (n, height, width, channels).

    Args:
        data: a mapping of parts to arrays, with `"layout": "NCHW"` where they are (n, channels, height, width); or an
            array of `part` alone.
        part: whose an array alone is.

    Raises:
        InputError: something else.
    """
    if isinstance(data, pd.DataFrame):
        raise InputError("data: a frame is a series; a density model takes arrays of uint8 images")
    given = dict(data) if isinstance(data, Mapping) else {part: data}
    layout = given.pop("layout", "NHWC")
    if layout not in LAYOUTS:
        raise InputError(f"data: layout: {layout!r}{did_you_mean(str(layout), LAYOUTS)}")
    try:
        arrays = {str(name): np.asarray(array) for name, array in given.items()}
    except ValueError as error:  # lists of unequal lengths
        raise InputError(f"data: no array of images: {one_line(error)}") from error
    if layout == "NCHW":
        arrays = {name: array.transpose(0, 2, 3, 1) if array.ndim == 4 else array for name, array in arrays.items()}
    return arrays


def series_of(frame: Any) -> str:
    """Make a frame with a DatetimeIndex or a date column known, and return the name of its set.

    A frame is what its CSV file is: same fingerprint, same figures.
    """
    if not isinstance(frame, pd.DataFrame):
        raise InputError(
            f"data: {type(frame).__name__}: a forecaster takes a pandas DataFrame with a DatetimeIndex or a date column"
        )
    indexed = isinstance(frame.index, pd.DatetimeIndex)
    return own_series(frame.to_csv(index=indexed, index_label="date" if indexed else None).encode())
