import os
from pathlib import Path

import pytest

from flowbench.system.cores import cores


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="Linux binds processes to cores")
@pytest.mark.parametrize(
    ("quota", "expected"),
    [(None, 8), ("max 100000", 8), ("200000 100000", 2), ("50000 100000", 1), ("2000000 100000", 8)],
)
def test_a_container_has_its_share_of_the_cores(
    quota: str | None, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    if quota is not None:
        (tmp_path / "cpu.max").write_text(quota + "\n")
    assert cores(tmp_path / "cpu.max") == expected
