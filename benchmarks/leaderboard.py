"""Enter a finished run in `reports/leaderboard.md`: `python benchmarks/leaderboard.py RUN_FOLDER [--out FILE]`.

A row is a training on one named GPU from a commit without changes whose test figure reaches one of the two targets; its
minutes are those of all its training steps.
"""

import argparse
import re
from pathlib import Path
from typing import Any

from flowbench.errors import InputError
from flowbench.runs.folder import RunFolder
from flowbench.system.atomic import write_text

TARGETS = (3.49, 3.65)
"""Bits/dim on CIFAR-10's test images: the paper's Real NVP, and the first step there."""
LEADERBOARD = Path(__file__).parents[1] / "reports" / "leaderboard.md"
NONE_YET = "| none yet | | | | | |"


def row(run: RunFolder) -> str:
    """Return the run's line; InputError says why it has none."""
    result, environment = run.result, run.environment
    if result["dataset"] != "cifar10" or "test" not in result["metrics"]:
        raise InputError(f"{run.path}: the targets are bits/dim on CIFAR-10's test images")
    figure: dict[str, Any] = result["metrics"]["test"]["bits_per_dim"]
    if environment["device"] != "cuda":
        raise InputError(f"{run.path}: was trained on {environment['device_name']}: the board is of GPUs")
    if result["data_status"] != "verified" or figure["n"] != 10_000:
        raise InputError(
            f"{run.path}: measured on {figure['n']} images, {result['data_status']}: all 10,000 are asked for"
        )
    if environment["commit"] is None or environment["dirty"]:
        raise InputError(f"{run.path}: no commit has the code that it ran: commit it, and train again")
    reached = next((target for target in TARGETS if figure["value"] <= target), None)
    if reached is None:
        raise InputError(f"{run.path}: {figure['value']:.3f} bits/dim reach neither {TARGETS[0]} nor {TARGETS[1]}")
    cells = [
        f"{reached}",
        environment["device_name"],
        f"{result['train_seconds'] / 60:.1f}",
        f"{figure['value']:.3f} ± {figure['stderr']:.3f}",
        f"{result['experiment']} ({result['config_sha256'][:12]})",
        environment["commit"][:12],
    ]
    return f"| {' | '.join(cells)} |"


def enter(line: str, board: Path) -> None:
    """Put a line into the board's table, sorted by target and minutes; the same line again changes nothing."""
    text = board.read_text(encoding="utf-8")
    head, rule, rest = text.partition("|---|---|---|---|---|---|\n")
    if not rule:
        raise InputError(f"{board}: has no table of six columns")
    table = re.match(r"(\|.*\n)*", rest)
    assert table is not None
    lines = {*table[0].splitlines(), line} - {NONE_YET}
    ordered = sorted(lines, key=_target_and_minutes)
    write_text(board, head + rule + "\n".join(ordered) + "\n" + rest[table.end() :])


def _target_and_minutes(line: str) -> tuple[float, float]:
    cells = line.strip("| ").split(" | ")
    return float(cells[0]), float(cells[2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=LEADERBOARD)
    options = parser.parse_args()
    try:
        enter(line := row(RunFolder(options.run)), options.out)
    except InputError as error:
        parser.error(str(error))
    print(line)


if __name__ == "__main__":
    main()
