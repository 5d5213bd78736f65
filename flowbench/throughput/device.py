"""What timing needs of a device: to wait for it, a clock, and the most memory that was in use."""

import ctypes
import gc
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

__all__ = ["Device"]

_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


class Device:
    """A CPU or a CUDA device.

    Args:
        device: which one.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._cuda = device.type == "cuda"

    def synchronize(self) -> None:
        """Wait until all work that was given to the device is done."""
        if self._cuda:
            torch.cuda.synchronize(self.device)

    def time(self, run: Callable[[], object], loops: int = 1) -> tuple[float, float]:
        """Return the seconds that one of `loops` calls took: on the wall's clock, and of the device's own work.

        The device's own work is what its events say on CUDA. With one CPU thread it is the processor time of this
        process, user and system: what others do on the same cores does not count. With several threads it is the
        wall's clock again, as threads that wait for each other would count as working.
        """
        self.synchronize()
        if self._cuda:
            seconds = self._by_events(run, loops)
            return seconds, seconds
        began, worked = time.perf_counter(), time.process_time()
        for _ in range(loops):
            run()
        wall, work = time.perf_counter() - began, time.process_time() - worked
        return wall / loops, (work if torch.get_num_threads() == 1 else wall) / loops

    def _by_events(self, run: Callable[[], object], loops: int) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        for _ in range(loops):
            run()
        end.record()
        end.synchronize()
        milliseconds: float = start.elapsed_time(end)
        return milliseconds / 1000 / loops

    def as_graph(self, run: Callable[[], object]) -> Callable[[], object]:
        """Return a function that launches what `run` does as one CUDA graph; on a CPU `run` itself.

        Args:
            run: works on the same tensors at every call.
        """
        if not self._cuda:
            return run
        # Once before, on a stream of its own as torch asks: what libraries set up at a first call cannot be captured.
        aside = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(aside):
            run()
        torch.cuda.current_stream(self.device).wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        return graph.replay

    def peak_memory(self, run: Callable[[], object]) -> int | None:
        """Run once and return the most bytes in use at a time: torch's on CUDA, resident of this process on a CPU.

        Torch's are those it holds: what a CUDA graph computes with is never allocated when the graph is replayed.
        None where the system cannot tell: only Linux lets a process forget its earlier peak.
        """
        gc.collect()
        if self._cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
            run()
            self.synchronize()
            return int(torch.cuda.max_memory_reserved(self.device))
        _give_back_memory()
        try:
            _CLEAR_REFS.write_text("5")
        except OSError:
            run()
            return None
        run()
        lines = _STATUS.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def _give_back_memory() -> None:
    # What an earlier pass freed may still be resident, and would count as this one's.
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)
