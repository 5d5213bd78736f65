import resource
import subprocess
import sys

import pytest

STEPS = """
import resource, torch
from flowbench.system.memory import keep_freed_memory
if {kept}: keep_freed_memory()
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
