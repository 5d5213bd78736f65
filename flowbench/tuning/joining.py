"""A study that any number of processes may make or join: one of them makes it, all others find the same one."""

import hashlib
import json
import time
import uuid
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage

from flowbench.config.schema import Experiment, Section
from flowbench.errors import InputError
from flowbench.runs.same_data import arrays_here, fingerprints_here
from flowbench.tuning.objectives import Objective
from flowbench.tuning.sampling import make_pruner, make_sampler

__all__ = ["STUDIES", "find_study", "join_study", "study_folder", "study_uid"]

STUDIES = Path("runs") / "studies"
_UID = "flowbench_uid"
_CONFIG = "flowbench_config"
_DATA = "flowbench_data"
_PATIENCE_SECONDS = 30.0


def join_study(
    name: str, storage: BaseStorage, experiment: Experiment[Any, Any], objectives: Mapping[str, Objective]
) -> optuna.Study:
    """Make the study, or join the one of that name.

    Raises:
        InputError: there is one of another experiment, with other settings or objectives, or begun on other data.
    """
    sampler, pruner = make_sampler(experiment), make_pruner(experiment, list(objectives))
    digest, *earlier = _digests(experiment, list(objectives))
    data = {**fingerprints_here(experiment), **arrays_here(experiment)}
    try:
        study = optuna.create_study(
            study_name=name,
            storage=storage,
            sampler=sampler,
            pruner=pruner,
            directions=[one.direction for one in objectives.values()],
        )
    except optuna.exceptions.DuplicatedStudyError:
        study = optuna.load_study(study_name=name, storage=storage, sampler=sampler, pruner=pruner)
        attributes = _attributes(study)
        if attributes.get(_CONFIG) not in (digest, *earlier):
            began = f" of {attributes['experiment']}" if "experiment" in attributes else ""
            raise InputError(
                f"study {name}: was begun{began} with another search space, config or objectives: go on with those, "
                "or give another --study"
            ) from None
        for part, then in attributes.get(_DATA, {}).items():
            if data.get(part, then) != then:
                raise InputError(
                    f"study {name}: was begun on other data than lie here now: {part}: fingerprint {then}, now "
                    f"{data[part]}: put the earlier data back, or give another --study"
                ) from None
        return study
    study.set_metric_names(list(objectives))
    study.set_user_attr("experiment", experiment.name)
    study.set_user_attr("kind", experiment.kind)
    study.set_user_attr(_CONFIG, digest)
    study.set_user_attr(_DATA, data)
    # The last one: the study is complete for those that wait for it. Random, since the runs of a deleted study stay.
    study.set_user_attr(_UID, uuid.uuid4().hex)
    return study


def find_study(name: str, storage: BaseStorage) -> optuna.Study:
    """Return a study to look at.

    Raises:
        InputError: there is none of that name, or it was not made by `flowbench tune`.
    """
    try:
        study = optuna.load_study(study_name=name, storage=storage)
    except KeyError as error:
        names = sorted(optuna.get_all_study_names(storage))
        known = f"there are {', '.join(names[:10])}" if names else "there are none"
        raise InputError(f"--study {name}: no such study in this storage: {known}") from error
    if _UID not in study.user_attrs:
        raise InputError(f"--study {name}: was not made by flowbench tune")
    return study


def study_uid(study: optuna.Study) -> str:
    """Return what tells the study from every other, in hexadecimal digits."""
    return str(study.user_attrs[_UID])


def study_folder(study: optuna.Study) -> Path:
    """Return where a study's runs lie: by its name and its uid, since the runs of a deleted study stay."""
    return STUDIES / f"{study.study_name.replace('/', '-')}-{study_uid(study)[:8]}"


def _attributes(study: optuna.Study) -> dict[str, Any]:
    """Return the study's attributes, as soon as the worker that makes it has written them."""
    until = time.monotonic() + _PATIENCE_SECONDS
    while _UID not in (attributes := study.user_attrs):
        if time.monotonic() > until:
            raise InputError(
                f"study {study.study_name}: was not made by flowbench tune, or its making was killed: "
                "give another --study"
            )
        time.sleep(0.2)
    return attributes


def _digests(experiment: Experiment[Any, Any], objectives: list[str]) -> list[str]:
    """Return the SHA-256 of what every trial of a study has in common; how it is searched may change.

    The first is today's; the others are those of earlier versions, which did not know all keys: without any of the
    keys that came later and stand at their defaults.
    """
    content = experiment.model_dump(mode="json", by_alias=True)
    content["study"] = [objectives, experiment.study.seed]
    sections = {name: section for name in content if isinstance(section := getattr(experiment, name), Section)}
    later = [
        (name, key)
        for name, section in sections.items()
        if name != "study"
        for key in sorted(section.added)
        if getattr(section, key) == type(section).model_fields[key].default
    ]
    found = []
    for left_out in (chosen for size in range(len(later) + 1) for chosen in combinations(later, size)):
        known = {
            name: {key: x for key, x in value.items() if (name, key) not in left_out} if name in sections else value
            for name, value in content.items()
            if name != "study"
        }
        written = json.dumps({**known, "study": content["study"]}, sort_keys=True)
        found.append(hashlib.sha256(written.encode()).hexdigest())
    return found
