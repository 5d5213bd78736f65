import re
from xml.etree import ElementTree

import numpy as np
import pytest

from flowbench.figures.theme import new_figure, save, svg_text, themed
from flowbench.report.vector import compact_svg


@pytest.fixture(scope="module")
def drawing() -> str:
    """Lines, markers, an image, text that looks like markup and numbers, a rotated label, a legend."""
    with themed():
        figure = new_figure(6.4, 3.2)
        left, right = figure.subplots(1, 2)
        x = np.linspace(0, 30, 400)
        left.plot(x, np.sin(x), label="0.123456789 <b> & 'q'")
        left.plot(x[::40], np.cos(x[::40]), "o--", label="cos")
        left.set(xlabel="step", ylabel="0.98765 per step")
        left.legend()
        right.imshow(np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8))
        return svg_text(figure)


def words(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")]


def ends(svg: str) -> list[list[tuple[float, float]]]:
    """The points of every path that is made of straight lines."""
    found = []
    for data in re.findall(r' d="([^"]*)"', svg):
        if re.search(r"[CQ]", data):
            continue
        points, at = [], (0.0, 0.0)
        for command, numbers in re.findall(r"([MLl])([^MLlz]*)", data):
            x, y = map(float, re.findall(r"-?\d+(?:\.\d+)?", numbers))
            at = (at[0] + x, at[1] + y) if command == "l" else (x, y)
            points.append(at)
        found.append(points)
    return found


def test_a_compact_drawing_has_the_same_words_and_lines_in_half_the_bytes(drawing: str) -> None:
    small = compact_svg(drawing)
    assert len(small) < 0.5 * len(drawing)
    assert words(small) == words(drawing)
    assert "0.123456789 <b> & 'q'" in words(small)
    before, after = ends(drawing), ends(small)
    assert len(before) == len(after) > 20
    for one, other in zip(before, after, strict=True):
        # Points that fall on the one before are left out: every point lies where one was.
        distances = np.abs(np.array(other)[:, None] - np.array(one)[None]).max(axis=2)
        assert distances.min(axis=1).max() <= 0.0501
        assert distances.min(axis=0).max() <= 0.1501


def test_styles_are_the_same_for_every_element(drawing: str) -> None:
    def looks(svg: str) -> list[tuple[str, str]]:
        rules = dict(re.findall(r"\.(s\d+)\{([^}]*)\}", svg))
        found = []
        for element in ElementTree.fromstring(svg).iter():
            style = element.get("style") or rules.get(element.get("class", ""), "")
            style += f"; clip-path: {element.get('clip-path')}" if element.get("clip-path") else ""
            if style:
                found.append(
                    (element.tag, "; ".join(sorted(part.strip() for part in style.split(";") if part.strip())))
                )
        return found

    fonts = "'Arial', 'DejaVu Sans', 'Liberation Sans', 'Bitstream Vera Sans', sans-serif"
    assert fonts in drawing
    assert looks(compact_svg(drawing)) == looks(drawing.replace(fonts, "Arial,sans-serif"))


def test_every_reference_inside_still_has_its_target(drawing: str) -> None:
    small = compact_svg(drawing)
    targets = set(re.findall(r' id="([^"]*)"', small))
    assert set(re.findall(r'(?:url\(#|href="#)([^)"]*)', small)) == targets


def test_again_and_of_another_program_it_is_as_it_was(drawing: str, tmp_path) -> None:
    small = compact_svg(drawing)
    assert compact_svg(small) == small
    with themed():
        described = save(new_figure(2, 1), tmp_path / "a.svg", "What it shows.").read_text()
    assert "What it shows." in compact_svg(described)
    assert compact_svg(compact_svg(described)) == compact_svg(described)
    foreign = '<svg xmlns="http://www.w3.org/2000/svg"><g id="a" class="x" style="fill: red"/></svg>'
    assert compact_svg(foreign) == foreign
