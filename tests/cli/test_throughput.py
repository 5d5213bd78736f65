"""`flowbench throughput` as people type it."""

import json
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from flowbench.__main__ import main

TINY = ["model.features=2", "model.residual_blocks=1", "model.scales=1"]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOWBENCH_TRACKING", "off")
    monkeypatch.setenv("FLOWBENCH_DATA", str(tmp_path / "none"))

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["flowbench", "throughput", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    return call


def test_run_compare_and_gate_from_end_to_end(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowbench.throughput.measurement.MIN_SAMPLE_SECONDS", 0.001)
    command = ["run", "real_nvp/digits", *TINY, "--passes", "forward,inverse", "--batch", "2", "--threads", "1"]
    code, out, _ = run(*command, "--repeats", "5", "--out", "a.json")
    assert (code, "floor ratio" in out, "written to a.json" in out) == (0, True, True)
    before = json.loads(Path("a.json").read_text())
    assert [result["pass"] for result in before["results"]] == ["forward", "inverse"]
    page = Path("results/throughput/report.html").read_text()
    assert page.count("real_nvp/digits model.features=2") >= 2
    assert "report: results/throughput/report.html" in out

    code, out, _ = run("compare", "a.json", "a.json", "--json")
    assert code == 0
    assert [change["ratios"]["floor_ratio"][0] for change in json.loads(out)] == [1, 1]
    assert run("gate", "a.json", "--baseline", "a.json")[::2] == (0, "")
    Path("forward.json").write_text(json.dumps({**before, "results": before["results"][:1]}))
    code, _, errors = run("gate", "forward.json", "--baseline", "a.json")
    assert (code, "not judged" in errors, "inverse" in errors) == (0, True, True)

    for result in before["results"][:1]:
        result["floor_ratio"]["samples"] = [2 * value for value in result["floor_ratio"]["samples"]]
        result["floor_ratio"]["median"] *= 2
    # Very even samples: this test is about the exit code, not about the noise of a tiny model.
    for content in (before, json.loads(Path("a.json").read_text())):
        for result in content["results"]:
            middle = result["floor_ratio"]["median"]
            result["floor_ratio"]["samples"] = [middle * (1 + 0.001 * place) for place in range(5)]
        Path("slow.json" if content is before else "even.json").write_text(json.dumps(content))
    assert "passed: 2 passes" in run("gate", "even.json", "--baseline", "even.json")[1]
    content["environment"]["device_name"] = "another one"
    Path("elsewhere.json").write_text(json.dumps(content))
    code, _, errors = run("gate", "even.json", "--baseline", "elsewhere.json")
    assert (code, "measured elsewhere: device name another one, now " in errors) == (0, True)
    code, _, errors = run("gate", "slow.json", "--baseline", "even.json")
    assert code == 1
    assert f"real_nvp/digits {' '.join(TINY)} forward, batch 2, precision 32: 100.0% slower" in errors
    assert "inverse" not in errors


@pytest.mark.slow
def test_mlflow_has_a_copy_with_the_overrides_in_the_names(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowbench.throughput.measurement.MIN_SAMPLE_SECONDS", 0.001)
    monkeypatch.setenv("FLOWBENCH_TRACKING", "on")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{Path('mlflow.db').absolute()}")
    command = ["run", "real_nvp/digits", *TINY, "--passes", "forward", "--batch", "2", "--threads", "1"]
    code, _, errors = run(*command, "--repeats", "5", "--out", "a.json")
    assert (code, "warning" in errors) == (0, False), errors
    client = MlflowClient(f"sqlite:///{Path('mlflow.db').absolute()}")
    experiment = client.get_experiment_by_name("throughput")
    assert experiment is not None
    (copy,) = client.search_runs([experiment.experiment_id])
    result = json.loads(Path("a.json").read_text())["results"][0]
    name = "real_nvp/digits model.features:2 model.residual_blocks:1 model.scales:1/forward/batch2-32"
    assert copy.data.metrics[f"{name}/floor_ratio"] == result["floor_ratio"]["median"]
    assert [artifact.path for artifact in client.list_artifacts(copy.info.run_id)] == ["a.json"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "real_nvp/digit"], "did you mean real_nvp/digits"),
        (["run", "model.features=2"], "at least one experiment"),
        (["run", "etth/linear"], "density models"),
        (["run", "real_nvp/digits", "--passes", "trian"], "did you mean train"),
        (["run", "real_nvp/digits", "--batch", "many"], "16,64"),
        (["run", "real_nvp/digits", "--batch", "016"], "without leading zeros"),
        (["run", "real_nvp/digits", "--out", "/proc/nowhere/a.json"], "/proc/nowhere"),
        (["run", "real_nvp/digits", "--out", "."], "--out .: cannot be written: it is a folder"),
        (["compare", "a.json", "b.json"], "a.json"),
        (["gate", "a.json", "--baseline", "b.json", "--max-slowdown", "much"], "5%"),
    ],
)
def test_a_mistake_is_one_line_that_says_the_way_out(run, arguments: list[str], words: str) -> None:
    code, _, errors = run(*arguments)
    lines = [line for line in errors.splitlines() if line.startswith("flowbench: ")]
    assert (code, len(lines)) == (2, 1), errors
    assert words in lines[0]
    assert not list(Path().iterdir())
