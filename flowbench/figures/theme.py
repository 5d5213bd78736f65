"""One look for all figures: a seaborn theme, colour-blind-safe, the same model in the same colour everywhere."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from flowbench.atomic import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["color_of", "new_figure", "save", "themed"]

# Okabe & Ito's palette, in seaborn's order ("colorblind"), as fixed values: importing this module loads no seaborn.
_PALETTE = (
    "#0173b2",
    "#de8f05",
    "#029e73",
    "#d55e00",
    "#cc78bc",
    "#ca9161",
    "#fbafe4",
    "#949494",
    "#ece133",
    "#56b4e9",
)
_MODELS = {
    "real_nvp": 0,
    "glow": 1,
    "nice": 2,
    "independent": 7,
    "published": 3,
    "linear": 0,
    "nlinear": 1,
    "dlinear": 2,
    "lstm2lstm": 3,
    "patchtst": 4,
    "itransformer": 4,
    "seasonal_naive": 5,
    "repeat_last": 7,
    "mean": 8,
}


def color_of(model: str) -> str:
    """Return a model's colour, "#rrggbb", the same in every figure; a model not known here gets one by its name."""
    if model in _MODELS:
        return _PALETTE[_MODELS[model]]
    return _PALETTE[hashlib.blake2b(model.encode()).digest()[0] % len(_PALETTE)]


@contextmanager
def themed() -> Iterator[None]:
    """Use the theme for figures that are made inside the block; matplotlib's settings are as before after it."""
    import matplotlib as mpl
    import seaborn
    from cycler import cycler

    style = seaborn.axes_style("whitegrid") | seaborn.plotting_context("notebook", font_scale=0.9)
    extra = {
        "figure.dpi": 150,
        "savefig.dpi": 150,
        "figure.constrained_layout.use": True,
        "axes.prop_cycle": cycler(color=list(_PALETTE)),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "svg.hashsalt": "flowbench",
        "svg.fonttype": "none",
    }
    with mpl.rc_context(style | extra):
        yield


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure of this size in inches, drawn by Agg: no window opens (call inside `themed`)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def save(figure: "Figure", path: Path) -> Path:
    """Write the figure, in the format of the path's suffix, atomically and without dates: same figure, same bytes."""
    dated = {".png": "Software", ".svg": "Date", ".pdf": "CreationDate"}
    key = dated.get(path.suffix)
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], metadata=None if key is None else {key: None})
    return path
