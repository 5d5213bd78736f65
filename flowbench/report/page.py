"""HTML pages: one base template, one style, one small script, no network.

A job's own page extends `base.html.j2` (blocks `lead`, `nav`, `main`) and uses the macros of `components.html.j2`:
`sheet(sheet)`, `plot(plot)`, `badge(name)`, `facts(mapping)`. Templates lie in `flowbench/report/templates/`.
"""

import base64
import hashlib
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from flowbench.report.badges import BADGES, meaning, tone
from flowbench.report.exports import FORMATS
from flowbench.report.sheet import Sheet
from flowbench.system import atomic
from flowbench.system.version import __version__

__all__ = ["render", "slug", "write_page"]


def render(template: str, **content: Any) -> str:
    """Return a page as HTML.

    Args:
        template: its file under `templates/`.
        content: what it shows; everything is escaped. `base.html.j2` wants `title`.
    """
    return str(_environment().get_template(template).render(**content))


def write_page(path: Path, template: str, **content: Any) -> Path:
    """Write a page atomically and return its path."""
    atomic.write_text(path, render(template, **content))
    return path


def slug(text: str) -> str:
    """Return text as an id or a file name: small letters, digits and `-`."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "x"


@cache
def _environment() -> Any:
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("flowbench.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = _asset("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment.globals.update(
        style=Markup(_asset("page.css")),
        script=Markup(script),
        script_hash=f"sha256-{digest}",
        flowbench_version=__version__,
        badge_tone=tone,
        badge_meaning=meaning,
        known_badges=BADGES,
        downloads=_downloads,
        slug=slug,
    )
    environment.filters["grouped"] = _grouped
    return environment


def _asset(name: str) -> str:
    return resources.files("flowbench.report").joinpath("templates", name).read_text(encoding="utf-8")


def _downloads(sheet: Sheet) -> list[tuple[str, str, str]]:
    """Return (label, file name, data: address) for each form of a sheet, so that the page alone has them all."""
    labels = {"csv": ("CSV", "text/csv"), "md": ("Markdown", "text/markdown"), "tex": ("LaTeX", "application/x-tex")}
    found = []
    for suffix, form in FORMATS.items():
        label, kind = labels[suffix]
        content = base64.b64encode(form(sheet).encode()).decode()
        found.append((label, f"{sheet.name}.{suffix}", f"data:{kind};charset=utf-8;base64,{content}"))
    return found


def _grouped(value: Any) -> str:
    """Return a value as people read it: thousands apart, words for a mapping, a dash for nothing."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.1f}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_grouped(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_grouped(item) for item in value)
    return str(value)
