"""How the docs are built: the settings that notebooks run under, the page of the commands made of the commands."""

import os
from typing import Any

from typer import Context
from typer.cli import get_docs_for_click
from typer.main import get_command

MARK = "<!-- the commands -->"
SETTINGS = {"FLOWBENCH_TRACKING": "off", "FLOWBENCH_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def on_startup(**_: Any) -> None:
    """Let notebooks run on one thread, without MLflow and without the network."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the help of every command where a page asks for it."""
    return markdown.replace(MARK, _commands()) if MARK in markdown else markdown


def _commands() -> str:
    from flowbench.cli import app

    group = get_command(app)
    return get_docs_for_click(obj=group, ctx=Context(group, info_name="flowbench"), indent=1, name="flowbench")
