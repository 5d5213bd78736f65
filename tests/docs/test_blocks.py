"""Every code block of the README and of docs/ runs, document by document, in a copy of the checkout.

An HTML comment above a block says what is special: `file: PATH` writes it there, `insert: PATH after "TEXT"` puts it
into a file, `run with: OVERRIDES` makes it small, `not run: REASON` leaves it out.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
COPIED = ("flowbench", "experiments", "tests", "examples", "pyproject.toml")
FENCE = re.compile(r"^(?: *<!-- (?P<note>.+?) -->\n)?(?P<indent> *)```(?P<kind>\w*)\n(?P<text>.*?)^ *```$", re.S | re.M)
RUN_BY_CI = ("main command", "test command")


@dataclass(frozen=True)
class Block:
    line: int
    note: str
    kind: str
    text: str


def blocks(document: Path) -> list[Block]:
    content = document.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(content):
        lines = match["text"].splitlines()
        text = "\n".join(line.removeprefix(match["indent"]) for line in lines) + "\n"
        found.append(Block(content[: match.start()].count("\n") + 1, match["note"] or "", match["kind"], text))
    return found


def run(block: Block, folder: Path) -> None:
    action, _, argument = block.note.partition(": ")
    if action in (*RUN_BY_CI, "not run"):
        return
    if action == "file":
        target = folder / argument
        target.parent.mkdir(parents=True, exist_ok=True)
        assert not target.exists(), f"{argument} is there already"
        target.write_text(block.text, encoding="utf-8")
    elif action == "insert":
        insert(block.text, argument, folder)
    elif block.kind in ("bash", "python"):
        execute(block, argument if action == "run with" else "", folder)
    else:
        assert block.kind in ("text", "yaml", "json", "") or block.note, f"a block of {block.kind!r} cannot be run"


def insert(text: str, argument: str, folder: Path) -> None:
    match = re.fullmatch(r'(\S+) (after|before) "(.+)"', argument)
    assert match, argument
    target, place, anchor = folder / match[1], match[2], match[3]
    content = target.read_text(encoding="utf-8")
    assert content.count(anchor) == 1, f"{anchor!r} does not stand once in {match[1]}"
    new = f"{anchor}\n{text.rstrip()}" if place == "after" else f"{text}{anchor}"
    target.write_text(content.replace(anchor, new), encoding="utf-8")


def execute(block: Block, overrides: str, folder: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    settings = {"FLOWBENCH_TRACKING": "off", "FLOWBENCH_OFFLINE": "1", "FLOWBENCH_DATA": str(folder / "data")}
    environment = {**os.environ, **settings, "PATH": path, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    if block.kind == "bash":
        text = "".join(f"{line} {overrides}\n" if overrides else f"{line}\n" for line in block.text.splitlines())
        command = ["bash", "-euo", "pipefail", "-c", text]
    else:
        command = [sys.executable, "-c", block.text]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"line {block.line}: {done.stdout[-1500:]}\n{done.stderr[-3000:]}"


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_blocks_run(document: Path, tmp_path: Path) -> None:
    found = blocks(document)
    if all(block.note.startswith((*RUN_BY_CI, "not run")) or block.kind in ("text", "") for block in found):
        pytest.skip("no block to run")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name)  # with what is compiled, which is as old as its source
        else:
            shutil.copyfile(source, tmp_path / name)
    for block in found:
        run(block, tmp_path)


def test_the_documents_have_blocks_and_their_notes_are_understood() -> None:
    known = {"file", "insert", "run with", "not run", *RUN_BY_CI}
    found = {document.name: blocks(document) for document in DOCUMENTS}
    assert all(block.note.partition(": ")[0] in {*known, ""} for one in found.values() for block in one)
    fences = {document.name: len(re.findall(r"^ *```\w", document.read_text(), re.M)) for document in DOCUMENTS}
    assert {name: len(one) for name, one in found.items()} == fences
    commands = [block for block in found["extend.md"] if block.kind == "bash" and not block.note.startswith("not run")]
    assert len(commands) >= 5


def test_links_between_documents_lead_somewhere() -> None:
    for document in DOCUMENTS:
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text(encoding="utf-8")):
            if not link.startswith(("http:", "https:")):
                assert (document.parent / link).exists(), f"{document.name}: {link}"
