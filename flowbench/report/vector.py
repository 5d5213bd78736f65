"""Drawings in a third of their bytes: SVG as matplotlib writes it, without what nobody sees."""

import base64
import io
import re
from collections import Counter

from PIL import Image

from flowbench.report.raster import as_webp

__all__ = ["compact_svg"]

_PATH = re.compile(r"[MLz]|-?\d+(?:\.\d+)?")
_NUMBER = re.compile(r'(?<=[ "(])-?\d+\.\d{3,}(?=[ ,")])')


def compact_svg(text: str) -> str:
    """Return a drawing of matplotlib's that looks the same: lines to a tenth of a point, shared styles, no blanks.

    What it shows in words (`<dc:description>`) stays. Drawings of other programs are returned as they are.
    """
    if "Matplotlib v" not in text:
        return text
    text = re.sub(r"<!--.*?-->|<!DOCTYPE[^>]*>", "", text, flags=re.DOTALL)
    if "</dc:description>" not in text:
        text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' transform="rotate\(-?0 [^)]*\)"', "", text)
    text = re.sub(r'(?<= d=")[^"]*', lambda found: _path(" ".join(found[0].split())), text)
    text = re.sub(r"(?<=data:image/)png;base64,\s*([^\"]*)", _picture, text)
    text = re.sub(r"<[^?!][^>]*>", lambda tag: _NUMBER.sub(lambda found: f"{float(found[0]):.2f}", tag[0]), text)
    used = set(re.findall(r"#([\w.-]+)", text))
    text = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", text)
    text = re.sub(r">\s+<", "><", text).replace("<g/>", "")
    # Whoever has no Arial gets what stands for it there: the other names were matplotlib's list of the same.
    text = re.sub(r"(?<=font-family: )'Arial',[^;\"]*", "Arial,sans-serif", text)
    text = re.sub(r' clip-path="([^"]*)" style="([^"]*)"', r' style="\2; clip-path: \1"', text)
    return _with_classes(_without_groups(text)).strip() + "\n"


def _path(data: str) -> str:
    """Return a path of straight lines with each step relative to the one before, in tenths; others as they are."""
    parts = _PATH.findall(data)
    if "".join(parts) != data.replace(" ", ""):
        return data  # curves, such as the outline of a marker
    words, x, y, place = [], 0, 0, 0
    start = (0, 0)
    while place < len(parts):
        command = parts[place]
        if command == "z":
            words.append("z")
            (x, y), place = start, place + 1
            continue
        to = round(10 * float(parts[place + 1])), round(10 * float(parts[place + 2]))
        if command == "M":
            start = to
            words.append(f"M{_joined(*to)}")
        elif to != (x, y) or words[-1][0] == "M":  # the end of a line may have moved by less than a tenth
            words.append(f"l{_joined(to[0] - x, to[1] - y)}")
        (x, y), place = to, place + 3
    return "".join(words)


def _joined(*tenths: int) -> str:
    first, second = (f"{value / 10:.1f}".removesuffix(".0") for value in tenths)
    return f"{first}{second}" if second.startswith("-") else f"{first} {second}"


def _picture(found: re.Match[str]) -> str:
    with Image.open(io.BytesIO(base64.b64decode(found[1]))) as image:
        content = as_webp(image)
    return f"webp;base64,{base64.b64encode(content).decode()}"


def _without_groups(text: str) -> str:
    """Return a drawing without the groups that say nothing of what is in them."""
    kept: list[bool] = []  # of the groups that are open

    def seen(found: re.Match[str]) -> str:
        if found[0] != "</g>":
            kept.append(found[0] != "<g>")
            return found[0] if kept[-1] else ""
        return "</g>" if kept.pop() else ""

    return re.sub(r"<g(?: [^>]*[^>/])?>|</g>", seen, text)


def _with_classes(text: str) -> str:
    """Let elements of the same style share a class: names of fonts alone would be half of a small plot."""
    styles = Counter(re.findall(r' style="([^"]*)"', text))
    names = {style: f"s{place}" for place, style in enumerate(sorted(style for style in styles if styles[style] > 1))}
    rules = "".join(f".{name}{{{style}}}" for style, name in names.items())
    if "</style>" not in text:
        return text
    text = re.sub(
        r' style="([^"]*)"', lambda found: f' class="{names[found[1]]}"' if found[1] in names else found[0], text
    )
    return text.replace("</style>", f"{rules}</style>", 1)
