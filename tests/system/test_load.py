import os

import pytest

from flowbench.system.load import busy


@pytest.mark.parametrize(
    ("load", "cores", "threads", "said"),
    [
        (0.2, 1, 1, None),  # what runs in the background everywhere
        (1.0, 4, 2, None),
        (4.0, 4, 1, None),
        (4.0, 4, 2, "load 4.0 on 4 cores"),
        (9.6, 2, 1, "load 9.6 on 2 cores"),
        (1.4, 1, 1, "load 1.4 on 1 core"),
    ],
)
def test_a_machine_is_busy_where_threads_outnumber_its_cores(
    load: float, cores: int, threads: int, said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert busy(threads) == said


def test_where_nobody_knows_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> None:
        raise OSError

    monkeypatch.setattr(os, "getloadavg", unknown)
    assert busy(1000) is None
