"""Frames that know the page that was written of them."""

from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from flowbench.config.schema import Experiment

__all__ = ["Frame"]


class Frame(pd.DataFrame):
    """A pandas frame with the page that shows it; a part of it is a plain frame."""

    _metadata: ClassVar[list[str]] = ["page", "words", "best"]

    page: Path | None
    """The HTML page that was written; None: none was."""
    words: tuple[str, ...]
    """What there is to say of it, a line each."""
    best: Experiment[Any, Any] | None
    """Of a study: the best configuration, an experiment; None: there is none yet."""

    @classmethod
    def of(
        cls,
        rows: Any,
        page: Path | None = None,
        words: tuple[str, ...] = (),
        best: Experiment[Any, Any] | None = None,
    ) -> "Frame":
        """Return the rows as a frame."""
        frame = cls(rows)
        frame.page, frame.words, frame.best = page, words, best
        return frame
