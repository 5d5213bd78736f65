"""What people meet first: help with examples, completion, colours only where they are wanted."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main

from flowbench.cli import app
from flowbench.cli.arguments import complete

FLOWBENCH = Path(sys.executable).parent / "flowbench"


def commands() -> Iterator[tuple[str, object]]:
    waiting = [("", typer.main.get_command(app))]
    while waiting:
        name, command = waiting.pop()
        inner = getattr(command, "commands", None)
        if inner is None:
            yield name.strip(), command
        else:
            waiting += [(f"{name} {key}", value) for key, value in inner.items()]


@pytest.mark.parametrize(("name", "command"), list(commands()))
def test_every_command_shows_an_example_of_itself_and_explains_its_arguments(name: str, command: object) -> None:
    assert "Example: `" in command.help
    assert f"flowbench {name}" in command.help
    for parameter in command.params:
        assert getattr(parameter, "help", None) or parameter.name == "help", f"{name}: {parameter.name}"
        # Markdown takes a bare <word> for HTML and drops it.
        text = (getattr(parameter, "help", None) or "").split("`")
        assert not any("<" in part for part in text[::2]), f"{name}: {parameter.name}"


def test_groups_show_an_example_too_and_repeated_arguments_one_pair_of_brackets() -> None:
    whole = typer.main.get_command(app)
    groups = [whole, *(command for command in whole.commands.values() if hasattr(command, "commands"))]
    assert all("Example: `flowbench " in group.help for group in groups)
    for _, command in commands():
        assert not any("[" in (parameter.metavar or "") for parameter in command.params)


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("flowbench trai", "train"),
        ("flowbench train real_nvp/di", "real_nvp/digits"),
        ("flowbench reproduce et", "etth"),
        ("flowbench data verify cif", "cifar10"),
        ("flowbench evaluate real_nvp/d", "real_nvp/digits/mine"),
    ],
)
def test_the_shell_completes_names(tmp_path: Path, typed: str, wanted: str) -> None:
    run = tmp_path / "runs" / "real_nvp" / "digits" / "mine"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("")
    words = {"_FLOWBENCH_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1)}
    done = subprocess.run([FLOWBENCH], env={**os.environ, **words}, capture_output=True, text=True, cwd=tmp_path)
    assert wanted in done.stdout.split(), done.stderr


def test_a_completion_that_fails_says_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("flowbench.config.experiments.experiment_names", lambda: 1 / 0)
    assert complete("experiments")("real") == []
    assert complete("runs")("real") == []


@pytest.mark.skipif(shutil.which("script") is None, reason="util-linux's script gives a terminal; not installed")
@pytest.mark.parametrize("no_color", [False, True])
def test_colours_are_for_terminals_and_can_be_switched_off(no_color: bool) -> None:
    environment = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR")}
    environment |= {"TERM": "xterm-256color", "PYTHONPATH": os.pathsep.join(sys.path)}
    environment |= {"NO_COLOR": "1"} if no_color else {}
    shown = subprocess.run(
        ["script", "-qec", f"{FLOWBENCH} train --help", "/dev/null"], env=environment, capture_output=True, text=True
    ).stdout
    piped = subprocess.run([FLOWBENCH, "train", "--help"], env=environment, capture_output=True, text=True).stdout
    assert "Usage" in shown
    assert ("\x1b[33m" in shown or "\x1b[36m" in shown or "\x1b[1;3" in shown) is not no_color
    assert "\x1b" not in piped
