"""The report of a table: its files and one self-contained page, from a results file and its run folders."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flowbench.report.exports import write_sheet
from flowbench.report.gallery import embed_within
from flowbench.report.page import render, write_page
from flowbench.report.section import Place, Section
from flowbench.report.table_section import table_section

__all__ = ["build", "write_report"]


def build(results: Mapping[str, Any], *, base: Path, out: Path, redraw: bool = True) -> Path:
    """Write table.csv, table.md, table.tex, the plots and report.html, and return the last one's path.

    Args:
        results: the content of a results.json.
        base: the folder that the runs' paths in `results` are relative to.
        out: where to write.
        redraw: draw every plot again; otherwise one that is newer than its data is kept.
    """
    place = Place(out, redraw=redraw)
    return write_report(out / "report.html", [table_section(results, base=base, place=place)], out, place.page_bytes)


def write_report(page: Path, sections: Sequence[Section], tables: Path, page_bytes: int) -> Path:
    """Write the tables of all sections as files into `tables`, and the page that shows them; return the page."""
    for section in sections:
        for sheet in section.sheets:
            write_sheet(sheet, tables)
    title = sections[0].title if len(sections) == 1 else "Results"
    without_pictures = render("report.html.j2", title=title, sections=sections)
    galleries = [plots for section in sections for plots in section.galleries]
    embed_within(page_bytes - len(without_pictures.encode()), galleries)
    return write_page(page, "report.html.j2", title=title, sections=sections)
