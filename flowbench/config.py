"""Experiment files: YAML and dotted overrides in, one frozen and wholly validated experiment out."""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar, Union, cast, get_args, get_origin

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from flowbench.errors import InputError, did_you_mean, one_line
from flowbench.registry import density_models, forecasters
from flowbench.yaml_files import read_mapping

__all__ = [
    "DensityData",
    "Evaluate",
    "Experiment",
    "ForecastData",
    "ModelConfig",
    "Optim",
    "Section",
    "Space",
    "Study",
    "Train",
    "config_id",
    "config_sha256",
    "dump_experiment",
    "experiment_folders",
    "experiment_names",
    "explain",
    "load_experiment",
    "shipped_folder",
]


class Section(BaseModel):
    """A frozen part of an experiment file: unknown keys and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ModelConfig(Section):
    """The `model:` section; each model's module subclasses it, registers it under its name and builds from it."""

    numerics: ClassVar[int] = 1
    """Raised by hand when a change alters the model's results: stored results with another value are stale."""
    added: ClassVar[frozenset[str]] = frozenset()
    """Keys that came after results were stored: at their defaults they are no part of a config's hash."""

    name: str


class DensityData(Section):
    """The `data:` section of a density experiment."""

    name: str
    batch_size: PositiveInt = 64
    flip: bool = False
    """Mirror training images left to right with probability 1/2."""
    bits: Annotated[int, Field(ge=1, le=8)] = 8
    """Keep the upper bits of each byte (5 in some of Glow's experiments)."""
    levels: Annotated[int, Field(ge=2, le=256)] | None = None
    """Grey levels where they are no power of two; None: the data set's own, reduced to 2**bits."""
    size: PositiveInt | None = None
    """Pixels of the shorter side to which a folder of images was resized; must agree with how it was prepared."""
    crop: PositiveInt | None = None
    """Side of the square crops: at random places in training, at fixed ones in evaluation; None: the data set's own."""
    holdout: NonNegativeInt = 0
    """Training images put aside, by a fixed permutation, for whatever chooses."""


class ForecastData(Section):
    """The `data:` section of a forecast experiment."""

    name: str | None = None
    csv: str | None = None
    protocol: Literal["informer", "report", "ratio"] = "informer"
    lookback: PositiveInt = 336
    horizon: PositiveInt = 96
    features: Literal["M", "S", "MS"] = "M"
    target: str = "OT"
    batch_size: PositiveInt = 32
    test_on: str | None = None
    """Another known set with the same columns, whose test part is tested on instead, scaled as the training was."""

    @model_validator(mode="after")
    def _one_source(self) -> "ForecastData":
        if (self.name is None) == (self.csv is None):
            raise ValueError("give either data.name (a known set) or data.csv (a file), one of the two")
        return self

    @property
    def tested(self) -> "ForecastData":
        """The section of the file whose test part is tested on."""
        if self.test_on is None:
            return self
        return self.model_copy(update={"name": self.test_on, "csv": None, "test_on": None})


class Optim(Section):
    """The `optim:` section: optimizer, learning-rate schedule, regularization and clipping."""

    name: Literal["adam", "adamw", "adamax"] = "adam"
    lr: PositiveFloat = 1e-3
    betas: Annotated[tuple[float, float], Field(strict=False)] = (0.9, 0.999)
    eps: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.0
    scale_l2: NonNegativeFloat = 0.0
    """Coefficient of the sum of squares of the weight-normalization scales (Dinh et al. 2017, section 4.1)."""
    clip_norm: PositiveFloat | None = None
    """Global gradient norm at which gradients are clipped; the loss is in nats per image."""
    schedule: Literal["constant", "cosine", "exponential"] = "constant"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Part of the whole training (steps, epochs or time budget) over which the rate rises linearly from 0."""
    decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor on the rate after each epoch, under `schedule: exponential`."""
    hold: NonNegativeInt = 0
    """Epochs after the first one that keep the full rate before `decay` begins (1 in LTSF-Linear's code)."""


class Train(Section):
    """The `train:` section: how long, how precise, how often to log, validate and save."""

    epochs: NonNegativeInt | None = None
    steps: NonNegativeInt | None = None
    precision: Literal[32, "bf16"] = 32
    """bf16: autocast of the conditioner networks alone; log-determinants and the prior stay float32."""
    compile: bool = False
    recompute: bool = False
    """Compute the conditioner networks' activations again for the gradients: less memory, more time, the same result
    (the paper's Real NVP on a CPU at batch 16: 0.67 of the memory, 1.23 times the time)."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay per step of the exponential moving average of the weights; 0: none."""
    log_every: PositiveInt = 50
    validate_every: PositiveInt | Literal["epoch"] = 1000
    checkpoint_every: PositiveInt = 1000
    keep: Literal["last", "best"] = "last"
    """Weights that are evaluated: the last, or the best by validation."""
    patience: PositiveInt | None = None
    """Stop after that many validations without improvement."""
    max_skipped: PositiveInt = 10
    """Give up after that many steps in a row with a non-finite loss or gradient."""

    @model_validator(mode="after")
    def _one_length(self) -> "Train":
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give either train.epochs or train.steps, one of the two")
        if self.recompute and self.compile:
            raise ValueError("train.recompute and train.compile exclude each other: set one of them to false")
        return self


class Evaluate(Section):
    """The `evaluate:` section: what the reported figure is made of."""

    draws: PositiveInt = 1
    """Draws of dequantization noise per image."""
    batch_norm: Literal["running", "population"] = "population"
    """Statistics of batch normalization: moving averages, or re-estimated over training batches."""
    weights: Literal["raw", "ema"] | None = None
    """None: ema where the training keeps one, else raw."""


class Space(Section):
    """One searched key of the `tune:` section."""

    int_: Annotated[tuple[int, int] | None, Field(alias="int", strict=False)] = None
    float_: Annotated[tuple[float, float] | None, Field(alias="float", strict=False)] = None
    categorical: list[Any] | None = None
    log: bool = False
    step: PositiveFloat | None = None
    when: dict[str, Any] | None = None
    """Search this key only where other keys have these values."""

    @model_validator(mode="after")
    def _one_kind(self) -> "Space":
        if sum(kind is not None for kind in (self.int_, self.float_, self.categorical)) != 1:
            raise ValueError("give one of int: [low, high], float: [low, high], categorical: [...]")
        bounds = self.int_ or self.float_
        if bounds is None:
            if not self.categorical:
                raise ValueError("categorical: give at least one choice")
            if self.log or self.step is not None:
                raise ValueError("log and step are for int and float")
            return self
        if bounds[0] > bounds[1]:
            raise ValueError(f"the lower end {bounds[0]} is above the upper end {bounds[1]}")
        if self.log and bounds[0] <= 0:
            raise ValueError(f"log needs a lower end above 0, not {bounds[0]}")
        if self.log and self.step is not None:
            raise ValueError("log and step exclude each other")
        if self.int_ is not None and self.step is not None and self.step != int(self.step):
            raise ValueError(f"step {self.step} between whole numbers is no whole number")
        return self


class Study(Section):
    """The `study:` section: how Optuna searches."""

    sampler: Literal["tpe", "random", "grid", "cmaes", "gp"] = "tpe"
    pruner: Literal["hyperband", "median", "none"] = "hyperband"
    objectives: list[str] = []
    seed: NonNegativeInt = 0
    steps: PositiveInt | None = None
    """Budget of each trial in optimizer steps; None: as long as the experiment trains."""
    validations: PositiveInt | None = None
    """How often a trial of `steps` steps is validated, and may be pruned; None: as the experiment says."""


DataT = TypeVar("DataT", bound=Section)
ModelT = TypeVar("ModelT", bound=ModelConfig)


class Experiment(Section, Generic[DataT, ModelT]):
    """One experiment, whole and valid: `Experiment[DensityData, …]` or `Experiment[ForecastData, …]`."""

    name: Annotated[str, Field(max_length=200)]
    kind: Literal["density", "forecast"]
    preset: Literal["paper", "quick"] | None = None
    """Whose settings these are: a paper's, or the quick table's; None: our own."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """The forecasters' streams put it above the 32 bits of a step."""
    data: DataT
    model: ModelT
    optim: Optim = Optim()
    train: Train
    evaluate: Evaluate = Evaluate()
    tune: dict[str, Space] = {}
    study: Study = Study()

    @field_validator("name")
    @classmethod
    def _stays_inside(cls, name: str) -> str:
        # Runs lie under runs/<name>/: a file from outside must not choose another place.
        if any(part in ("", ".", "..") for part in name.split("/")) or not name.isprintable():
            raise ValueError(f"{name!r} must be printable words with / between them, for example real_nvp/mine")
        return name

    @model_validator(mode="after")
    def _consistent(self) -> "Experiment[DataT, ModelT]":
        if self.evaluate.weights == "ema" and self.train.ema == 0:
            raise ValueError("evaluate.weights: ema asks for moving averages, but train.ema is 0: set train.ema")
        if self.train.ema > 0 and self.weights == "ema" and self.evaluate.batch_norm == "running":
            raise ValueError(
                "evaluate.batch_norm: running statistics belong to the raw weights: "
                "use population with evaluate.weights: ema"
            )
        return self

    @property
    def weights(self) -> Literal["raw", "ema"]:
        """The weights that are reported."""
        return self.evaluate.weights or ("ema" if self.train.ema > 0 else "raw")


def load_experiment(experiment: str | Path, overrides: Sequence[str] = ()) -> Experiment[Any, Any]:
    """Read an experiment by name (`real_nvp/cifar10`) or path, apply `KEY=VALUE` overrides and validate the whole.

    Raises:
        InputError: unknown name, unreadable file, unknown key or wrong value; the message names file and key.
    """
    path = _find(str(experiment))
    merged = _merge(read_mapping(path, "an experiment file"), overrides, path)
    return _validate(merged, path, {override.partition("=")[0] for override in overrides})


def experiment_names() -> list[str]:
    """Return the names of all experiments in `./experiments` and in the package, sorted."""
    return sorted({name for folder in experiment_folders() for name in _names_in(folder)})


def experiment_folders() -> list[Path]:
    """Return where experiments and tables are looked for, in order."""
    return [Path("experiments"), shipped_folder()]


def shipped_folder() -> Path:
    """Return the folder of the experiments that ship: inside the installed package, or the checkout's if editable."""
    package = Path(__file__).parent
    installed = package / "experiments"
    return installed if installed.is_dir() else package.parent / "experiments"


def dump_experiment(experiment: Experiment[Any, Any]) -> str:
    """Return the resolved experiment as YAML: a valid experiment file."""
    content = experiment.model_dump(mode="json", by_alias=True)
    content["tune"] = {
        key: space.model_dump(mode="json", by_alias=True, exclude_none=True) for key, space in experiment.tune.items()
    }
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)


def config_sha256(experiment: Experiment[Any, Any]) -> str:
    """Return the SHA-256 of the canonical JSON of the resolved experiment, without paths."""
    content = experiment.model_dump(mode="json", by_alias=True)
    content["data"].pop("csv", None)
    content["train"].pop("recompute")  # where memory goes is no part of what is computed
    # Keys that came later and are not set leave the hashes of earlier runs as they were.
    if content["data"].get("test_on") is None:
        content["data"].pop("test_on", None)
    if not experiment.optim.hold:
        del content["optim"]["hold"]
    fields = type(experiment.model).model_fields
    for key in experiment.model.added:
        if getattr(experiment.model, key) == fields[key].default:
            del content["model"][key]
    content["study"] = {key: value for key, value in content["study"].items() if value is not None}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def config_id(experiment: Experiment[Any, Any]) -> str:
    """Return twelve digits that tell one experiment from another whatever its seed."""
    return config_sha256(experiment.model_copy(update={"seed": 0}))[:12]


def explain(error: ValidationError, schema: type[BaseModel], path: Path, overridden: Collection[str] = ()) -> str:
    """Return one line for the first problem of a file: file, key, what is wrong, the nearest valid key."""
    # An unknown key explains a missing one, never the other way round: it comes first.
    first = min(error.errors(), key=lambda item: item["type"] != "extra_forbidden")
    location = tuple(str(part) for part in first["loc"])
    key = ".".join(location)
    ours = any(f"{name}.".startswith(f"{key}.") for name in overridden)
    where = f"override {key}" if key and ours else f"{path}: {key}" if key else str(path)
    if first["type"] == "extra_forbidden":
        return f"{where}: unknown key{did_you_mean(location[-1], _keys_at(schema, location[:-1]))}"
    if first["type"] == "missing":
        return f"{where}: this key is missing"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return f"{where}: {message}"
    return f"{where}: {message}, not {first['input']!r}"[:500]


def _names_in(folder: Path) -> list[str]:
    files = folder.glob("*/*.yaml")
    return [file.relative_to(folder).with_suffix("").as_posix() for file in files if file.parent.name != "tables"]


def _find(experiment: str) -> Path:
    if experiment.endswith((".yaml", ".yml")):
        return Path(experiment)
    for folder in experiment_folders():
        candidate = folder / f"{experiment}.yaml"
        if ".." not in candidate.parts and candidate.is_file():
            return candidate
    raise InputError(f"no experiment named {experiment!r}{did_you_mean(experiment, experiment_names())}")


# Keys of which only one may stand: overriding one clears the other.
_ALTERNATIVES = {
    "data.name": "data.csv",
    "data.csv": "data.name",
    "train.epochs": "train.steps",
    "train.steps": "train.epochs",
}


def _merge(content: dict[str, Any], overrides: Sequence[str], path: Path) -> dict[str, Any]:
    for override in overrides:
        key, separator, _ = override.partition("=")
        if not separator or not all(part.isidentifier() for part in key.split(".")):
            raise InputError(f"override {override!r}: write KEY=VALUE, for example model.features=32")
    try:
        config = OmegaConf.create(content)
        dotted = OmegaConf.from_dotlist(list(overrides))
        merged = OmegaConf.to_container(OmegaConf.merge(config, dotted), resolve=False)
    except (yaml.YAMLError, OmegaConfBaseException, RecursionError, ValueError, TypeError, AssertionError) as error:
        raise InputError(f"{path}: the overrides cannot be applied: {one_line(error)}") from error
    result = cast(dict[str, Any], merged)
    for override in overrides:
        key = override.partition("=")[0]
        section, _, name = _ALTERNATIVES.get(key, "").partition(".")
        if name and isinstance(result.get(section), dict):
            result[section].pop(name, None)
    return result


def _validate(content: Mapping[str, Any], path: Path, overridden: set[str]) -> Experiment[Any, Any]:
    kind = content.get("kind")
    model = content.get("model")
    if kind not in ("density", "forecast"):
        raise InputError(f"{path}: kind: {kind!r} is none of density, forecast")
    if not isinstance(model, dict) or not isinstance(model.get("name"), str):
        raise InputError(f"{path}: model.name: give the model's name, for example real_nvp")
    try:
        model_class = (density_models if kind == "density" else forecasters)[model["name"]]
    except InputError as error:
        raise InputError(f"{path}: model.name: {error}") from error
    data_class = DensityData if kind == "density" else ForecastData
    # The generic alias carries the model's own schema, so that one validation sees the whole file.
    schema = cast(type[BaseModel], Experiment.__class_getitem__((data_class, model_class)))
    try:
        return cast(Experiment[Any, Any], schema.model_validate(content))
    except ValidationError as error:
        raise InputError(explain(error, schema, path, overridden)) from error


def _keys_at(schema: Any, location: Sequence[str]) -> list[str]:
    """Return the valid keys of the mapping at `location`, through nested sections, lists and dicts of them."""
    for part in location:
        fields = {field.alias or name: field for name, field in _fields(schema).items()}
        if part in fields:
            schema = fields[part].annotation
        elif not fields:
            schema = next((item for item in reversed(get_args(schema)) if item is not ...), None)
    return [field.alias or name for name, field in _fields(schema).items()]


def _fields(schema: Any) -> dict[str, FieldInfo]:
    while get_origin(schema) in (Annotated, Union, UnionType):
        schema = get_args(schema)[0]
    return schema.model_fields if isinstance(schema, type) and issubclass(schema, BaseModel) else {}
