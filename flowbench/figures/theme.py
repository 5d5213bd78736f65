"""One look for all figures: a seaborn theme, colour-blind-safe, the same model in the same colour everywhere."""

import hashlib
import html
import io
import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from flowbench.system.atomic import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["color_of", "description_of", "entitle", "new_figure", "save", "svg_text", "themed"]

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
_GREY, _LIGHT_GREY = ".15", ".8"
_STYLE: dict[Any, Any] = {
    **dict.fromkeys(("figure.facecolor", "axes.facecolor"), "white"),
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), _GREY),
    **dict.fromkeys(("axes.edgecolor", "grid.color"), _LIGHT_GREY),
    **dict.fromkeys(("xtick.direction", "ytick.direction"), "out"),
    **dict.fromkeys(("xtick.bottom", "xtick.top", "ytick.left", "ytick.right"), False),
    **dict.fromkeys(("axes.axisbelow", "axes.grid", "axes.spines.left", "axes.spines.bottom"), True),
    "font.family": ["sans-serif"],
    "font.sans-serif": ["Arial", "DejaVu Sans", "Liberation Sans", "Bitstream Vera Sans", "sans-serif"],
    "patch.edgecolor": "w",
    "patch.force_edgecolor": True,
    "grid.linestyle": "-",
    "lines.solid_capstyle": "round",
    **dict.fromkeys(("axes.linewidth", "xtick.major.width", "ytick.major.width"), 1.25),
    **dict.fromkeys(("grid.linewidth", "patch.linewidth", "xtick.minor.width", "ytick.minor.width"), 1.0),
    "lines.linewidth": 1.5,
    "lines.markersize": 6,
    **dict.fromkeys(("xtick.major.size", "ytick.major.size"), 6),
    **dict.fromkeys(("xtick.minor.size", "ytick.minor.size"), 4),
    **dict.fromkeys(("font.size", "axes.labelsize", "axes.titlesize", "legend.title_fontsize"), 10.8),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize"), 9.9),
}
"""Seaborn's whitegrid and its notebook context at a font scale of 0.9, as fixed values (a test compares): to import
seaborn takes as long as to draw some pictures."""
CHARACTERS_AN_INCH = 9
"""Of a figure's title."""
_MODELS = {
    "real_nvp": 0,
    "glow": 1,
    "nice": 2,
    "iafvae": 6,
    "tarflow": 8,
    "independent": 7,
    "pixelcnn": 4,
    "published": 3,
    "linear": 0,
    "nlinear": 1,
    "dlinear": 2,
    "lstm2lstm": 3,
    "patchtst": 4,
    "itransformer": 6,
    "seasonal_naive": 5,
    "repeat_last": 7,
    "mean": 8,
    "gaussian": 7,
    "empirical": 5,
    "nlinear_flow": 1,
    "lstm_flow": 3,
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
    from cycler import cycler

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
    with mpl.rc_context(_STYLE | extra):
        yield


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure of this size in inches, drawn by Agg: no window opens (call inside `themed`)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def entitle(figure: "Figure", title: str) -> None:
    """Put a title over the figure, in as many lines as its width asks for."""
    lines = (textwrap.wrap(line, int(CHARACTERS_AN_INCH * figure.get_figwidth())) for line in title.split("\n"))
    figure.suptitle("\n".join(part for line in lines for part in line))


def save(figure: "Figure", path: Path, description: str = "") -> Path:
    """Write the figure, in the format of the path's suffix, atomically and without dates: same figure, same bytes.

    Args:
        figure: what is written.
        path: of the file: .png, .svg or .pdf.
        description: what the picture shows, in words; kept inside the file, where `description_of` finds it.
    """
    undated, described = {
        ".png": ("Software", "Description"), ".svg": ("Date", "Description"), ".pdf": ("CreationDate", "Subject")
    }[path.suffix]  # fmt: skip
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], metadata={undated: None, described: description})
    return path


def svg_text(figure: "Figure") -> str:
    """Return the figure as SVG without dates."""
    content = io.StringIO()
    figure.savefig(content, format="svg", metadata={"Date": None})
    return content.getvalue()


def description_of(path: Path) -> str:
    """Return what `save` was told that a PNG, SVG or WebP shows; empty where the file does not say."""
    try:
        if path.suffix == ".svg":
            return _described(path.read_text(encoding="utf-8"))
        with Image.open(path) as image:
            xmp = image.info.get("xmp", b"")
            return str(image.info.get("Description", "")).strip() or _described(xmp.decode("utf-8", "replace"))
    except (OSError, ValueError, SyntaxError):
        return ""


def _described(metadata: str) -> str:
    found = re.search(r"<dc:description>(.*?)</dc:description>", metadata, re.DOTALL)
    return html.unescape(re.sub(r"<[^>]*>", "", found[1])).strip() if found else ""
