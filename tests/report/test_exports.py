import csv
import io
import re
import subprocess
from pathlib import Path
from shutil import which

import pytest

from flowbench.report.exports import FORMATS, sheet_csv, sheet_latex, sheet_markdown, write_sheet
from flowbench.report.sheet import Cell, Column, Sheet, number_cell

COLUMNS = [Column("row"), Column("ours", numeric=True), Column("labels")]


def sheet(*rows: list[Cell], **more: object) -> Sheet:
    return Sheet("mine", "A table & its errors", COLUMNS, rows, **more)  # type: ignore[arg-type]


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\t=x", "\r\n@x", " =x"])
def test_texts_that_look_like_formulas_are_disarmed_and_numbers_stay_numbers(text: str) -> None:
    line = read(sheet_csv(sheet([Cell(text), number_cell(-1.234567, ".2f"), Cell("")])))[0]
    assert line["row"] == f"'{text.strip()}"
    assert float(line["ours"]) == -1.234567


def test_records_replace_the_shown_columns_in_the_csv_alone() -> None:
    made = sheet([Cell("a"), Cell("1.0"), Cell("")], records=[{"row": "a", "reason": "=x", "value": -1.5}])
    assert read(sheet_csv(made)) == [{"row": "a", "reason": "'=x", "value": "-1.5"}]
    assert "| a | 1.0 |" in sheet_markdown(made)


def test_small_print_has_a_column_of_its_own_in_csv() -> None:
    line = read(sheet_csv(sheet([Cell("a", note="n = 3"), Cell("1.0"), Cell("", badges=("quick", "dirty"))])))[0]
    assert line == {"row": "a", "row, note": "n = 3", "ours": "1.0", "labels": "quick, dirty"}


def test_markdown_cells_keep_their_columns_and_carry_no_html() -> None:
    lines = sheet_markdown(sheet([Cell("a|b\n<i>"), Cell("1"), Cell("")])).splitlines()
    assert lines[-1].replace("\\|", "").count("|") == lines[1].count("|") == 4
    assert "<i>" not in lines[-1]
    assert lines[1] == "| --- | ---: | --- |"


def test_latex_is_booktabs_with_every_special_character_escaped_and_the_values_right() -> None:
    nasty = "50% & $x_1^2$ #{a} ~b \\input{/etc/passwd} <3"
    text = sheet_latex(sheet([Cell(nasty), Cell("1.955 ± 0.013", strong=True), Cell("−0.010")]))
    line = next(line for line in text.splitlines() if "1.955" in line)
    assert line.endswith(r"\textbf{1.955 $\pm$ 0.013} & $-$0.010 \\")
    commands = set(re.findall(r"\\[a-zA-Z]+", line))
    assert commands <= {r"\textbf", r"\pm", r"\textbackslash", r"\textasciitilde", r"\textasciicircum", r"\textless"}
    bare = re.sub(r"\\[&%$#_{}]|\\[a-zA-Z]+", "", line)
    assert bare.count("&") == 2
    assert not set(bare) & set("%#_^~")
    assert all(word in text for word in (r"\toprule", r"\midrule", r"\bottomrule", r"\begin{tabular}{lrl}"))
    assert r"A table \& its errors" in text


@pytest.mark.slow
@pytest.mark.skipif(which("pdflatex") is None, reason="pdflatex is not installed")
@pytest.mark.parametrize("rows", [1, 100])
def test_latex_compiles_and_no_row_is_cut_off(tmp_path: Path, rows: int) -> None:
    nasty = '50% & $x_1^2$ #{a} ~b <3 |x| "y" ± − × ≤ ≥ α – …'
    table = sheet_latex(sheet(*[[Cell(nasty), Cell("1.955", strong=True), Cell("quick")]] * rows))
    packages = re.findall(r"\\usepackage\S+", table.splitlines()[0])
    body = "\n".join([r"\documentclass{article}", *packages, r"\begin{document}", table, r"\end{document}"])
    (tmp_path / "a.tex").write_text(body)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "a.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-1000:]
    assert "too large" not in done.stdout


def test_a_sheet_is_written_in_every_form(tmp_path) -> None:
    paths = write_sheet(sheet([Cell("a"), Cell("1"), Cell("")]), tmp_path)
    assert {path.name for path in paths} == {f"mine.{suffix}" for suffix in FORMATS}
    assert all(path.read_text() for path in paths)


def test_a_row_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match="2 cells under 3 columns"):
        sheet([Cell("a"), Cell("1")])
