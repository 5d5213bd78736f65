"""`flowbench data`: what the data sets are, prepare them, check them."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from flowbench.cli import app
from flowbench.cli.arguments import DATASET, JSON

if TYPE_CHECKING:
    from flowbench.data.preparing import SplitState

_data = typer.Typer(no_args_is_help=True, help="Data sets: list, prepare, verify.\n\nExample: `flowbench data list`")
app.add_typer(_data, name="data")


@_data.command("list")
def list_(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Sizes, sources, terms, citation and how to prepare each, too.")
    ] = False,
    as_json: JSON = False,
) -> None:
    """Say what data sets there are and which are here, a line each.

    Example: `flowbench data list -v`
    """
    from rich.console import Console

    from flowbench.data import data_root
    from flowbench.data.preparing import list_sets

    rows = list_sets()
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows]))
        return
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"Data root: {data_root()}\n", markup=False)
    for row in rows:
        here = f"here, {row.status}{_resized(row.resample)}" if row.present else "not here"
        console.print(f"{row.name}: {row.title} ({here})", style="bold" if verbose else None, markup=False)
        if not verbose:
            continue
        counts = ", ".join(f"{count:,} {split}" for split, count in row.counts.items()) or "as many images as you have"
        details = [
            f"{counts}; {_size(row.download_bytes)} to download, {_size(row.disk_bytes)} on disk",
            f"published: {row.published}",
            f"terms: {row.licence}" + (f"; cite: {row.citation}" if row.citation else ""),
            *(["flowbench never downloads it: get it from its publisher"] if row.by_hand else []),
            *([f"prepare: {row.command}{_or_source(row.command)}; PATH: {row.sources}"] if row.command else []),
        ]
        for line in details:
            console.print(f"  {line}", markup=False)
    if not verbose:
        console.print("\nSources, terms, sizes, and how to prepare them: flowbench data list -v", markup=False)


@_data.command()
def prepare(
    name: DATASET,
    source: Annotated[Path | None, typer.Option(help="The folder or archive that you have.")] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch it, where that is allowed.")] = False,
    own_name: Annotated[
        str | None, typer.Option("--name", help="Name of a set of your own (folder), for data.name=NAME.")
    ] = None,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Leave out broken images and other formats; the manifest counts them.")
    ] = False,
    resample: Annotated[
        Literal["pyramid", "bilinear", "tf1-bilinear", "antialias"] | None,
        typer.Option(help="Resizing: LSUN pyramid or bilinear, CelebA tf1-bilinear or antialias [default: the first]."),
    ] = None,
    size: Annotated[int | None, typer.Option(min=4, help="Shorter side in pixels (a folder of your own).")] = None,
    as_json: JSON = False,
) -> None:
    """Build the prepared arrays of a data set; the same call goes on where a killed one stopped.

    Example: `flowbench data prepare cifar10 --source cifar-10-python.tar.gz`
    """
    from flowbench.data.preparing import prepare as prepare_set
    from flowbench.data.preparing import progress_bar
    from flowbench.system.interruption import StopRequest

    with StopRequest() as stop, progress_bar() as progress:
        stop.at_once(f"{name}: stopped: the same command goes on with what is prepared")
        states = prepare_set(
            name, source, download, skip_broken, resample, own_name=own_name, size=size, progress=progress
        )
    _print_states(states, as_json=as_json)
    replaced = [f"{state.split}: {state.replaced[:16]}…" for state in states if state.replaced is not None]
    if replaced:
        typer.echo(
            f"flowbench: warning: {states[0].name}: other images than before ({', '.join(replaced)}), which runs "
            "trained on them need back; `data prepare folder --name NAME` keeps sets of your own side by side",
            err=True,
        )


@_data.command()
def verify(name: DATASET, as_json: JSON = False) -> None:
    """Recompute the fingerprints of a prepared set; exit 1 where they differ. A forecast set's stuck sensors are named.

    NAME may also be a CSV file of your own.

    Example: `flowbench data verify cifar10`
    """
    from flowbench.config.registry import series_sets
    from flowbench.data.preparing import SplitState
    from flowbench.data.preparing import verify as verify_set
    from flowbench.data.series import series_path
    from flowbench.forecasting.constant_runs import stuck_sensors
    from flowbench.forecasting.series import read_series

    own_file = name.lower().endswith(".csv")
    if not own_file and name not in series_sets:
        _print_states(verify_set(name), as_json=as_json, whole=True)
        return
    checked = [] if own_file else verify_set(name)
    series = read_series(name if own_file else series_path(name))
    states = checked or [SplitState(series.path.stem, series.path.name, len(series), series.sha256, "unverified", 0)]
    stuck = stuck_sensors(series, "ratio" if own_file else "informer")
    if as_json:
        typer.echo(json.dumps([{**asdict(state), "constant_runs": asdict(stuck)} for state in states]))
        return
    _print_states(states, as_json=False, whole=True)
    for line in stuck.lines:
        typer.echo(line)
    for note in series.notes:
        typer.echo(f"note: {note}", err=True)


def _print_states(states: "Sequence[SplitState]", *, as_json: bool, whole: bool = False) -> None:
    if as_json:
        typer.echo(json.dumps([asdict(state) for state in states]))
        return
    for state in states:
        skipped = f", {state.skipped} broken image{'s' * (state.skipped > 1)} left out" if state.skipped else ""
        kinds = ", ".join(f"{count} {kind}" for kind, count in state.not_taken.items())
        others = f", not taken: {kinds}" if kinds else ""
        others += f", {state.also_in_train:,} of them also in train" if state.also_in_train else ""
        fingerprint = state.fingerprint if whole else f"{state.fingerprint[:16]}…"
        known = f"{state.status}{_resized(state.resample)}{skipped}{others}"
        typer.echo(f"{state.name} {state.split}: {state.count:,}, {known} ({fingerprint})")


def _resized(resample: str | None) -> str:
    return "" if resample is None else f", resample {resample}"


def _or_source(command: str) -> str:
    return ", or --source PATH" if command.endswith("--download") else ""


def _size(count: int) -> str:
    if count == 0:
        return "nothing"
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(count / 1e6, 0.1):.1f} MB"
