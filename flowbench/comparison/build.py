"""The page of a comparison: the table in every form, the plots, and what we would take."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from flowbench.comparison.entries import Entry, Field, differing, field_of_runs, field_of_study
from flowbench.comparison.plots import PLOTS, WHY_ABSENT, draw
from flowbench.comparison.ranking import Group, Ranking, rank
from flowbench.config.metric_words import BOUNDS
from flowbench.errors import InputError, why
from flowbench.report.exports import write_sheet
from flowbench.report.formats import unit
from flowbench.report.page import write_page
from flowbench.report.plot import Plot, save_plot
from flowbench.report.sheet import Cell, Column, Sheet, number_cell

if TYPE_CHECKING:
    import optuna

__all__ = ["compare_many", "compare_study", "recommendation"]


def compare_many(
    runs: Sequence[str], out: Path, title: str = "Runs", *, metric: str | None = None, split: str | None = None
) -> tuple[Path, list[str]]:
    """Compare finished runs: write `compare.html`, the table and the plots into `out`; return the page and its words.

    Arguments as of `field_of_runs`.

    Raises:
        InputError: fewer than two runs, an unknown or unfinished one, runs of different data.
    """
    if len(set(runs)) < 2:
        raise InputError(f"{title}: one run is nothing to compare: name at least two")
    return _write(field_of_runs(runs, title, metric=metric, split=split), out)


def compare_study(study: "optuna.Study", out: Path) -> tuple[Path, list[str]]:
    """Compare the trials of a study in the same way.

    Raises:
        InputError: no trial is complete.
    """
    field = field_of_study(study)
    if not any(entry.value is not None for entry in field.entries):
        raise InputError(f"study {study.study_name}: no trial is complete yet")
    return _write(field, out)


def recommendation(field: Field, ranking: Ranking) -> list[str]:
    """Return in plain words which is best, what is tied with it, and what to take."""
    best, take, ties = ranking.groups[0], ranking.recommended, ranking.ties
    varied = differing([entry for group in ranking.groups for entry in group.entries])
    lines = [f"best {unit(field.metric)} on {field.split}: {_figure(best)}, {best.name} ({_settings(best, varied)})"]
    kinds = dict.fromkeys(group.bound or "of unknown kind" for group in ranking.groups)
    if len(kinds) > 1:
        lines.append(
            f"not all of these are of one kind ({', '.join(kinds)}): a bound is at or above its model's own value, so "
            "that the order may be another one"
        )
    unknown = sum(group.tie is None for group in ranking.groups)
    if unknown:
        lines.append(f"whether {unknown} others are worse is not known: their noise is {ranking.by}")
    if len(ties) > 1:
        lines.append(f"{len(ties) - 1} of {len(ranking.groups) - 1} others are tied with it, by {ranking.by}")
    few, most = take.cost("parameters"), best.cost("parameters")
    if take is not best and few is not None and most:
        lines.append(
            f"take {take.name} ({_settings(take, varied)}): tied with the best, with {few:,.0f} parameters instead of "
            f"{most:,.0f}"
        )
    elif take is best and not unknown:
        lines.append("take the best: nothing that is tied with it is smaller")
    return lines


def _write(field: Field, out: Path) -> tuple[Path, list[str]]:
    ranking = rank(field.entries)
    sheet = _sheet(field, ranking, out)
    try:
        write_sheet(sheet, out)
        plots = _plots(field, ranking, out)
        words = recommendation(field, ranking)
        page = write_page(
            out / "compare.html",
            "compare.html.j2",
            title=field.title,
            words=words,
            facts=field.facts,
            command=field.command,
            sheet=sheet,
            plots=[plot for plot in plots.values() if plot is not None],
            absent=[WHY_ABSENT[name] for name, plot in plots.items() if plot is None],
            others=[(entry, _link(entry.path, out)) for entry in field.entries if entry.value is None],
        )
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {why(error)}: give another --out") from error
    return page, words


def _plots(field: Field, ranking: Ranking, out: Path) -> "dict[str, Plot | None]":
    plots: dict[str, Plot | None] = {}
    for name, (title, _, wide) in PLOTS.items():
        figure, plots[name] = draw(name, field, ranking), None
        if figure is not None:
            alt = f"{title}; {len(ranking.groups)} configs, best {unit(field.metric)} {ranking.groups[0].value:.3f}"
            plots[name] = save_plot(figure, out / "plots" / name, page=out, title=title, alt=alt, wide=wide)
    return plots


def _sheet(field: Field, ranking: Ranking, out: Path) -> Sheet:
    entries = [entry for group in ranking.groups for entry in group.entries]
    keys, bounds = differing(entries), [group.bound for group in ranking.groups]
    told = len(set(bounds)) > 1
    what = unit(field.metric)
    columns = [
        Column("Run"),
        *(Column(key, _is_numeric(key, entries)) for key in keys),
        Column(f"{what}, {field.split}", True, "mean ± sd over seeds; ± standard error for one seed"),
        *([Column("Bound", note="what the figure is of the likelihood")] if told else []),
        Column("Seeds", True),
        Column("Behind the best", True),
        Column("Parameters", True),
        Column("MFLOPs", True, f"per {field.unit[:-1]}"),
        Column(f"{field.unit.capitalize()}/s", True, "training"),
        Column("Steps", True),
    ]
    best = ranking.groups[0].value
    rows = []
    for group in ranking.groups:
        settings = [_setting(group.settings.get(key)) for key in keys]
        name = Cell(group.name, href=_link(group.entries[0].path, out))
        figure, *others = _figures(group, best)
        rows.append([name, *settings, figure, *([_bound(group)] if told else []), *others])
    counted = f"{field.unit.capitalize()}/s"
    caption = (
        f"Best {what} first (lower is better); only the settings that differ are shown. A difference within the noise "
        f"is a tie, at 95 %; the noise is {ranking.by}. {counted} are those of the training itself: rough on a shared "
        "machine."
    )
    return Sheet("compare", caption, columns, rows, records=_records(ranking, keys, best))


def _link(path: Path | None, out: Path) -> str | None:
    """Return the address of a run's folder on the page; None: it is on another machine."""
    return None if path is None else quote(Path(os.path.relpath(path, out)).as_posix())


def _figures(group: Group, best: float) -> list[Cell]:
    entry, flops = group.entries[0], group.cost("flops")
    words = "the best" if group.value == best else "" if group.tie is None else "tie" if group.tie else "worse"
    gap = Cell("–", note=words) if group.value == best else number_cell(group.value - best, "+.4f", note=words)
    return [
        Cell(_figure(group), group.value, strong=bool(group.tie)),
        Cell(str(len(group.entries)), len(group.entries)),
        gap,
        number_cell(_whole(group.cost("parameters")), ",d"),
        number_cell(None if flops is None else flops / 1e6, ",.2f"),
        number_cell(group.cost("speed"), ",.0f"),
        number_cell(entry.steps, ",d"),
    ]


def _bound(group: Group) -> Cell:
    bound = group.bound or ""
    return Cell(bound.replace("_", " ") or "–", note=BOUNDS.get(bound, ""))


def _records(ranking: Ranking, keys: Sequence[str], best: float) -> list[dict[str, Any]]:
    """Return a line for each run, not for each group: what a person would compute with."""
    lines = []
    for place, group in enumerate(ranking.groups, 1):
        verdict = {True: "tie", False: "worse", None: "unknown"}[group.tie]
        for entry in group.entries:
            line: dict[str, Any] = {"rank": place, "run": entry.name, "seed": entry.seed}
            line |= {key: entry.settings.get(key) for key in keys}
            line |= {"value": entry.value, "stderr": entry.stderr, "bound": entry.bound, "group_mean": group.value}
            line |= {"group_sd": group.deviation, "difference": group.value - best}
            line |= {"verdict": "best" if place == 1 else verdict, "parameters": entry.parameters, "flops": entry.flops}
            lines.append(line | {"per_second": entry.speed, "steps": entry.steps})
    return lines


def _figure(group: Group) -> str:
    if group.deviation is not None:
        return f"{group.value:.4f} ± {group.deviation:.4f}"
    error = group.entries[0].stderr
    return f"{group.value:.4f}" if error is None else f"{group.value:.4f} (± {error:.4f})"


def _settings(group: Group, keys: Sequence[str]) -> str:
    return ", ".join(f"{key} {_setting(group.settings[key]).text}" for key in keys if key in group.settings) or "–"


def _setting(value: Any) -> Cell:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Cell(f"{value:.4g}" if isinstance(value, float) else str(value), value)
    return Cell("–" if value is None else str(value))


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


def _is_numeric(key: str, entries: Sequence[Entry]) -> bool:
    values = [entry.settings.get(key) for entry in entries]
    return all(value is None or (isinstance(value, int | float) and not isinstance(value, bool)) for value in values)
