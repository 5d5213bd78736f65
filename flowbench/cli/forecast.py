"""`flowbench forecast`: a trained forecaster at work."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from flowbench.cli import app
from flowbench.cli.arguments import JSON, RUN, parse_levels
from flowbench.cli.lines import say


@app.command()
def forecast(
    run: RUN,
    data: Annotated[
        str | None, typer.Option(help="A CSV file with the training's columns, or a known set [default: its own].")
    ] = None,
    rolling: Annotated[
        bool, typer.Option("--rolling", help="Walk over the file, each block fed by the true rows before it.")
    ] = False,
    samples: Annotated[
        int, typer.Option(min=0, help="Paths to draw of each block, of a model that forecasts distributions.")
    ] = 0,
    quantiles: Annotated[
        str | None, typer.Option(metavar="Q,Q,…", help="Levels of such a model's quantiles: 0.05,0.5,0.95.")
    ] = None,
    as_json: JSON = False,
) -> None:
    """Forecast the rows after a file's end, or roll over a second file; writes a CSV and a plot into the run.

    Example: `flowbench forecast etth/nlinear --rolling --data etth2`

    Example: `flowbench forecast etth/nlinear-flow --samples 100 --quantiles 0.05,0.5,0.95`
    """
    from flowbench.runs.folder import find_run
    from flowbench.trained.forecasting import forecast_run

    levels = () if quantiles is None else parse_levels(quantiles)
    done = forecast_run(find_run(run), data, rolling=rolling, samples=samples, quantiles=levels)
    if as_json:
        typer.echo(json.dumps(asdict(done), default=str))
        return
    stopped = "" if done.stopped is None else f" ({done.stopped})"
    typer.echo(f"{done.rows} rows: {done.csv}{stopped}\nplot: {done.plot}")
    if done.mae is not None:
        by_column = ", ".join(f"{name} {value:.4f}" for name, value in done.mae_per_column.items())
        original = (
            f"in original units {by_column}" if done.mae_original is None else f"{done.mae_original:.4f} {done.unit}"
        )
        typer.echo(f"MAE {done.mae:.4f} (normalized), {original}{stopped}")
    for note in done.notes:
        say(f"note: {note}", err=True)
