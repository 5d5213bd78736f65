"""Search spaces: whatever is wrong with one is said before the first trial, in one line that names file and key."""

from pathlib import Path
from typing import Any

import optuna
import pytest

from flowbench.config.experiments import load_experiment
from flowbench.errors import InputError
from flowbench.tuning.grid import grid_points
from flowbench.tuning.space import check_space, experiment_with, suggest
from flowbench.tuning.study import _left_to_search
from tests.studies import SPACE


def written(tmp_path: Path, tune: str) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(f"{SPACE}tune: {tune}\n")
    return path


@pytest.mark.parametrize(
    ("tune", "words"),
    [
        ("{}", ["tune", "searches nothing"]),
        ("{model.residual_block: {int: [1, 4]}}", ["tune.model.residual_block", "did you mean residual_blocks"]),
        ("{model.features: {float: [4.5, 8]}}", ["tune.model.features", "4.5", "valid integer"]),
        ("{model.features: {categorical: [8, wide]}}", ["tune.model.features", "'wide'", "valid integer"]),
        ("{model.residual_blocks: {int: [-1, 4]}}", ["tune.model.residual_blocks", "-1"]),
        ("{optim.lr: {float: [0.0, 0.1]}}", ["tune.optim.lr", "0.0", "greater than 0"]),
        ("{optim.lr: {float: [0.0, 0.1], log: true}}", ["tune.optim.lr", "above 0"]),
        ("{optim.lr: {float: [0.2, 0.1]}}", ["tune.optim.lr", "0.2 is above"]),
        ("{optim.lr: {float: [0.1, 0.2], log: true, step: 0.1}}", ["tune.optim.lr", "exclude"]),
        ("{model.features: {int: [4, 8], step: 0.5}}", ["tune.model.features", "step 0.5"]),
        ("{model.features: {categorical: []}}", ["tune.model.features", "at least one"]),
        ("{model.features: {categorical: [4], log: true}}", ["tune.model.features", "log and step"]),
        ("{model.features: {}}", ["tune.model.features", "give one of"]),
        ("{model.features: {int: [4, 8], when: {optim.nam: adam}}}", ["tune.model.features", "optim.nam is not"]),
        (
            "{model.features: {int: [4, 8], when: {optim.name: sgd}}, optim.name: {categorical: [adam]}}",
            ["tune.model.features", "never 'sgd'"],
        ),
        (
            "{model.features: {int: [4, 8], when: {seed: 1}}, seed: {int: [1, 2], when: {model.features: 4}}}",
            ["tune.model.features", "circle"],
        ),
    ],
)
def test_what_is_wrong_with_a_space_is_one_line_with_file_and_key(tmp_path: Path, tune: str, words: list[str]) -> None:
    path = written(tmp_path, tune)
    with pytest.raises(InputError) as caught:
        check_space(path, [], load_experiment(path))
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    for word in words:
        assert word in message


def test_kinds_of_keys_reach_the_experiment_with_their_types(tmp_path: Path) -> None:
    tune = (
        "{model.features: {int: [4, 16], log: true}, optim.lr: {float: [0.1, 0.5], step: 0.2}, "
        "optim.betas: {categorical: [[0.9, 0.99], [0.5, 0.9]]}, optim.name: {categorical: [adam, adamw]}, "
        "optim.clip_norm: {categorical: [null, 100.0]}, train.compile: {categorical: [true, false]}}"
    )
    path = written(tmp_path, tune)
    experiment = load_experiment(path)
    check_space(path, [], experiment)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    seen = set()
    for _ in range(30):
        chosen = suggest(study.ask(), experiment.tune)
        built = experiment_with(path, [], chosen)
        assert built.model.features == chosen["model.features"]
        assert list(built.optim.betas) == chosen["optim.betas"]
        assert built.optim.clip_norm == chosen["optim.clip_norm"]
        assert built.train.compile is chosen["train.compile"]
        assert round(built.optim.lr, 9) in (0.1, 0.3, 0.5)
        seen.add((built.optim.name, built.optim.clip_norm, built.train.compile, tuple(built.optim.betas)))
    assert len(seen) > 8


CONDITIONAL = (
    "{model.features: {int: [4, 8], step: 4, when: {optim.name: adam, model.residual_blocks: 2}}, "
    "optim.name: {categorical: [adam, adamw]}, model.residual_blocks: {int: [1, 2], when: {optim.name: adam}}}"
)


def test_a_conditional_key_is_searched_only_where_its_condition_holds(tmp_path: Path) -> None:
    path = written(tmp_path, CONDITIONAL)
    experiment = load_experiment(path)
    check_space(path, [], experiment)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    shapes = set()
    for _ in range(40):
        chosen = suggest(study.ask(), experiment.tune)
        assert ("model.residual_blocks" in chosen) == (chosen["optim.name"] == "adam")
        assert ("model.features" in chosen) == (chosen.get("model.residual_blocks") == 2)
        shapes.add(len(chosen))
    assert shapes == {1, 2, 3}


def test_a_grid_has_every_point_once_and_conditional_keys_only_where_they_count(tmp_path: Path) -> None:
    space = load_experiment(written(tmp_path, CONDITIONAL)).tune
    points = grid_points("mine", space)
    assert points == [
        {"optim.name": "adam", "model.residual_blocks": 1},
        {"optim.name": "adam", "model.residual_blocks": 2, "model.features": 4},
        {"optim.name": "adam", "model.residual_blocks": 2, "model.features": 8},
        {"optim.name": "adamw"},
    ]
    stepped = load_experiment(written(tmp_path, "{optim.lr: {float: [0.1, 0.7], step: 0.2}}")).tune
    assert [round(point["optim.lr"], 9) for point in grid_points("mine", stepped)] == [0.1, 0.3, 0.5, 0.7]
    with pytest.raises(InputError, match=r"tune\.optim\.lr: a grid needs a step"):
        grid_points("mine", load_experiment(written(tmp_path, "{optim.lr: {float: [0.1, 0.7]}}")).tune)
    with pytest.raises(InputError, match="more than 10,000 points"):
        grid_points("mine", load_experiment(written(tmp_path, "{seed: {int: [0, 100000]}}")).tune)


def test_every_real_nvp_experiment_searches_blocks_and_features() -> None:
    from flowbench.config.experiments import experiment_names

    for name in experiment_names():
        experiment = load_experiment(name)
        if experiment.tune:
            check_space(name, [], experiment)
        if experiment.model.name == "real_nvp":
            assert {"model.residual_blocks", "model.features"} <= experiment.tune.keys(), name


@pytest.mark.parametrize(
    ("fixed", "left"),
    [
        ("optim.name=adam", {"model.residual_blocks": None, "model.features": {"model.residual_blocks": 2}}),
        ("optim.name=adamw", {}),
        ("model.residual_blocks=2", {"optim.name": None, "model.features": {"optim.name": "adam"}}),
        ("model.residual_blocks=1", {"optim.name": None}),
    ],
)
def test_a_condition_on_a_key_that_is_fixed_is_decided(tmp_path: Path, fixed: str, left: dict[str, Any]) -> None:
    path = written(tmp_path, CONDITIONAL)
    found = _left_to_search(load_experiment(path, [fixed]), {fixed.partition("=")[0]})
    assert {key: one.when for key, one in found.items()} == left
