"""`flowbench doctor`: whether this machine is ready."""

import json
from dataclasses import asdict

import typer

from flowbench.cli import app
from flowbench.cli.arguments import JSON
from flowbench.cli.lines import say
from flowbench.errors import CheckFailedError


@app.command()
def doctor(as_json: JSON = False) -> None:
    """Look at versions, devices, threads, data sets, tracking and disk; exit 1 where something needs mending.

    Example: `flowbench doctor`
    """
    from flowbench.planning.doctor import examine

    findings = examine()
    problems = [finding for finding in findings if finding.remedy is not None]
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings]))
    else:
        for finding in findings:
            remedy = "" if finding.remedy is None else f" -> {finding.remedy}"
            say(f"{'ok  ' if finding.remedy is None else 'MEND'} {finding.subject}: {finding.words}{remedy}", 5)
    if problems:
        raise CheckFailedError(f"doctor: {len(problems)} to mend, first {problems[0].subject}: {problems[0].remedy}")
