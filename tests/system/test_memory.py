import os
import resource
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from flowbench.system import memory as module
from flowbench.system.memory import available_memory, has_room

STEPS = """
import resource, torch
from flowbench.system.device import default_device
if {kept}: default_device()
def step():
    tensors = [torch.ones(1_000_000) for _ in range(20)]
    return sum(float(tensor[0]) for tensor in tensors)
step(); step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_the_next_step_takes_what_the_last_one_freed() -> None:
    def faults(kept: bool) -> int:
        done = subprocess.run(
            [sys.executable, "-c", STEPS.format(kept=kept)], capture_output=True, text=True, check=True
        )
        return int(done.stdout)

    pages = 20 * 4_000_000 // resource.getpagesize()
    assert faults(kept=True) < pages / 4


def test_a_container_may_take_no_more_than_its_share(tmp_path: Path) -> None:
    free = psutil.virtual_memory().available
    assert available_memory(tmp_path) == pytest.approx(free, rel=0.2)
    (tmp_path / "memory.current").write_text("7000\n")
    (tmp_path / "memory.stat").write_text("anon 5000\ninactive_file 2000\n")
    for limit, expected in (("10000", 5000), ("4000", 0)):
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        assert available_memory(tmp_path) == expected
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory(tmp_path) == pytest.approx(free, rel=0.2)


def test_there_is_room_for_what_running_processes_still_take_and_a_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "available_memory", lambda: 1000)
    taken = {1: 500, 2: 800}
    monkeypatch.setattr(module, "_taken", taken.__getitem__)
    assert has_room({1: 900, 2: 900}, 500)  # 400 and 100 still to come
    assert not has_room({1: 900, 2: 900}, 501)
    assert has_room({1: 100}, 1000)  # it has taken more than was thought: nothing is given back
    assert not has_room({1: 100}, 1001)
    monkeypatch.undo()
    assert module._taken(os.getpid()) > 2**20
    assert module._taken(2**30) == 0
