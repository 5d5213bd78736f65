"""`flowbench throughput`: time the passes, compare two result files, fail on a regression."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from flowbench.cli import app
from flowbench.cli.arguments import JSON, parse_percentage, whole_numbers
from flowbench.cli.lines import say
from flowbench.errors import CheckFailedError, InputError

if TYPE_CHECKING:
    from flowbench.throughput.formats import Figures

_throughput = typer.Typer(
    no_args_is_help=True,
    help="Time the passes of a model, compare results, catch regressions.\n\n"
    "Example: `flowbench throughput run real_nvp/cifar10-small --threads 1 --out now.json`",
)
app.add_typer(_throughput, name="throughput")

_ALL = "train,forward,inverse"
_PAGE = Path("results") / "throughput"


@_throughput.command()
def run(
    experiments: Annotated[list[str], typer.Argument(help="Experiments, then KEY=VALUE overrides for all of them.")],
    passes: Annotated[str, typer.Option(help="Which passes.")] = _ALL,
    batch: Annotated[str, typer.Option(help="Batch sizes, e.g. 16,64.")] = "16",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads [default: torch's own choice].")] = None,
    device: Annotated[Literal["cpu", "cuda"] | None, typer.Option(help="[default: cuda where there is one]")] = None,
    repeats: Annotated[int, typer.Option(min=5, help="Samples of each figure.")] = 40,
    out: Annotated[
        Path | None,
        typer.Option(help="The result file [default: one under results/throughput/, by device, time and commit]."),
    ] = None,
    as_json: JSON = False,
) -> None:
    """Time the passes on random images (no data set is needed), each in alternation with its own convolutions.

    floor ratio = time of a pass / time of its convolutions alone: 1 is the floor. It follows the code, not the machine.
    The report in results/throughput/ shows what was measured, and this device's history where there is one.

    Example: `flowbench throughput run real_nvp/cifar10 glow/cifar10 --batch 16 --threads 1 --out now.json`
    """
    from flowbench.report import build_from
    from flowbench.throughput.formats import result_table
    from flowbench.throughput.jobs import check_passes, run_and_store
    from flowbench.throughput.naming import changed_preset

    names = [one for one in experiments if "=" not in one]
    if not names:
        raise InputError("give at least one experiment, for example real_nvp/cifar10")
    overrides = [one for one in experiments if "=" in one]
    content, path = run_and_store(
        [changed_preset(name, overrides) for name in names],
        passes=check_passes(passes),
        batches=_batches(batch),
        threads=threads,
        device=device,
        repeats=repeats,
        out=out,
    )
    # A folder of our own making holds one device: the page then has its history.
    page = build_from([str(path if out else path.parent)], _PAGE)
    if as_json:
        typer.echo(json.dumps(content))
    else:
        _print(result_table(content["results"]))
        typer.echo(f"written to {path}")
        typer.echo(f"report: {page}")


@_throughput.command()
def compare(
    a: Annotated[Path, typer.Argument(help="A result file.")],
    b: Annotated[Path, typer.Argument(help="Another one: ratios are its figures over those of the first.")],
    as_json: JSON = False,
) -> None:
    """Show two result files side by side, with ratios and their 95 % bootstrap intervals.

    Example: `flowbench throughput compare before.json after.json`
    """
    from flowbench.throughput.comparison import compare as compare_results
    from flowbench.throughput.files import read_results
    from flowbench.throughput.formats import change_table

    changes = compare_results(read_results(a), read_results(b))
    if as_json:
        typer.echo(json.dumps([asdict(change) for change in changes]))
    else:
        _print(change_table(changes))


@_throughput.command()
def gate(
    current: Annotated[Path, typer.Argument(help="A result file.")],
    baseline: Annotated[Path, typer.Option(help="The result file that it is held against.")],
    max_slowdown: Annotated[str, typer.Option(help="What is allowed, e.g. 5%.")] = "5%",
    metric: Annotated[
        Literal["floor_ratio", "images_per_second"],
        typer.Option(help="floor_ratio on shared or noisy machines; images_per_second on one quiet machine."),
    ] = "floor_ratio",
    as_json: JSON = False,
) -> None:
    """Fail (exit 1) if a pass is slower than the baseline's by more than the limit and the difference is clear.

    Example: `flowbench throughput gate now.json --baseline before.json --max-slowdown 5%`
    """
    from flowbench.throughput.comparison import elsewhere, not_judged, regression
    from flowbench.throughput.comparison import gate as judge
    from flowbench.throughput.files import read_results
    from flowbench.throughput.formats import verdict_table

    limit = parse_percentage(max_slowdown)
    before, now = read_results(baseline), read_results(current)
    verdicts = judge(now, before, max_slowdown=limit, metric=metric)
    for note in (elsewhere(now, before), not_judged(now, before)):
        if note is not None:
            say(f"note: {note}", err=True)
    if as_json:
        typer.echo(json.dumps([asdict(verdict) for verdict in verdicts]))
    else:
        _print(verdict_table(verdicts))
    problem = regression(verdicts, before, limit)
    if problem:
        raise CheckFailedError(problem)
    if not as_json:
        counted = f"{len(verdicts)} pass{'' if len(verdicts) == 1 else 'es'}"
        typer.echo(f"passed: {counted}, none clearly slower than the baseline by more than {limit:.0%}")


def _batches(text: str) -> list[int]:
    batches = whole_numbers(text)
    if not batches or 0 in batches:
        raise InputError(f"--batch {text!r}: write whole numbers with commas and without leading zeros: 16,64")
    return batches


def _print(figures: "Figures") -> None:
    from rich.console import Console

    # A pipe has no width: lines are not folded there, so that they can be searched.
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    console.print(figures.on_terminal(console.width))
