"""How the docs are built: what notebooks run under and link to, and the page of the commands made of the commands."""

import os
import posixpath
import re
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page
from typer import Context
from typer.cli import get_docs_for_click
from typer.main import get_command

MARK = "<!-- the commands -->"
LINK = re.compile(r'href="(?P<path>(?!https?:)[^"#]+\.(?:md|ipynb))(?P<anchor>#[^"]*)?"')
SETTINGS = {"FLOWBENCH_TRACKING": "off", "FLOWBENCH_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def on_startup(**_: Any) -> None:
    """Let notebooks run on one thread, without MLflow and without the network."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the help of every command where a page asks for it."""
    return markdown.replace(MARK, _commands()) if MARK in markdown else markdown


def on_page_content(html: str, *, page: Page, files: Files, **_: Any) -> str:
    """Let the links of a notebook lead to pages, as mkdocs does for the other documents alone.

    Raises:
        PluginError: there is no such page.
    """
    here = page.file.src_uri

    def led(link: re.Match[str]) -> str:
        file = files.get_file_from_path(posixpath.normpath(posixpath.join(posixpath.dirname(here), link["path"])))
        if file is None:
            raise PluginError(f"{here}: links to {link['path']}, which is not there")
        return f'href="{file.url_relative_to(page.file)}{link["anchor"] or ""}"'

    return LINK.sub(led, html) if here.endswith(".ipynb") else html


def _commands() -> str:
    from flowbench.cli import app

    group = get_command(app)
    return get_docs_for_click(obj=group, ctx=Context(group, info_name="flowbench"), indent=1, name="flowbench")
