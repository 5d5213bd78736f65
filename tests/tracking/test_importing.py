import json
import os
import shutil
from pathlib import Path

import pytest
from filelock import FileLock

from flowbench.errors import InputError, WorkFailedError
from flowbench.tracking import import_run, read_mlflow_run_id
from flowbench.tracking.copying import RunCopy
from tests.tracking.tracked_runs import FakeRun, Holdings, expected_rows


def test_everything_arrives_with_step_and_time(run: FakeRun, holdings: Holdings) -> None:
    run.rows(1, 2500)
    run.finish(2500)
    run_id = import_run(run.folder)
    copy = holdings.only(run.experiment)
    found = holdings.everything(copy)
    finals = {key: found.pop(key) for key in list(found) if key not in expected_rows(run)}
    assert found == expected_rows(run)
    assert {key: value for key, steps in finals.items() for value, _ in steps.values()} == {
        "test/bits_per_dim": 2.05,
        "test/bits_per_dim_stderr": 0.01,
        "test/bits_per_dim_n": 360,
        "test/odd_n": 3,
        "throughput/train_images_per_second": 100,
        "train_seconds": 12.5,
    }
    assert copy.info.run_id == run_id == read_mlflow_run_id(run.folder)
    assert copy.info.run_name == "run-1"
    assert copy.info.status == "FINISHED"


def test_config_source_and_data_are_told(run: FakeRun, holdings: Holdings) -> None:
    run.finish(0)
    import_run(run.folder)
    copy = holdings.only(run.experiment)
    assert copy.data.params["model.features"] == "32"
    assert copy.data.params["optim.betas"] == "[0.9, 0.999]"
    tags = copy.data.tags
    assert tags["mlflow.source.git.commit"] == "c0ffee"
    assert tags["flowbench.dirty"] == "true"
    assert tags["flowbench.budget"] == "quick"
    assert tags["flowbench.config_sha256"] == "d" * 64
    (data,) = copy.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("digits", "ab" * 16)
    assert tags["flowbench.data_fingerprint"] == "ab" * 32
    files = holdings.client.list_artifacts(copy.info.run_id)
    assert {file.path for file in files} == {"config.yaml", "environment.json", "figures", "result.json"}
    assert [file.path for file in holdings.client.list_artifacts(copy.info.run_id, "figures")] == [
        "figures/samples.png"
    ]


def test_a_second_import_adds_nothing(run: FakeRun, holdings: Holdings) -> None:
    run.rows(1, 30)
    run.finish(30)
    first = import_run(run.folder)
    before = holdings.everything(holdings.only(run.experiment))
    # Files that were copied elsewhere have other times.
    os.utime(run.folder / "result.json", (1, 1))
    assert import_run(run.folder) == first
    assert holdings.everything(holdings.only(run.experiment)) == before


@pytest.mark.parametrize("rows", [0, 5])
def test_a_lost_state_file_makes_no_second_copy(run: FakeRun, holdings: Holdings, rows: int) -> None:
    run.rows(1, rows)
    run.finish(rows)
    first = import_run(run.folder)
    (run.folder / "mlflow.json").unlink()
    assert import_run(run.folder) == first
    holdings.everything(holdings.only(run.experiment))


def test_a_failed_run_has_failed_until_it_goes_on(run: FakeRun, holdings: Holdings) -> None:
    run.rows(1, 5)
    run.fail("diverged")
    import_run(run.folder)
    assert holdings.only(run.experiment).info.status == "FAILED"
    (run.folder / "failure.json").unlink()
    import_run(run.folder)
    assert holdings.only(run.experiment).info.status == "KILLED"
    run.finish(5)
    import_run(run.folder)
    assert holdings.only(run.experiment).info.status == "FINISHED"


def test_rows_that_a_resumed_training_wrote_again_stand_once(run: FakeRun, holdings: Holdings) -> None:
    run.rows(1, 20)
    import_run(run.folder)
    assert holdings.only(run.experiment).info.status == "KILLED"
    run.cut(10)
    run.rows(11, 40, began=1_790_005_000.0)
    run.finish(40)
    import_run(run.folder)
    copy = holdings.only(run.experiment)
    history = holdings.history(copy, "train/bits_per_dim")
    assert {step: value for step, (value, _) in history.items()} == {step: 3 - step / 100 for step in range(1, 41)}
    assert copy.info.status == "FINISHED"


def test_two_runs_of_one_config_stay_two(run: FakeRun, holdings: Holdings, tmp_path: Path) -> None:
    other = FakeRun(tmp_path / "runs" / "run-2", run.experiment)
    for one, began in ((run, 1.79e9), (other, 1.8e9)):
        one.rows(1, 3, began=began)
        one.finish(3)
        import_run(one.folder)
    assert len(holdings.runs(run.experiment)) == 2


def test_a_deleted_copy_is_made_again(run: FakeRun, holdings: Holdings) -> None:
    run.rows(1, 3)
    run.finish(3)
    first = import_run(run.folder)
    holdings.client.delete_run(first)
    assert import_run(run.folder) != first
    assert len(holdings.everything(holdings.only(run.experiment))["train/bits_per_dim"]) == 3


def test_odd_values_and_names_break_no_batch(run: FakeRun, holdings: Holdings) -> None:
    values = {"a\\b<script>": 1.0, "a?b": 2.0, "a*b": 3.0, "../../up": 4.0, "flag": True, "word": "x", "": 5.0}
    run.rows(1, 2, **values, none=None, inf=float("inf"), nan=float("nan"), huge=10**400, long="y" * 10**5)
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('torn {"step"\n[]\n{"step": "7", "time": 1}\n{"step": 3}\n{"step": 3, "time": 1e400, "x": 1}\n')
        file.write('{"step": 4, "time": 1790000004, "good": 1}\n{"step": 5, "time": 1790000005, "torn": 1')
    run.finish(5)
    import_run(run.folder)
    found = holdings.everything(holdings.only(run.experiment))
    assert {value for key in found if key.startswith("a_b") for value, _ in found[key].values()} == {1.0, 2.0, 3.0}
    assert found["good"] == {4: (1.0, 1790000004000)}
    assert not {"flag", "word", "none", "inf", "nan", "huge", "long", "torn"} & set(found)


def test_links_out_of_the_folder_are_not_followed(run: FakeRun, holdings: Holdings, tmp_path: Path) -> None:
    run.finish(0)
    (tmp_path / "secret").write_text("secret")
    (run.folder / "figures" / "link.png").symlink_to(tmp_path / "secret")
    run_id = import_run(run.folder)
    assert [file.path for file in holdings.client.list_artifacts(run_id, "figures")] == ["figures/samples.png"]


@pytest.mark.parametrize(
    "written", ["{}", "[", '{"uid": "\' OR 1=1", "tracking_uri": "", "run_id": "", "x": 0}', "[" * 10**5]
)
def test_a_damaged_state_file_is_made_anew(run: FakeRun, holdings: Holdings, written: str) -> None:
    run.rows(1, 3)
    run.finish(3)
    (run.folder / "mlflow.json").write_text(written)
    assert import_run(run.folder) == read_mlflow_run_id(run.folder)
    assert len(holdings.runs(run.experiment)) == 1


@pytest.mark.parametrize(
    "written",
    ["name: [", "a: &a [1]\nb: *a", "name: a/b\nseed: 010", "- 1", "name: 3", "!!python/object/apply:os.abort []"],
)
def test_a_damaged_config_is_one_line(run: FakeRun, written: str) -> None:
    (run.folder / "config.yaml").write_text(written)
    with pytest.raises(InputError, match=r"config\.yaml") as caught:
        import_run(run.folder)
    assert "\n" not in str(caught.value)


def test_no_run_off_and_not_installed_are_told(run: FakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"no config\.yaml"):
        import_run(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
    monkeypatch.setenv("FLOWBENCH_TRACKING", "off")
    with pytest.raises(InputError, match="FLOWBENCH_TRACKING"):
        import_run(run.folder)
    monkeypatch.delenv("FLOWBENCH_TRACKING")
    monkeypatch.setattr("flowbench.tracking.importing.is_installed", lambda: False)
    with pytest.raises(InputError, match="not installed"):
        import_run(run.folder)


def test_an_unreachable_server_is_one_line_without_the_password(run: FakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    with pytest.raises(WorkFailedError, match="connection refused") as caught:
        import_run(run.folder)
    assert "secret" not in str(caught.value)
    assert not (run.folder / "mlflow.json").exists()


def test_the_state_file_names_no_password(run: FakeRun, holdings: Holdings) -> None:
    from flowbench.system.credentials import without_credentials

    assert without_credentials("postgresql://me:a@b@host:5/db") == "postgresql://host:5/db"
    run.finish(0)
    import_run(run.folder)
    assert set(json.loads((run.folder / "mlflow.json").read_text())) == {
        "uid",
        "tracking_uri",
        "run_id",
        "covered_bytes",
    }


def test_a_failure_in_the_middle_doubles_nothing(
    run: FakeRun, holdings: Holdings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    run.rows(1, 1500)
    run.finish(1500)
    honest, calls = MlflowClient.log_batch, []

    def lost_answer(client: MlflowClient, *arguments: object, **named: object) -> None:
        honest(client, *arguments, **named)
        if named.get("metrics"):
            calls.append(1)
            if len(calls) == 2:
                raise TimeoutError

    monkeypatch.setattr(MlflowClient, "log_batch", lost_answer)
    with pytest.raises(WorkFailedError, match="no answer in time"):
        import_run(run.folder)
    import_run(run.folder)
    assert holdings.everything(holdings.only(run.experiment)).items() >= expected_rows(run).items()


def test_a_copied_folder_is_the_same_run(run: FakeRun, holdings: Holdings, tmp_path: Path) -> None:
    run.rows(1, 3)
    run.finish(3)
    first = import_run(run.folder)
    shutil.copytree(run.folder, tmp_path / "elsewhere")
    assert import_run(tmp_path / "elsewhere") == first
    assert len(holdings.runs(run.experiment)) == 1


def test_one_process_at_a_time_copies_a_run(run: FakeRun, holdings: Holdings) -> None:
    run.finish(0)
    with FileLock(run.folder / ".mlflow.lock"), pytest.raises(InputError, match="another process is copying"):
        import_run(run.folder)
    assert holdings.runs(run.experiment) == []
    assert import_run(run.folder) == import_run(run.folder)


def test_a_deleted_experiment_is_told_with_the_way_out(run: FakeRun, holdings: Holdings) -> None:
    run.finish(0)
    import_run(run.folder)
    holdings.client.delete_experiment(holdings.only(run.experiment).info.experiment_id)
    with pytest.raises(InputError, match="mlflow experiments restore"):
        import_run(run.folder)


def test_an_experiment_of_any_name_is_just_a_name(holdings: Holdings, tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run ?#%é", f"<script>'\"%/{tmp_path.name}")
    run.rows(1, 2)
    run.finish(2)
    assert import_run(run.folder) == import_run(run.folder)
    copy = holdings.only(run.experiment)
    assert copy.info.run_name == "run ?#%é"
    assert [file.path for file in holdings.client.list_artifacts(copy.info.run_id, "figures")] == [
        "figures/samples.png"
    ]


def test_samples_of_the_machine_go_beside_the_rows(run: FakeRun, holdings: Holdings, store: str) -> None:
    copy = RunCopy(run.folder, holdings.client, store, live=True)
    copy.sample({"system/cpu_utilization_percentage": 50.0})
    copy.update()
    copy.update()
    copy.close()
    held = holdings.only(run.experiment)
    assert [value for value, _ in holdings.history(held, "system/cpu_utilization_percentage").values()] == [50.0]
