"""Table files: which experiments fill which rows, beside the published figures and their sources."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
)
from pydantic import model_validator as whole

from flowbench.config.experiments import experiment_folders, explain
from flowbench.config.registry import image_sets
from flowbench.config.schema import Experiment, Section
from flowbench.config.yaml_files import read_mapping
from flowbench.errors import InputError, did_you_mean

__all__ = [
    "Bounds",
    "Entry",
    "Metric",
    "Peer",
    "Published",
    "Rerun",
    "Row",
    "Table",
    "load_table",
    "table_names",
    "table_path",
]

Metric = Literal["bits_per_dim", "mae", "mse", "mae_original", "mse_original", "nll", "crps", "mae_median"]
SplitName = Literal["train", "validation", "test"]
# Titles are typed after --only, on any keyboard.
Title = Annotated[str, Field(pattern=r"^[ -~]+$")]


Figure = Annotated[float, Field(allow_inf_nan=False)]
"""A negative log-likelihood of a density may lie below 0."""


class Rerun(Section):
    """What the authors' own program gives today."""

    value: Figure
    version: str
    """Of the library that it ran on, and what had to be changed for it to run."""
    seed: NonNegativeInt
    source: str
    """The program and its settings."""


class Published(Section):
    """A figure from the literature."""

    model: str
    value: Figure
    bound: Literal["=", "<"] = "="
    """`<`: the authors report an upper bound."""
    split: SplitName
    lookback: PositiveInt | None = None
    source: str
    """Paper and table."""
    rerun: Rerun | None = None
    """A second ruler, where the paper's figure does not come out of its own program any more."""


class Peer(Section):
    """Figures of another library's model, measured by us on the same items as ours; nobody published them."""

    model: str
    split: SplitName
    seeds: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1, strict=False)]
    values: Annotated[tuple[Figure, ...], Field(min_length=1, strict=False)]
    """The figure of each seed."""
    n: PositiveInt
    """Images or windows that each was measured on."""
    version: str
    """Of the library, and of what it ran on."""
    source: str
    """The script and its settings."""

    @whole(mode="after")
    def _paired(self) -> "Peer":
        if len(self.seeds) != len(self.values):
            raise ValueError(f"{self.model}: {len(self.values)} values of {len(self.seeds)} seeds")
        return self


class Bounds(Section):
    """What an experiment's figure was when it was measured, for the accuracy gate; `flowbench bounds` writes it."""

    value: float
    """The mean over the seeds."""
    tolerance: PositiveFloat
    """A figure further from the value than this, above or below, is outside."""
    seeds: Annotated[tuple[NonNegativeInt, ...], Field(min_length=3, strict=False)]
    values: Annotated[tuple[float, ...], Field(min_length=3, strict=False)]
    """The figure of each seed."""
    config: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
    """Of the experiment that was measured, whatever its seed: see `config_id`."""


class Entry(Section):
    """One experiment of ours that fills a row."""

    name: str
    overrides: Annotated[tuple[str, ...], Field(strict=False)] = ()
    seeds: Annotated[tuple[NonNegativeInt, ...] | None, Field(min_length=1, strict=False)] = None
    """None: the experiment's own seed."""
    reproduces: str | None = None
    """The published model that the figure is compared with."""
    bounds: Bounds | None = None
    seconds: PositiveFloat | None = None
    """What one run took, on one thread of a named processor, for the plan that `reproduce` begins with."""


def _entry(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class Row(Section):
    """One row: a data set, a metric, our experiments, the published figures."""

    row: Title
    dataset: str
    metric: Metric
    split: SplitName
    experiments: Annotated[list[Annotated[Entry, BeforeValidator(_entry)]], Field(min_length=1)]
    published: Annotated[tuple[Published, ...], Field(strict=False)] = ()
    peers: Annotated[tuple[Peer, ...], Field(strict=False)] = ()
    note: str | None = None
    optional: Literal["download"] | None = None
    """download: where the data is missing, one quick download is tried, else the row is left out with the reason."""

    @whole(mode="after")
    def _known(self) -> "Row":
        models = {figure.model for figure in self.published}
        for entry in self.experiments:
            if entry.reproduces is not None and entry.reproduces not in models:
                raise ValueError(f"{entry.name}: reproduces: no published model {entry.reproduces!r} in this row")
        keys = [(entry.name, *entry.overrides) for entry in self.experiments]
        if len(set(keys)) < len(keys):
            raise ValueError("an experiment stands twice with the same overrides")
        return self

    def check_split(self, experiment: Experiment[Any, Any]) -> None:
        """Raise InputError if no run of these images could fill the row: before hours of training, not after."""
        name = experiment.data.name
        if experiment.kind != "density" or name not in image_sets:
            return
        measured = ("train", image_sets[name].report_split)
        if self.split not in measured:
            raise InputError(f"split: {self.split}, but runs on {name} are measured on {' and '.join(measured)}")


class Table(Section):
    """A whole table file."""

    table: str
    title: str
    description: str
    preset: Literal["quick"] | None = None
    """The badge of rows with the table's own settings whose experiments have no preset."""
    costs: bool = False
    """Measure what each of ours costs (`costs.json` in its run): operations and time of each pass."""
    rows: Annotated[list[Row], Field(min_length=1)]

    @whole(mode="after")
    def _distinct(self) -> "Table":
        titles = [row.row.casefold() for row in self.rows]
        twice = sorted({title for title in titles if titles.count(title) > 1})
        if twice:
            raise ValueError(f"rows: the title {twice[0]!r} stands twice")
        return self

    def select(self, only: Sequence[str]) -> list[Row]:
        """Return the rows that `only` names by title or data set, in the table's order; all for none.

        Raises:
            InputError: a word names no row; the nearest is given.
        """
        for word in only:
            if not any(called(dict(row), word) for row in self.rows):
                names = {row.row for row in self.rows} | {row.dataset for row in self.rows}
                raise InputError(f"--only {word!r}: table {self.table} has no such row{did_you_mean(word, names)}")
        return [row for row in self.rows if not only or any(called(dict(row), word) for word in only)]


def called(row: Mapping[str, Any], word: str) -> bool:
    """Say whether `word` names a row, of a table or of its results: its title or its data set, in any case."""
    return word.casefold() in (row["row"].casefold(), row["dataset"].casefold())


def load_table(table: str) -> Table:
    """Read and validate a table by name (`quick`) or by the path of a YAML file.

    Raises:
        InputError: unknown name, unreadable file, unknown key or wrong value; the message names file and key.
    """
    path = table_path(table)
    content = read_mapping(path, "a table file")
    try:
        loaded = Table.model_validate(content)
    except ValidationError as error:
        raise InputError(explain(error, Table, path)) from error
    if loaded.table != path.stem:
        raise InputError(f"{path}: table: {loaded.table!r} is not the file's name, {path.stem!r}")
    return loaded


def table_names() -> list[str]:
    """Return the names of all tables in `./experiments/tables` and in the package, sorted."""
    return sorted({file.stem for folder in experiment_folders() for file in (folder / "tables").glob("*.yaml")})


def readable_tables() -> list[Table]:
    """Return all tables but those that cannot be read, such as somebody's file in the making."""
    found = []
    for name in table_names():
        with suppress(InputError):
            found.append(load_table(name))
    return found


def table_path(table: str) -> Path:
    """Return the YAML file of a table by name, or the given path; InputError for an unknown name."""
    if table.endswith((".yaml", ".yml")):
        return Path(table)
    for folder in experiment_folders():
        candidate = folder / "tables" / f"{table}.yaml"
        if candidate.parent.name == "tables" and candidate.is_file() and candidate.stem == table:
            return candidate
    raise InputError(f"no table named {table!r}{did_you_mean(table, table_names())}")
