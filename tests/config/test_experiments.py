from pathlib import Path

import pytest
import yaml

from flowbench.config.experiments import config_id, config_sha256, dump_experiment, experiment_names, load_experiment
from flowbench.errors import InputError

MINIMAL = """
name: mine
kind: density
data: {name: digits}
model: {name: real_nvp, scales: 2, residual_blocks: 1, features: 8}
train: {steps: 10}
"""


@pytest.fixture
def experiment_file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(MINIMAL)
    return path


def refusal(path: Path | str, *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        load_experiment(path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_overrides_reach_their_keys_with_the_right_types(experiment_file: Path) -> None:
    experiment = load_experiment(experiment_file, ["model.features=32", "optim.lr=1e-4", "data.flip=true", "seed=3"])
    assert experiment.model.features == 32
    assert experiment.optim.lr == 1e-4
    assert experiment.data.flip is True
    assert experiment.seed == 3


def test_every_shipped_experiment_is_valid_and_named_after_its_file() -> None:
    names = experiment_names()
    assert "real_nvp/digits" in names
    for name in names:
        assert load_experiment(name).name == name


def test_resolved_config_is_a_valid_experiment_with_the_same_hash(experiment_file: Path, tmp_path: Path) -> None:
    experiment = load_experiment(
        experiment_file, ["optim.clip_norm=100", "tune={model.features: {int: [4, 64], log: true}}"]
    )
    copy = tmp_path / "config.yaml"
    copy.write_text(dump_experiment(experiment))
    assert load_experiment(copy) == experiment
    assert config_sha256(load_experiment(copy)) == config_sha256(experiment)
    assert config_sha256(load_experiment(copy, ["seed=1"])) != config_sha256(experiment)


def test_a_models_later_keys_at_their_defaults_leave_earlier_hashes_as_they_were() -> None:
    default = load_experiment("etth/lstm2lstm")
    content = default.model_dump(mode="json", by_alias=True)["model"]
    assert default.model.added == {"channels", "positions", "loss"} < set(content)
    assert config_id(load_experiment("etth/lstm2lstm", ["data.name=etth1"])) == "5fd624d0aa88"
    for override in ("model.channels=independent", "model.positions=true", "model.loss=mae"):
        assert config_sha256(load_experiment("etth/lstm2lstm", [override])) != config_sha256(default)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.residual_block=2", ["override model.residual_block", "did you mean residual_blocks"]),
        ("modle.features=2", ["override modle", "did you mean model"]),
        ("train.stepz=2", ["override train.stepz", "did you mean steps"]),
        ("features=16", ["override features: unknown key; did you mean model.features?"]),
        ("steps=16", ["override steps: unknown key; did you mean train.steps or study.steps?"]),
        ("feature=16", ["did you mean model.features?"]),
        ("model.features=many", ["override model.features", "valid integer", "many"]),
        ("model.features=-1", ["override model.features", "greater than 0"]),
        ("optim.lr=.inf", ["override optim.lr", "finite"]),
        ("model.name=real_nvq", ["model.name", "did you mean real_nvp"]),
        ("kind=densty", ["kind", "density, forecast"]),
        ("evaluate.weights=ema", ["train.ema"]),
        ("features", ["KEY=VALUE"]),
        ("=3", ["KEY=VALUE"]),
    ],
)
def test_bad_overrides_are_named_with_the_nearest_key(experiment_file: Path, override: str, words: list[str]) -> None:
    message = refusal(experiment_file, override)
    for word in words:
        assert word in message


def test_a_wrong_key_in_the_file_names_file_and_key(experiment_file: Path) -> None:
    experiment_file.write_text(MINIMAL.replace("residual_blocks", "residual_block"))
    message = refusal(experiment_file)
    assert message.startswith(f"{experiment_file}: model.residual_block: unknown key; did you mean residual_blocks?")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "- a list",
        "a: [1, 2",
        "a: 1\na: 2",
        "x: &big [1, 2]\ny: [*big, *big]",
        "a: !!python/object/apply:os.system ['true']",
        "name: ${oc.env:HOME}",
        "\x00",
        "kind: density\nmodel: {name: [1]}",
    ],
)
def test_hostile_or_broken_yaml_is_one_clear_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    assert str(path) in refusal(path)


def test_missing_unreadable_and_huge_files_are_named(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert "UTF-8" in refusal(tmp_path / "binary.yaml")
    (tmp_path / "huge.yaml").write_text("#" * 2_000_000)
    assert "larger than" in refusal(tmp_path / "huge.yaml")


def test_unknown_experiment_names_the_nearest() -> None:
    assert "did you mean real_nvp/digits?" in refusal("real_nvp/digit")
    assert "no experiment named" in refusal("../../etc/passwd")


def test_the_last_part_of_a_name_offers_all_experiments_that_are_called_so() -> None:
    assert "; there are glow/digits, iafvae/digits, independent/digits, " in refusal("digits")


def test_another_models_name_over_a_file_is_told_whose_keys_those_are() -> None:
    message = refusal("real_nvp/digits", "model.name=glow")
    assert message.startswith("override model.name=glow: model.scales, ")
    assert "experiments/real_nvp/digits.yaml belong to real_nvp: start from an experiment of glow: " in message
    assert "glow/cifar10, " in message
    assert "real_nvp/" not in message.partition("start from")[2]
    # Where the file has no key of its own model's, nothing stands in the way.
    assert load_experiment("etth/nlinear", ["model.name=linear"]).model.name == "linear"


def test_one_of_two_lengths_and_sources(experiment_file: Path) -> None:
    assert load_experiment(experiment_file, ["train.epochs=3"]).train.steps is None
    both = yaml.safe_load(MINIMAL)
    both["train"] = {"epochs": 1, "steps": 1}
    experiment_file.write_text(yaml.safe_dump(both))
    assert "train.epochs or train.steps" in refusal(experiment_file)


@pytest.mark.parametrize("turn", [1, -1])
def test_a_null_clears_itself_and_no_other(experiment_file: Path, turn: int) -> None:
    length = load_experiment(experiment_file, ["train.epochs=null", "train.steps=3"][::turn]).train
    assert (length.epochs, length.steps) == (None, 3)
    data = load_experiment("etth/nlinear", ["data.name=null", "data.csv=mine.csv"][::turn]).data
    assert (data.name, data.csv) == (None, "mine.csv")
    assert load_experiment("etth/nlinear", ["data.csv=null"]).data.name == "etth1"
    for key, words in (("data.name", "data.name (a known set) or data.csv"), ("train.epochs", "train.epochs or")):
        assert words in refusal("etth/nlinear", f"{key}=null")


def test_both_of_two_lengths_in_overrides_are_refused_too(experiment_file: Path) -> None:
    for keys in (["train.steps=3", "train.epochs=3"], ["train.epochs=null", "train.steps=null"]):
        assert "give either train.epochs or train.steps" in refusal(experiment_file, *keys)


def test_experiments_are_frozen(experiment_file: Path) -> None:
    experiment = load_experiment(experiment_file)
    with pytest.raises(ValueError, match="frozen"):
        experiment.seed = 1


@pytest.mark.parametrize("name", ["../../elsewhere", "/etc/x", "a//b", "a/./b", "x" * 201])
def test_a_name_cannot_lead_out_of_the_runs(name: str) -> None:
    with pytest.raises(InputError, match="name"):
        load_experiment("real_nvp/digits", [f"name={name}"])


def test_a_seed_fits_every_generator() -> None:
    assert load_experiment("real_nvp/digits", [f"seed={2**31 - 1}"]).seed == 2**31 - 1
    with pytest.raises(InputError, match="seed"):
        load_experiment("real_nvp/digits", [f"seed={2**31}"])


def test_a_declared_unit_is_a_later_key_too() -> None:
    default = load_experiment("etth/linear")
    assert "unit" in default.data.added
    assert load_experiment("etth/linear", ["data.unit=kW"]).data.unit == "kW"
    with pytest.raises(InputError, match="unit"):
        load_experiment("etth/linear", ["data.unit=''"])


def test_lengths_follow_the_protocol_where_nothing_says_them(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    text = "name: mine\nkind: forecast\ndata: {{name: etth1{}}}\nmodel: {{name: nlinear}}\ntrain: {{epochs: 1}}\n"
    for added, expected in (
        ("", (336, 96)),
        (", protocol: report", (64, 24)),
        (", protocol: report, horizon: 8", (64, 8)),
    ):
        path.write_text(text.format(added))
        data = load_experiment(path).data
        assert (data.lookback, data.horizon) == expected
