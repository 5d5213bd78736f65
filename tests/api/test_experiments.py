"""Experiments made in Python are those of the command line."""

from pathlib import Path

import pytest
import yaml

import flowbench as fb
from flowbench.config.experiments import config_sha256, dump_experiment, load_experiment, shipped_folder

TEXT = load_experiment("real_nvp/digits", ["model.features=16", "seed=1", "optim.clip_norm=null"])


def test_values_and_text_make_the_same_experiment() -> None:
    assert fb.experiment("real_nvp/digits", seed=1, model={"features": 16}, optim={"clip_norm": None}) == TEXT
    assert fb.experiment("real_nvp/digits", "seed=1", "model.features=16", optim={"clip_norm": None}) == TEXT
    assert fb.experiment("real_nvp/digits", "seed=1", "model.features=16", "optim.clip_norm=null", seed=5) == TEXT


def test_names_paths_and_mappings_are_taken(tmp_path: Path) -> None:
    path = shipped_folder() / "real_nvp" / "digits.yaml"
    content = yaml.safe_load(dump_experiment(fb.experiment("real_nvp/digits")))
    before = dump_experiment(fb.experiment("real_nvp/digits"))
    for what in (path, str(path), content):
        assert config_sha256(fb.experiment(what)) == config_sha256(fb.experiment("real_nvp/digits"))
    assert fb.experiment(content, model={"features": 4}).model.features == 4
    assert dump_experiment(fb.experiment(content)) == before  # what was given is left as it was


def test_a_value_clears_what_cannot_stand_beside_it() -> None:
    forecast = fb.experiment("etth/nlinear", data={"csv": "mine.csv"}, train={"steps": 3})
    assert (forecast.data.name, forecast.data.csv) == (None, "mine.csv")
    assert (forecast.train.epochs, forecast.train.steps) == (None, 3)


def test_the_search_space_is_replaced_as_a_whole() -> None:
    space = {"model.features": {"categorical": [2, 4]}}
    assert list(fb.experiment("real_nvp/digits", tune=space).tune) == ["model.features"]


def test_it_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        fb.experiment("real_nvp/digits").seed = 3


@pytest.mark.parametrize(
    ("arguments", "sections", "words"),
    [
        (("real_nvp/digit",), {}, "no experiment named 'real_nvp/digit'; did you mean real_nvp/digits?"),
        (
            ("real_nvp/digits",),
            {"model": {"feature": 3}},
            "override model.feature: unknown key; did you mean features?",
        ),
        (("real_nvp/digits",), {"modle": {"features": 3}}, "override modle: unknown key; did you mean model?"),
        (("real_nvp/digits",), {"seed": "1"}, "override seed: Input should be a valid integer"),
        (({"name": "a/b", "kind": "density"},), {}, "experiment: model.name: give the model's name"),
        (({"kind": "densities"},), {}, "experiment: kind: 'densities' is none of density, forecast"),
    ],
)
def test_errors_are_those_of_the_command_line(arguments: tuple, sections: dict, words: str) -> None:
    with pytest.raises(fb.errors.InputError) as caught:
        fb.experiment(*arguments, **sections)
    assert words in str(caught.value)
