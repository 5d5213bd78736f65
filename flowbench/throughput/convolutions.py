"""The floor under a pass: its own convolutions and nothing else, replayed on the device that runs the pass."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Floor", "record"]

_CONVOLUTIONS = (torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default)
_LAYOUTS = (torch.channels_last, torch.contiguous_format)
_TRIALS = 3

# What tells one call from another: the operator and its arguments, tensors by shape and type.
_Call = tuple[Any, tuple[Any, ...]]


class Floor:
    """The convolutions of one pass, there and back as the pass has them, on random numbers.

    Calling it runs them all. Of channels-last and contiguous the layout that is faster here is used.

    Args:
        calls: how often each convolution occurs.
        device: where they run.
        synchronize: waits for the device.
        launching: makes of a function that launches the convolutions one that launches them as the pass launches its
            kernels (`Device.as_graph`); None: one by one. A floor that waits for Python is none.
    """

    def __init__(
        self,
        calls: Mapping[_Call, int],
        device: torch.device,
        synchronize: Callable[[], None],
        launching: Callable[[Callable[[], object]], Callable[[], object]] | None = None,
    ) -> None:
        self._run: Callable[[], object] | None = None
        if not calls:
            return

        def made(layout: torch.memory_format) -> Callable[[], object]:
            run = partial(_convolve, _tensors(calls, device, layout))
            return launching(run) if launching else run

        seconds = {}
        for layout in _LAYOUTS:
            self._run = made(layout)
            seconds[layout] = min(_seconds(self._run, synchronize) for _ in range(_TRIALS))
        best = min(_LAYOUTS, key=lambda layout: seconds[layout])
        if best != _LAYOUTS[-1]:
            self._run = made(best)

    def __bool__(self) -> bool:
        """Whether there is any convolution."""
        return self._run is not None

    def __call__(self) -> None:
        """Run every convolution as often as the pass does."""
        if self._run is not None:
            self._run()


def record(run: Callable[[], object]) -> Counter[_Call]:
    """Run a pass once, eagerly; return its convolutions with their counts."""
    recorder = _Recorder()
    with recorder:
        run()
    return recorder.calls


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: Counter[_Call] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in _CONVOLUTIONS:
            self.calls[func, tuple(_described(argument) for argument in args)] += 1
        return func(*args, **(kwargs or {}))


def _described(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        return tuple(argument.shape), argument.dtype
    return tuple(argument) if isinstance(argument, list) else argument


def _tensors(
    calls: Mapping[_Call, int], device: torch.device, layout: torch.memory_format
) -> list[tuple[Any, list[Any], int]]:
    """Return operators with arguments to call them on; equal tensors are shared, to take no more memory than needed."""
    made: dict[Any, Tensor] = {}

    def build(description: Any) -> Any:
        if not (isinstance(description, tuple) and len(description) == 2 and isinstance(description[1], torch.dtype)):
            return list(description) if isinstance(description, tuple) else description
        if description not in made:
            shape, dtype = description
            values = torch.rand(shape, dtype=dtype, device=device)
            made[description] = values.contiguous(memory_format=layout) if len(shape) == 4 else values
        return made[description]

    return [(operator, [build(one) for one in arguments], count) for (operator, arguments), count in calls.items()]


@torch.no_grad()
def _convolve(work: list[tuple[Any, list[Any], int]]) -> None:
    for operator, arguments, count in work:
        for _ in range(count):
            operator(*arguments)


def _seconds(run: Callable[[], object], synchronize: Callable[[], None]) -> float:
    synchronize()
    start = time.perf_counter()
    run()
    synchronize()
    return time.perf_counter() - start
