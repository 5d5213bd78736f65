"""Sheets as files: CSV that no spreadsheet takes for formulas, Markdown, and LaTeX with booktabs."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flowbench.report.sheet import Cell, Sheet
from flowbench.system import atomic

__all__ = ["FORMATS", "csv_lines", "sheet_csv", "sheet_latex", "sheet_markdown", "write_sheet"]

LONG = 40
"""Rows that a LaTeX table may have on one page; more run over several."""
_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
    "|": "\\textbar{}",
    '"': "\\textquotedbl{}",
    "±": "$\\pm$",
    "−": "$-$",
    "×": "$\\times$",
    "≤": "$\\leq$",
    "≥": "$\\geq$",
    "α": "$\\alpha$",
    "–": "--",
    "…": "\\ldots{}",
}


def csv_lines(lines: Iterable[Iterable[Any]]) -> str:
    """Return lines of values as CSV with full precision; texts that a spreadsheet would take for formulas are quoted.

    A number stays a number, "-1.2" included; only text can be a formula (OWASP: CSV injection).
    """
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    for line in lines:
        writer.writerow([_disarmed(value) for value in line])
    return target.getvalue()


def sheet_csv(sheet: Sheet) -> str:
    """Return the sheet as CSV: values in full precision, the cells' small print in columns of their own."""
    if sheet.records:
        return csv_lines([list(sheet.records[0]), *(list(record.values()) for record in sheet.records)])
    noted = [any(row[place].note for row in sheet.rows) for place in range(len(sheet.columns))]
    head: list[str] = []
    for column, has_note in zip(sheet.columns, noted, strict=True):
        head += [column.name, f"{column.name}, note"] if has_note else [column.name]
    lines: list[list[Any]] = [head]
    for row in sheet.rows:
        line: list[Any] = []
        for cell, has_note in zip(row, noted, strict=True):
            value = cell.value if cell.value is not None else _words(cell)
            line += [value, cell.note] if has_note else [value]
        lines.append(line)
    return csv_lines(lines)


def sheet_markdown(sheet: Sheet) -> str:
    """Return the sheet as GitHub's Markdown, numbers to the right."""
    lines = [
        [column.name for column in sheet.columns],
        ["---:" if column.numeric else "---" for column in sheet.columns],
        *([f"{_words(cell)} ({cell.note})" if cell.note else _words(cell) for cell in row] for row in sheet.rows),
    ]
    return "".join("| " + " | ".join(_markdown(cell) for cell in line) + " |\n" for line in lines)


def sheet_latex(sheet: Sheet) -> str:
    """Return the sheet as a LaTeX table (needs booktabs; longtable for more than 40 rows), without the small print."""
    head = [f"\\textbf{{{_latex(column.name)}}}" for column in sheet.columns]
    body = [[_bold(cell) for cell in row] for row in sheet.rows]
    kinds = "".join("r" if column.numeric else "l" for column in sheet.columns)
    lines = [" & ".join(line) + " \\\\" for line in body]
    top = ["\\toprule", " & ".join(head) + " \\\\", "\\midrule"]
    title = [f"\\caption{{{_latex(sheet.caption)}}}", f"\\label{{tab:{_label(sheet.name)}}}"]
    if len(lines) > LONG:
        # A float is never broken: what does not fit on one page would be cut off.
        first = [f"\\begin{{longtable}}{{{kinds}}}", *title, "\\\\", *top, "\\endfirsthead"]
        packages, begin = "booktabs,longtable", [*first, *top, "\\endhead"]
        end = ["\\end{longtable}"]
    else:
        packages, begin = "booktabs", ["\\begin{table}", "\\centering", *title, f"\\begin{{tabular}}{{{kinds}}}", *top]
        end = ["\\end{tabular}", "\\end{table}"]
    note = f"% \\usepackage{{{packages}}} \\usepackage[T1]{{fontenc}}"
    return "\n".join([note, *begin, *lines, "\\bottomrule", *end, ""])


FORMATS = {"csv": sheet_csv, "md": sheet_markdown, "tex": sheet_latex}
"""The forms that every table can be had in, by the suffix of their files."""


def write_sheet(sheet: Sheet, folder: Path) -> list[Path]:
    """Write the sheet in every form beside each other: `folder/<name>.csv`, `.md`, `.tex`; return the paths."""
    paths = []
    for suffix, form in FORMATS.items():
        atomic.write_text(folder / f"{sheet.name}.{suffix}", form(sheet))
        paths.append(folder / f"{sheet.name}.{suffix}")
    return paths


def _words(cell: Cell) -> str:
    return ", ".join([*([cell.text] if cell.text else []), *cell.badges])


def _markdown(text: str) -> str:
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return " ".join(escaped.replace("|", "\\|").split())


def _bold(cell: Cell) -> str:
    text = _latex(_words(cell))
    return f"\\textbf{{{text}}}" if cell.strong else text


def _latex(text: str) -> str:
    return " ".join("".join(_LATEX.get(character, character) for character in text).split())


def _label(name: str) -> str:
    return "".join(character if character.isalnum() else "-" for character in name)


def _disarmed(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    # One line each: Python before 3.13 leaves a lone carriage return unquoted.
    text = " ".join(value.split())
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
