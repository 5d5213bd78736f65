import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from flowbench.forecasting.series import Series


@pytest.fixture
def make_series() -> Callable[..., Series]:
    """A daily cycle and noise in three columns, OT in the middle."""

    def make(rows: int = 1000, freq: str = "1h", seed: int = 0) -> Series:
        generator = np.random.default_rng(seed)
        hours = np.arange(rows)[:, None]
        values = np.sin(2 * np.pi * hours / 24 + np.arange(3)) * [1, 5, 20] + generator.normal(size=(rows, 3)) + 7
        dates = pd.date_range("2020-01-01", periods=rows, freq=freq)
        return Series(dates, values, ("a", "OT", "b"), Path("made.csv"), hashlib.sha256(values.tobytes()).hexdigest())

    return make
