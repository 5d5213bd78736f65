import json
from pathlib import Path

import pytest

from flowbench.errors import InputError
from flowbench.runs.kept import CURVE_POINTS, KeptRun, kept_run, thinned_curve, write_kept_runs


def test_runs_come_back_and_share_their_environment(tmp_path: Path) -> None:
    config, environment = {"name": "a\u2028b", "optim": {"lr": 1e-8}}, {"python": "3", "data": {"mean": [0.1]}}
    runs = {name: KeptRun(config, environment, {"seed": 1}, {"train/mae": [[1, 0.5]]}) for name in ("b", "a")}
    write_kept_runs(tmp_path / "runs.jsonl", runs)
    assert {name: kept_run(tmp_path / "runs" / name) for name in runs} == runs
    assert list(kept_run(tmp_path / "runs" / "a").config) == ["name", "optim"]
    lines = (tmp_path / "runs.jsonl").read_text().splitlines()
    assert [json.loads(line).get("run") for line in lines] == [None, "a", "b"]
    assert kept_run(tmp_path / "runs" / "c") is None
    assert kept_run(tmp_path / "elsewhere" / "a") is None
    # Written anew, it is read anew.
    write_kept_runs(tmp_path / "runs.jsonl", {"a": KeptRun(config, environment, {"seed": 12}, {})})
    assert kept_run(tmp_path / "runs" / "a").result == {"seed": 12}


@pytest.mark.parametrize("line", ["{", "[]", '{"run": "a", "environment": "none", "config": {}}', "3"])
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "runs.jsonl").write_text(f'{{"environment": "x", "content": {{}}}}\n{line}\n')
    with pytest.raises(InputError, match=r"runs\.jsonl: line 2 is no kept run"):
        kept_run(tmp_path / "runs" / "a")


@pytest.mark.parametrize(("trained", "validated"), [(0, 0), (1, 1), (150, 50), (151, 50), (5000, 16), (5000, 5000)])
def test_a_curve_keeps_its_ends_and_few_points(trained: int, validated: int) -> None:
    rows = [{"step": step, "train/mae": 1 / (step + 1)} for step in range(trained)]
    rows += [{"step": 3 * step, "validation/mae": 1 / (step + 1), "train/mae": None} for step in range(validated)]
    curve = thinned_curve(rows, ["train/mae", "validation/mae"])
    points = {key: curve.get(key, []) for key in ("train/mae", "validation/mae")}
    assert sum(map(len, points.values())) == min(CURVE_POINTS, trained + validated)
    if validated <= CURVE_POINTS // 2:  # all of those that a plot marks
        assert len(points["validation/mae"]) == validated
    for key, of in points.items():
        whole = [row for row in rows if row.get(key) is not None]
        assert [step for step, _ in of] == sorted({step for step, _ in of})
        if whole:
            assert (of[0][0], of[-1][0]) == (whole[0]["step"], whole[-1]["step"])
            values = {row["step"]: row[key] for row in whole}
            assert all(value == pytest.approx(values[step], rel=1e-4) for step, value in of)
    assert thinned_curve(rows, ["train/mae", "validation/mae"]) == curve
    assert thinned_curve(rows, []) == {}
