"""A run as TensorBoard's event files: the rows, the result and the settings, once each, whatever was cut."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from flowbench.cli.arguments import mirror_of
from flowbench.errors import InputError
from flowbench.tracking import events
from flowbench.tracking.events import EventCopy
from tests.tracking.tracked_runs import START, FakeRun


def read(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder / "tensorboard"))
    accumulator.Reload()
    return accumulator


def steps(accumulator: Any, name: str) -> list[int]:
    return [event.step for event in accumulator.Scalars(name)]


def test_rows_come_while_the_run_grows_and_result_settings_and_pictures_at_its_end(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run", "real_nvp/digits")
    copy = EventCopy(run.folder)
    run.rows(1, 3)
    copy.update()
    assert steps(read(run.folder), "train/bits_per_dim") == [1, 2, 3]
    run.rows(4, 6)
    run.finish(6)
    Image.new("RGB", (4, 4)).save(run.folder / "figures" / "samples.png")
    assert copy.finish() == str(run.folder / "tensorboard")
    found = read(run.folder)
    assert steps(found, "train/bits_per_dim") == [1, 2, 3, 4, 5, 6]
    (first, *_) = found.Scalars("train/bits_per_dim")
    assert (first.wall_time, first.value) == (pytest.approx(START + 1), pytest.approx(2.99))
    (final,) = found.Scalars("final/test/bits_per_dim")
    assert (final.step, final.value) == (6, pytest.approx(2.05))
    assert found.Tags()["images"] == ["figures/samples"]
    assert found.Tags()["tensors"] == ["settings/text_summary"]


def test_training_and_validation_share_a_chart(tmp_path: Path) -> None:
    from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

    run = FakeRun(tmp_path / "run", "real_nvp/digits")
    row = {"step": 1, "epoch": 0, "time": START, "train/bits_per_dim": 3.0, "train/loss": 2.0}
    rows = [row, {"step": 1, "epoch": 0, "time": START, "validation/bits_per_dim": 3.1}]
    (run.folder / "metrics.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in rows))
    run.finish(1)
    EventCopy(run.folder).finish()
    (event,) = read(run.folder).Tensors("custom_scalars__config__")
    (category,) = Layout.FromString(event.tensor_proto.string_val[0]).category
    assert category.title == "training and validation"
    ((title, tags),) = [(chart.title, list(chart.multiline.tag)) for chart in category.chart]
    assert (title, tags) == ("bits_per_dim", ["train/bits_per_dim", "validation/bits_per_dim"])


def test_rows_that_a_resumed_training_cut_are_gone_and_none_is_there_twice(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run", "real_nvp/digits")
    run.rows(1, 6)
    first = EventCopy(run.folder)
    first.update()
    run.cut(2)
    run.rows(3, 4)
    first.update()
    assert steps(read(run.folder), "train/bits_per_dim") == [1, 2, 3, 4]
    first.close()
    run.rows(5, 7)
    EventCopy(run.folder).finish()  # by the process of a later call
    assert steps(read(run.folder), "train/bits_per_dim") == [1, 2, 3, 4, 5, 6, 7]


def test_without_the_package_the_way_to_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"pip install 'flowbench\[tensorboard\]'"):
        mirror_of("tensorboard")
