"""Experiment files: YAML and dotted overrides in, one frozen and wholly validated experiment out."""

import copy
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, cast, get_args, get_origin

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from flowbench.config.registry import density_models, forecasters
from flowbench.config.schema import DensityData, Experiment, ForecastData, Section
from flowbench.config.yaml_files import dump, read_mapping, refuse_odd_numbers
from flowbench.errors import InputError, did_you_mean, one_line

__all__ = [
    "config_id",
    "config_sha256",
    "content_of",
    "dump_experiment",
    "experiment_folders",
    "experiment_names",
    "experiment_of",
    "explain",
    "load_experiment",
    "shipped_folder",
]


def load_experiment(
    experiment: str | Path, overrides: Sequence[str] = (), sections: Mapping[str, Any] | None = None
) -> Experiment[Any, Any]:
    """Read an experiment by name (`real_nvp/cifar10`) or path, apply overrides and validate the whole.

    Args:
        experiment: name or path.
        overrides: `KEY=VALUE`.
        sections: the same as values: `{"seed": 1, "model": {"features": 32}}`.

    Raises:
        InputError: unknown name, unreadable file, unknown key or wrong value; the message names file and key.
    """
    path = _find(str(experiment))
    return experiment_of(read_mapping(path, "an experiment file"), path, overrides, sections)


def experiment_of(
    content: Mapping[str, Any],
    path: Path,
    overrides: Sequence[str] = (),
    sections: Mapping[str, Any] | None = None,
) -> Experiment[Any, Any]:
    """Validate the content of an experiment file that was read already; the rest as in `load_experiment`.

    Args:
        content: is left as it is.
        path: that errors name.
        overrides, sections: see `load_experiment`.

    Raises:
        InputError: as `load_experiment`.
    """
    values = _leaves(sections or {})
    merged = _merge(_merge_values(content, values), overrides, path)
    _check_model(content, merged, path)
    return _validate(merged, path, {*values, *(override.partition("=")[0] for override in overrides)})


def experiment_names() -> list[str]:
    """Return the names of all experiments in `./experiments` and in the package, sorted."""
    return sorted({name for folder in experiment_folders() for name in _names_in(folder)})


def experiment_folders() -> list[Path]:
    """Return where experiments and tables are looked for, in order."""
    return [Path("experiments"), shipped_folder()]


def shipped_folder() -> Path:
    """Return the folder of the experiments that ship: inside the installed package, or the checkout's if editable."""
    package = Path(__file__).parent.parent
    installed = package / "experiments"
    return installed if installed.is_dir() else package.parent / "experiments"


def content_of(experiment: Experiment[Any, Any]) -> dict[str, Any]:
    """Return the resolved experiment as the content of a valid experiment file: `experiment_of` takes it back."""
    content = experiment.model_dump(mode="json", by_alias=True)
    content["tune"] = {
        key: space.model_dump(mode="json", by_alias=True, exclude_none=True) for key, space in experiment.tune.items()
    }
    return content


def dump_experiment(experiment: Experiment[Any, Any]) -> str:
    """Return the resolved experiment as YAML: a valid experiment file."""
    return dump(content_of(experiment))


def config_sha256(experiment: Experiment[Any, Any]) -> str:
    """Return the SHA-256 of the canonical JSON of the resolved experiment, without paths."""
    content = _hashed(experiment, experiment.model_dump(mode="json", by_alias=True))
    for name in content:
        section = getattr(experiment, name)
        if isinstance(section, Section):
            content[name] = _hashed(section, content[name])
    content["study"] = {key: value for key, value in content["study"].items() if value is not None}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _hashed(section: Section, content: dict[str, Any]) -> dict[str, Any]:
    """Return a section's content without what is no part of its hash."""
    fields = type(section).model_fields
    unset = {key for key in section.added if getattr(section, key) == fields[key].default}
    return {key: value for key, value in content.items() if key not in section.unhashed | unset}


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
        return f"{where}: unknown key{_nearest_key(location, schema)}"
    if first["type"] == "missing":
        return f"{where}: this key is missing"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return f"{where}: {message}"
    hint = ""
    if first["type"] in ("int_type", "float_type") and isinstance(first["input"], str):
        hint = ": write plain decimal digits (10, not 010), without quotes"
    return f"{where}: {message}, not {first['input']!r}"[:500] + hint


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
    if experiment.lower().endswith(".csv"):
        raise InputError(
            f"{experiment}: is data, not an experiment: name a forecaster, for example "
            f"flowbench train etth/nlinear data.csv={experiment} data.protocol=ratio"
        )
    names = experiment_names()
    of_that_name = [name for name in names if name.rpartition("/")[2] == experiment]
    way_out = f"; there are {', '.join(of_that_name)}" if of_that_name else did_you_mean(experiment, names)
    raise InputError(f"no experiment named {experiment!r}{way_out}")


# Keys of which only one may stand: overriding one, but not by null, clears the other.
_ALTERNATIVES = {
    "data.name": "data.csv",
    "data.csv": "data.name",
    "train.epochs": "train.steps",
    "train.steps": "train.epochs",
}


def _merge(content: dict[str, Any], overrides: Sequence[str], path: Path) -> dict[str, Any]:
    if not overrides:
        return content  # a page reads hundreds of configs, and OmegaConf takes longer than all the rest
    for override in overrides:
        key, separator, _ = override.partition("=")
        if not separator or not all(part.isidentifier() for part in key.split(".")):
            raise InputError(f"override {override!r}: write KEY=VALUE, for example model.features=32")
    try:
        for override in overrides:
            key, _, value = override.partition("=")
            refuse_odd_numbers(value, "override ", key)
        config = OmegaConf.create(content)
        dotted = OmegaConf.from_dotlist(list(overrides))
        merged = OmegaConf.to_container(OmegaConf.merge(config, dotted), resolve=False)
    except (yaml.YAMLError, OmegaConfBaseException, RecursionError, ValueError, TypeError, AssertionError) as error:
        raise InputError(f"{path}: the overrides cannot be applied: {one_line(error)}") from error
    result = cast(dict[str, Any], merged)
    _clear_alternatives(result, [override.partition("=")[0] for override in overrides])
    return result


def _leaves(sections: Mapping[str, Any]) -> dict[str, Any]:
    """Return `{"model.features": 32}` of `{"model": {"features": 32}}`; what is no section stands for itself."""
    leaves: dict[str, Any] = {}
    for name, value in sections.items():
        # Keys of `tune:` have points of their own: it is replaced as a whole.
        whole = name == "tune" or not isinstance(value, Mapping)
        leaves |= {name: value} if whole else {f"{name}.{key}": one for key, one in value.items()}
    return leaves


def _merge_values(content: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    if not values:
        return dict(content)
    result = copy.deepcopy(dict(content))
    for key, value in values.items():
        section, _, name = key.partition(".")
        if not name:
            result[section] = value
        elif isinstance(within := result.setdefault(section, {}), dict):
            within[name] = value
        else:
            result[section] = {name: value}
    _clear_alternatives(result, list(values))
    return result


def _clear_alternatives(result: dict[str, Any], keys: Sequence[str]) -> None:
    """Remove what stands in place of a key that was set just now."""
    # Where both are set it is for the schema to refuse them.
    given = [key for key in keys if _at(result, key) is not None]
    for key in given:
        other = _ALTERNATIVES.get(key)
        if other is not None and other not in given:
            section, _, name = other.partition(".")
            result[section].pop(name, None)


def _at(content: Mapping[str, Any], key: str) -> Any:
    """Return what stands at section.key; None where nothing does."""
    section, _, name = key.partition(".")
    within = content.get(section)
    return within.get(name) if isinstance(within, dict) else None


def _check_model(content: Mapping[str, Any], merged: Mapping[str, Any], path: Path) -> None:
    """Refuse another model's name over a file whose other keys are its own model's: they are no mistakes of theirs."""
    before, after = _at(content, "model.name"), _at(merged, "model.name")
    classes = density_models if merged.get("kind") == "density" else forecasters
    if before in (None, after) or after not in classes:
        return
    others = [f"model.{key}" for key in content["model"] if key not in classes[after].model_fields]
    if others:
        of_that_model = ", ".join(name for name in experiment_names() if _model_of(name) == after)
        raise InputError(
            f"override model.name={after}: {', '.join(others)} of {path} belong to {before}: "
            f"start from an experiment of {after}: {of_that_model}"
        )


def _model_of(experiment: str) -> str | None:
    try:
        return cast("str | None", _at(read_mapping(_find(experiment), "an experiment file"), "model.name"))
    except InputError:  # another broken file is not what is told about here
        return None


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


def _nearest_key(location: Sequence[str], schema: type[BaseModel]) -> str:
    """Return which key was meant: one of that place, or, at the top, one whose section was left out."""
    keys = _keys_at(schema, location[:-1])
    if len(location) > 1:
        return did_you_mean(location[-1], keys)
    dotted = [f"{section}.{key}" for section in keys for key in _keys_at(schema, [section])]
    same = [key for key in dotted if key.endswith(f".{location[0]}")]
    return f"; did you mean {' or '.join(same)}?" if same else did_you_mean(location[0], [*keys, *dotted])


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
