import json
import re
from pathlib import Path
from typing import Any

import pytest

from flowbench.errors import InputError
from flowbench.report import build_from
from flowbench.report.throughput_section import is_throughput


def stored(path: Path, commit: str, ratio: float = 1.4, device: str = "A test's processor") -> Path:
    def interval(median: float) -> dict[str, Any]:
        return {"median": median, "low": 0.9 * median, "high": 1.1 * median, "samples": [median] * 3}

    common = {"batch": 16, "precision": 32, "compiled": False, "parameters": 6_000_000, "flops_per_image": 2.5e9}
    results = [
        {
            "experiment": name,
            "pass": kind,
            **common,
            "images_per_second": interval(12.34),
            "floor_ratio": interval(ratio),
        }
        | {"peak_memory_bytes": 1.5e9}
        for name in ("real_nvp/cifar10", "glow/cifar10")
        for kind in ("train", "forward")
    ]
    environment = {"device": "cpu", "device_name": device, "threads": 1, "commit": commit * 20}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"schema": 1, "environment": environment, "results": results}))
    return path


def test_one_file_is_a_table_with_intervals_and_a_plot(tmp_path: Path) -> None:
    page = build_from([str(stored(tmp_path / "a.json", "ab"))], tmp_path / "page")
    text = page.read_text()
    assert "12.3</span><small>11.1 to 13.6" in text
    assert "1.40</span><small>1.26 to 1.54" in text
    assert "A test&#39;s processor, 1 thread, commit abababa" in text
    assert sorted(path.name for path in (page.parent / "plots").iterdir()) == ["table-cost.pdf", "table-cost.svg"]
    assert "real_nvp/cifar10" in (page.parent / "table.csv").read_text()


def test_several_commits_have_a_history_and_each_device_its_own(tmp_path: Path) -> None:
    for place, commit in enumerate("abc"):
        stored(tmp_path / "cpu" / f"{place}.json", commit * 2, 1.5 - place / 10)
    stored(tmp_path / "gpu" / "0.json", "aa", 2.0, device="Another one")
    page = build_from([str(tmp_path)], tmp_path / "page" / "index.html")
    text = page.read_text()
    history, cost = "History over the stored commits", "Time of each pass over that of its own convolutions"
    described = [alt for alt in re.findall(r'alt="([^"]*)"', text) if alt.startswith((history, cost))]
    devices = ("A test&#39;s processor, 1 thread", "Another one, 1 thread")
    assert sorted(described) == [f"{history}, on {devices[0]}", *(f"{cost}, on {device}" for device in devices)]
    # The newest file fills the table.
    assert "1.30" in text


def test_files_of_one_commit_are_one_measurement_unless_they_repeat_a_pass(tmp_path: Path) -> None:
    stored(tmp_path / "0.json", "ab", 1.6)
    content = json.loads(stored(tmp_path / "1.json", "ab", 1.7).read_text())
    content["results"] = [{**entry, "experiment": "nice/cifar10"} for entry in content["results"][:2]]
    (tmp_path / "1.json").write_text(json.dumps(content))
    page = build_from([str(tmp_path)], tmp_path / "page")
    table = (page.parent / "table.csv").read_text()
    assert [table.count(name) for name in ("real_nvp/cifar10", "glow/cifar10", "nice/cifar10")] == [2, 2, 2]
    assert not list((page.parent / "plots").glob("*history*"))
    stored(tmp_path / "2.json", "ab", 1.2)  # measured again, as after a change that is not committed
    page = build_from([str(tmp_path)], tmp_path / "again")
    table = (page.parent / "table.csv").read_text()
    assert [table.count(ratio) for ratio in (",1.2,", ",1.6,", ",1.7,")] == [4, 0, 0]
    assert len(list((page.parent / "plots").glob("*history.svg"))) == 1


def test_the_precisions_of_a_pass_stand_below_each_other(tmp_path: Path) -> None:
    stored(tmp_path / "0.json", "ab")
    content = json.loads(stored(tmp_path / "1.json", "ab").read_text())
    content["results"] = [{**entry, "precision": "bf16"} for entry in content["results"]]
    (tmp_path / "1.json").write_text(json.dumps(content))
    lines = (build_from([str(tmp_path)], tmp_path / "page").parent / "table.csv").read_text().splitlines()[1:]
    wanted = [
        f"{name},{kind},16,{precision}"
        for name in ("real_nvp/cifar10", "glow/cifar10")
        for kind in ("train", "forward")
        for precision in ("32", "bf16")
    ]
    assert [",".join(line.split(",")[:4]) for line in lines] == wanted


def test_other_json_is_not_taken_for_throughput(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text('{"schema": 1}')
    assert not is_throughput(tmp_path)
    (tmp_path / "bad.json").write_text('{"environment": {}, "floor_ratio": ')
    with pytest.raises(InputError, match=r"bad\.json: not a throughput file .*make one with flowbench throughput run"):
        build_from([str(tmp_path)], tmp_path / "page")
