"""Numbers that YAML 1.1 reads otherwise than they look are refused; texts that look like numbers stay texts."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowbench.config.experiments import load_experiment
from flowbench.config.yaml_files import dump, read_mapping
from flowbench.errors import InputError
from flowbench.tables.table import load_table
from flowbench.tuning.space import check_space

ODD = [
    "010", "0100", "+010", "-010", "00", "0_10", "1_0", "10_000", "1__0", "0x10", "-0x1f", "0b11", "1:30", "+1:30",
    "190:20:30", "1:30.5", "1:30:00.0", "01.5", "010e1", "1_0e3", "0.1_0", '!!int "010"', "!!int 010", '!!float "010"',
]  # fmt: skip
"""What YAML 1.1, as OmegaConf reads it, takes for a number."""
UNREADABLE = ["08", "09", "0o10", "1:75", "01:30", '"10"', "٣"]
"""What it takes for text: refused where a number should be."""
PLAIN = {
    "0": 0, "10": 10, "-3": -3, "+5": 5, "1e3": 1000.0, "1E3": 1000.0, "1e-05": 1e-5, "1.5e-05": 1.5e-5, ".5": 0.5,
    "5.": 5.0, "-0.25": -0.25, "1.0e+03": 1000.0, "0e0": 0.0, ".inf": float("inf"),
}  # fmt: skip
TEXTS = ['"010"', "'1:30'", "010.csv", "a/010", "2024-01-01", "0123abc", "12:30.csv", "!!str 010", '"1e3"', '"0x10"']


def refusal(path: Path | str, *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        load_experiment(path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("written", ODD)
def test_an_odd_number_is_refused_in_files_and_overrides_with_key_and_way_out(tmp_path: Path, written: str) -> None:
    path = tmp_path / "odd.yaml"
    for content, key in ((f"a: {{b: {written}}}", "a.b"), (f"a:\n- 1\n- [2, {written}]", "a.1.1")):
        path.write_text(content)
        with pytest.raises(InputError, match="write the number without leading zeros") as caught:
            read_mapping(path, "a file")
        assert str(caught.value).startswith(f"{path}: {key}: ")
    for override, key in (
        (f"seed={written}", "seed"),
        (f"optim={{lr: {written}}}", "optim.lr"),
        (f"optim.betas=[0.9, {written}]", "optim.betas.1"),
        (f"tune={{model.features: {{int: [1, {written}]}}}}", "tune.model.features.int.1"),
    ):
        message = refusal("real_nvp/digits", override)
        assert message.startswith(f"override {key}: ")
        assert "(10, not 010)" in message


@pytest.mark.parametrize("written", UNREADABLE)
def test_what_yaml_takes_for_text_is_no_number_either(written: str) -> None:
    for override in (f"seed={written}", f"optim.lr={written}", f"tune={{model.features: {{int: [1, {written}]}}}}"):
        assert "write plain decimal digits (10, not 010), without quotes" in refusal("real_nvp/digits", override)


def test_a_searched_choice_that_is_no_plain_number_is_refused() -> None:
    for written in ("08", "0o10"):
        overrides = [f"tune={{model.features: {{categorical: [{written}, 16]}}}}"]
        with pytest.raises(InputError, match=r"model\.features"):
            check_space("real_nvp/digits", overrides, load_experiment("real_nvp/digits", overrides))


@pytest.mark.parametrize("written", PLAIN)
def test_a_plain_number_is_what_it_was(tmp_path: Path, written: str) -> None:
    (tmp_path / "plain.yaml").write_text(f"a: [{written}]")
    assert read_mapping(tmp_path / "plain.yaml", "a file") == {"a": [PLAIN[written]]}


@pytest.mark.parametrize("written", TEXTS)
def test_a_text_that_looks_like_a_number_stays_text_and_comes_back_from_a_runs_config(
    tmp_path: Path, written: str
) -> None:
    expected = written.removeprefix("!!str ").strip("\"'")
    experiment = load_experiment("etth/nlinear", [f"data.csv={written}"])
    assert experiment.data.csv == expected
    (tmp_path / "config.yaml").write_text(dump({"csv": expected}))
    assert read_mapping(tmp_path / "config.yaml", "a file") == {"csv": expected}


@given(st.text("0123456789_:.eEx+-", min_size=1, max_size=8))
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "back.yaml"
    path.write_text(dump({"text": text, "list": [text]}))
    assert read_mapping(path, "a file") == {"text": text, "list": [text]}


def test_tables_and_their_overrides_are_read_by_the_same_rule(tmp_path: Path) -> None:
    head = "table: mine\ntitle: t\ndescription: d\nrows:\n- row: r\n  dataset: digits\n  metric: bits_per_dim\n"
    entry = "  split: test\n  experiments:\n  - {name: real_nvp/digits, "
    (tmp_path / "mine.yaml").write_text(f"{head}{entry}seeds: [0, 010]}}\n")
    with pytest.raises(InputError, match=r"mine\.yaml: rows\.0\.experiments\.0\.seeds\.1: 010 is not in plain decimal"):
        load_table(str(tmp_path / "mine.yaml"))
    (tmp_path / "mine.yaml").write_text(f"{head}{entry}overrides: [seed=010]}}\n")
    overrides = load_table(str(tmp_path / "mine.yaml")).rows[0].experiments[0].overrides
    assert "override seed: 010 is not in plain decimal digits" in refusal("real_nvp/digits", *overrides)


def test_keys_and_aliases_of_overrides_are_looked_at_once() -> None:
    assert "override tune.010: 010 is not in plain" in refusal("real_nvp/digits", "tune={010: {int: [1, 2]}}")
    bomb = "&a [x]"
    for name in "bcdefghijklmnopqrstuvwxyz":
        before = chr(ord(name) - 1)
        bomb = f"{bomb}, &{name} [*{before}, *{before}]"
    assert "cannot be applied" in refusal("real_nvp/digits", f"tune=[{bomb}]")
